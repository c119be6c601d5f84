"""Files and docstrings → `Document`.

read.py             `read` (public: `read_documents`): the entry point, and checks of the source
reading.py          one run over a source: which file is read by what, ids, problems
walking.py          the files of a folder, in order; BEIR folders
opening.py          opens them, where asked only within some folders, links and races included
files.py            reading bytes, decoding
text.py             plain text, markdown and HTML → title, text, metadata (`Content`)
pdf.py              PDF; pdf_layout.py joins its placed lines to paragraphs
docx.py pptx.py     Word and PowerPoint; epub.py: EPUB; zip_limits.py opens such packages safely
blocks.py           pages and blocks → one text with offsets
jsonl_csv.py        JSONL, CSV and TSV: one document per row
stdlib_docs.py      the source "python-docs"; _stdlib_script.py collects it in a child process
"""
