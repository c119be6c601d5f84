"""Training data: from any file to `TrainingExample`, checked, and back to FlagEmbedding's JSONL.

reading.py     `load_examples`: finds which format lies there
flag_jsonl.py  FlagEmbedding's JSONL, read and written
tables.py      pairs and triplets with named columns; their files: rows.py
judged.py      a training split in BEIR layout, and what `retrieval judge` was told
merging.py     examples of the same query become one
"""
