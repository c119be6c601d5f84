"""Text → token ids, with truncation counted.

tokenizer.py    `Tokenizer`: start here; files.py finds it in a model's folder
token_batch.py  ids laid out flat, with special tokens put around texts and pairs
cache.py        passages' ids, kept so that a passage is tokenised once
prefetch.py     the next texts are tokenised while the model runs
"""
