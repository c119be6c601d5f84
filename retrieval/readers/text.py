"""Files that are one text each: plain text and markdown → title, text, metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.readers.files import decode
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
    return Content(decode(data, encoding))


# --- markdown -------------------------------------------------------------------------------

_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
_FIELD = re.compile(r"([A-Za-z_][\w .-]*):(?:[ \t]+(.*))?")


def parse_markdown(data: bytes, encoding: str | None) -> Content:
    """Markdown: front matter to metadata; the title is its `title`, else the first `#` heading."""
    text = decode(data, encoding)
    metadata: dict[str, Any] = {}
    found = _FRONT_MATTER.match(text)
    if found:
        fields = _front_matter(found.group(1))
        if fields is not None:
            metadata, text = fields, text[found.end() :]
    title = metadata.pop("title", "")
    if not title:
        first = next(iter(find_headings(text)), None)
        title = first.text if first is not None and first.level == 1 else ""
    return Content(text, str(title), metadata)


def _front_matter(block: str) -> dict[str, Any] | None:
    """Its plain `key: value` fields and lists; None where the block is not front matter.

    A subset of YAML on purpose: values stay text, as written; nested fields are left out.
    """
    fields: dict[str, Any] = {}
    key = ""
    for line in block.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        item = re.fullmatch(r"[ \t]*-[ \t]+(.*)", line)
        if item and key:
            before = fields.get(key)
            fields[key] = [*(before if isinstance(before, list) else []), _scalar(item.group(1))]
        elif line[0] in " \t":
            continue
        elif found := _FIELD.fullmatch(line):
            key = found.group(1).strip()
            value = (found.group(2) or "").strip()
            if value.startswith("[") and value.endswith("]"):
                fields[key] = [_scalar(part) for part in value[1:-1].split(",") if part.strip()]
            else:
                fields[key] = _scalar(value)
        else:
            return None
    return {name: value for name, value in fields.items() if value not in ("", "|", ">", [])}


def _scalar(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
