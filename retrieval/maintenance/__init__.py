"""Maintenance of collections: everything besides indexing and searching.

export_import.py  export to a file, import from one, copy from store to store; parquet.py its format
backup.py         a consistent copy of a whole collection in one file, and back
documents.py      the documents of a collection, by id
doctor.py         whether a collection is sound, and how to correct what is wrong
ann_recall.py     what the approximate index misses
"""
