"""Which files are read, by their suffixes, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from retrieval.readers.code import LANGUAGES, parser_of
from retrieval.readers.docx import parse_docx
from retrieval.readers.epub import parse_epub
from retrieval.readers.html import parse_html
from retrieval.readers.mail import parse_mail
from retrieval.readers.markup import parse_rst, parse_tex
from retrieval.readers.notebook import parse_notebook
from retrieval.readers.pdf import parse_pdf
from retrieval.readers.pptx import parse_pptx
from retrieval.readers.spreadsheet import parse_xlsx
from retrieval.readers.text import Content, parse_markdown, parse_text

DOCUMENTS: Mapping[str, tuple[str, Callable[[bytes, str | None], Content]]] = {
    ".txt": ("text", parse_text),
    ".text": ("text", parse_text),
    ".rst": ("rst", parse_rst),
    ".tex": ("tex", parse_tex),
    ".md": ("markdown", parse_markdown),
    ".markdown": ("markdown", parse_markdown),
    ".mdx": ("markdown", parse_markdown),
    ".html": ("html", parse_html),
    ".htm": ("html", parse_html),
    ".xhtml": ("html", parse_html),
    ".eml": ("mail", parse_mail),
    ".ipynb": ("notebook", parse_notebook),
    **{suffix: ("code", parser_of(language)) for suffix, language in LANGUAGES.items()},
}
"""Suffix → what it is called in metadata, and its reader from the file's bytes."""
PACKAGES: Mapping[str, tuple[str, Callable[[BinaryIO], Content]]] = {
    ".pdf": ("pdf", parse_pdf),
    ".docx": ("docx", parse_docx),
    ".pptx": ("pptx", parse_pptx),
    ".xlsx": ("xlsx", parse_xlsx),
    ".xlsm": ("xlsx", parse_xlsx),
    ".epub": ("epub", parse_epub),
}
"""Likewise of files that are read part by part, and say themselves how their text is encoded."""
ROWS = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")
"""Of files with a document each row; a JSON file may be one document, too."""

READABLE = (
    "txt, rst, tex, md, html, pdf, docx, pptx, xlsx, epub, eml, ipynb, json, jsonl, csv, tsv, "
    "yaml, toml and source code"
)
NO_TEXT: Mapping[str, str] = {
    "html": "has no text in its main part",
    "docx": "has no text",
    "pptx": "has no text on its slides",
    "xlsx": "has no cells with values",
    "epub": "has no text in its chapters",
}
"""What is said of a file without text, by what it is called."""


def is_readable(path: Path) -> bool:
    """Whether files of that suffix are read."""
    return path.suffix.lower() in DOCUMENTS or path.suffix.lower() in (*PACKAGES, *ROWS)
