"""Training data: from any file to `TrainingExample`, and back to FlagEmbedding's JSONL.

flag_jsonl.py  FlagEmbedding's JSONL, read and written
"""
