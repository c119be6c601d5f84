"""Files that are one text each: plain text and markdown → title, text, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.readers.files import decode
from retrieval.readers.front_matter import NotFrontMatter, split_front_matter
from retrieval.splitting.markdown_structure import find_headings


@dataclass(frozen=True, slots=True)
class Content:
    """What a file says. `text` is blank where it says nothing; `pages` as in `Document`.

    `failures` are parts that could not be read, `notes` what a user should know of the rest.
    """

    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pages: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_text(data: bytes, encoding: str | None) -> Content:
    """Plain text: the text as it is; nothing is taken for a title."""
    found = decode(data, encoding)
    return Content(found.text, notes=found.notes)


# --- markdown -------------------------------------------------------------------------------


def parse_markdown(data: bytes, encoding: str | None) -> Content:
    """Markdown: front matter to metadata; the title is its `title`, else the first `#` heading."""
    found = decode(data, encoding)
    text, notes = found.text, found.notes
    metadata: dict[str, Any] = {}
    try:
        metadata, text = split_front_matter(text)
    except NotFrontMatter as error:
        notes += (f"its front matter {error}; it was left in the text",)
    title = metadata.pop("title", "")
    if not isinstance(title, str):
        title = "" if isinstance(title, (dict, list)) else str(title)
    if not title:
        first = next(iter(find_headings(text)), None)
        title = first.text if first is not None and first.level == 1 else ""
    return Content(text, title, metadata, notes=notes)
