"""Pages, slides and chapters → one text with the offsets at which they begin; words from print."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval._validate import without_surrogates
from retrieval.readers.files import MAX_FILE_BYTES, Unreadable

MAX_CHARACTERS = MAX_FILE_BYTES
"""Largest text of one document: as much as a text file of the largest size could hold."""

_SEPARATOR = "\n\n"
# Latin, Armenian and Hebrew ligatures; Arabic ones and letter forms; radicals that Chinese fonts
# give out for the characters they look like. Elsewhere NFKC would change what was written (x²).
_FORMS = re.compile("[\ufb00-\ufb4f\ufb50-\ufdff\ufe70-\ufefc⺀-⿕]+")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\ufeff\uffff]+")
_SOFT_MARKS = re.compile("[\u00ad\u2060\ufeff]")
# Bullets of the fonts Symbol and Wingdings, which have no Unicode characters.
_BULLETS = str.maketrans({"\uf0a7": "•", "\uf0b7": "•", "\uf0d8": "•", "\uf0fc": "•"})


def join_pages(texts: Iterable[str]) -> tuple[str, tuple[int, ...]]:
    """The pages' texts with a blank line between, and the offset at which each begins.

    Raises:
        Unreadable: together they are too long for one document.
    """
    parts: list[str] = []
    offsets: list[int] = []
    length = 0
    for text in texts:
        part = text.strip()
        # A page without text begins where the next one does.
        start = length + len(_SEPARATOR) if parts else 0
        offsets.append(start)
        if part:
            parts.append(part)
            length = start + len(part)
        if length > MAX_CHARACTERS:
            raise Unreadable(
                f"has more than {MAX_CHARACTERS // 2**20} Mi characters of text by page or part "
                f"{len(offsets)}, the most that is read as one document; split it"
            )
    return _SEPARATOR.join(parts), tuple(min(offset, length) for offset in offsets)


def clean(text: str) -> str:
    """Text without control and invisible characters, ligatures and letter forms spelt out.

    `\\ufffe` is kept: the PDF reader's mark for a hyphen at the end of a line.
    """
    if text.isascii() and text.isprintable():
        return text
    text = without_surrogates(text).translate(_BULLETS)
    text = _FORMS.sub(lambda found: unicodedata.normalize("NFKC", found.group()), text)
    return _CONTROLS.sub("", text)


def without_soft_marks(text: str) -> str:
    """Text without marks that only say where a line may or may not be broken."""
    return text if text.isascii() else _SOFT_MARKS.sub("", text)


def table_lines(rows: Iterable[Sequence[str]], *, has_head: bool) -> Iterator[str]:
    """Markdown's table, a line each row: cells keep their columns, empty ones too.

    Args:
        rows: each with as many cells, of one line each.
        has_head: whether the first names the columns.
    """
    for place, row in enumerate(rows):
        cells = (cell.replace("|", "\\|") for cell in row)
        yield "| " + " | ".join(cells) + " |"
        if place == 0 and has_head:
            yield "|" + " - |" * len(row)


def properties_of(core: Any) -> tuple[str, str]:
    """Title and author as an Office package's core properties give them."""
    title, author = (
        " ".join(clean(str(getattr(core, name, "") or "")).split()) for name in ("title", "creator")
    )
    return title, "" if author == "openpyxl" else author


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, heading, list item or table."""

    text: str
    is_item: bool = False


def join_blocks(blocks: Iterable[Block]) -> str:
    """Blocks with a blank line between, the items of a list one below the other."""
    parts: list[str] = []
    was_item = False
    for block in blocks:
        if parts:
            parts.append("\n" if was_item and block.is_item else _SEPARATOR)
        parts.append(block.text)
        was_item = block.is_item
    return "".join(parts)
