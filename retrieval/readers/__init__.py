"""The corpus room: files and docstrings → `Document` (readers), `Document` → `Passage` (splitting).

readers.py      `read`: one file, a BEIR folder, a tree of files, or `python-docs`; ids, problems
files.py        walking a tree, reading bytes, decoding
formats.py      `Content`; markdown, HTML and plain text → title, text, metadata
pdf.py          PDF; layout.py joins its placed lines to paragraphs
word.py         docx
slides.py       pptx
epub.py         EPUB
archives.py     zip packages, opened within bounds
pages.py        pages and blocks → one text with offsets; characters of print → letters
rows.py         JSONL, CSV and TSV: one document a row
python_docs.py  the standard library's documentation; docstrings.py collects it in a child process
structure.py    where headings, code fences, paragraphs, sentences and words begin
division.py     where the passages of one long document begin and end
splitting.py    `Splitter`, `passage_id`, `document_hash`
"""
