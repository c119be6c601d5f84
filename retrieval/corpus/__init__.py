"""The corpus room: files and docstrings → `Document` (readers), `Document` → `Passage` (splitting).

readers.py      `read`: one file, a BEIR folder, a tree of files, or `python-docs`; ids, problems
files.py        walking a tree, reading bytes, decoding
formats.py      markdown, HTML and plain text → title, text, metadata
rows.py         JSONL, CSV and TSV: one document a row
python_docs.py  the standard library's documentation; docstrings.py collects it in a child process
structure.py    where headings, code fences, paragraphs, sentences and words begin
division.py     where the passages of one long document begin and end
splitting.py    `Splitter`, `passage_id`, `document_hash`
"""
