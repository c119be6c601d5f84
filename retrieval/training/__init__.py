"""Training of both stages on one's own data: examples, hard negatives, fine-tuning, merging.

examples.py    `TrainingExample`: a query, passages that answer it and passages that do not
data/          from any file to examples, checked; FlagEmbedding's JSONL
near_duplicates.py  which texts say nearly the same
saving.py      the files and the model card of a folder that was trained or merged
merging/       one model from the weighted average of several: LM-Cocktail
"""
