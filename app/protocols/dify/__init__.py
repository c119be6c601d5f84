"""Dify's External Knowledge API.

`routes`: `/retrieval` with its schemas and errors. `conditions`: metadata conditions, as filters of
the index or as checks of passages. `values`: fields of passages, and when values are equal.
"""
