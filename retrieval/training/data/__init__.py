"""Training data: from any file to `TrainingExample`, checked, and back to FlagEmbedding's JSONL.

reading.py     `load_examples`: finds which format lies there
flag_jsonl.py  FlagEmbedding's JSONL, read and written
tables.py      pairs and triplets with named columns; their files: rows.py
judged.py      a training split in BEIR layout, and what `retrieval judge` was told
from_documents.py  pairs of titles and headings; headings that ask nothing: generic_headings.py
merging.py     examples of the same query become one
leaks.py       training queries that are an evaluation's, or nearly
split.py       a part held out that shares neither queries nor positives with the rest
prepare.py     all of that in one call, `retrieval train data`; what it says: prepare_report.py
"""
