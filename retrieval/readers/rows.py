"""A row of a table, or a line of JSON, → a document: which of its fields are id, title and text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retrieval._validate import is_blank, is_whole_number
from retrieval.readers.files import Unreadable
from retrieval.readers.options import Columns

ID_FIELDS = ("_id", "id", "doc_id", "document_id")
TEXT_FIELDS = ("text", "contents", "content", "page_content", "body", "passage")
QUESTION, ANSWER = "question", "answer"
EXPECTED = "text, content, page_content, body, passage, or question and answer"


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One row. `id` is the one given in it, or empty; `line` is where it starts, from 1."""

    line: int
    id: str
    text: str
    title: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of the fields that are text (joined in this order), title and id; empty for none."""

    text: tuple[str, ...]
    title: str
    id: str

    @classmethod
    def of(cls, names: Iterable[str], columns: Columns) -> Roles:
        """Which of the names there are have which role; those asked for have it in any case.

        Example:
            >>> Roles.of(["nr", "question", "answer"], Columns(id="nr"))
            Roles(text=('answer',), title='question', id='nr')
        """
        known = list(names)
        text = columns.text or tuple(_first(known, TEXT_FIELDS))
        title = columns.title or ("title" if "title" in known else "")
        if not text and {QUESTION, ANSWER} <= set(known):
            text, title = (ANSWER,), title or QUESTION
        own_id = columns.id or next(iter(_first(known, ID_FIELDS)), "")
        return cls(text, title, own_id)

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(filter(None, (*self.text, self.title, self.id)))


def row_of(fields: Mapping[str, Any], line: int, columns: Columns) -> DocumentRow:
    """id, text and title from their fields; every other field is metadata.

    Raises:
        Unreadable: there is no text, or a field is of another kind.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    roles = Roles.of(given, columns)
    title = _text(given, roles.title, "title").strip()
    texts = [_text(given, name, name) for name in roles.text if name in given]
    if not texts and not title:
        wanted = ", ".join(columns.text) or EXPECTED
        raise Unreadable(f"has no text field: found {_names(fields)}; expected {wanted}")
    text = texts[0] if len(texts) == 1 else "\n\n".join(filter(str.strip, texts))
    if "\0" in text or "\0" in title:
        raise Unreadable("has a NUL character, so it is not text")
    if is_blank(text):
        # In BEIR a document may be its title alone: what the encoder reads is the same.
        text, title = title, ""
    if is_blank(text):
        raise Unreadable("is empty: neither text nor title")
    nested = fields.get("metadata")
    rest = {**nested} if isinstance(nested, dict) else {}
    # what stands for an id or title in other rows is none of the metadata here
    known = {*roles.names, "title", *ID_FIELDS[:2], *(["metadata"] if rest or nested == {} else [])}
    rest |= {name: value for name, value in fields.items() if name not in known}
    return DocumentRow(line, _id(given, roles.id), text, title, rest)


def json_kind(value: object) -> str:
    """What JSON calls it: `an array`, `a string`, …"""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = ((list, "an array"), (str, "a string"), ((int, float), "a number"), (dict, "an object"))
    return next(name for kind, name in kinds if isinstance(value, kind))


def _first(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    return [one for one in wanted if one in names][:1]


def _text(fields: Mapping[str, Any], name: str, role: str) -> str:
    value = fields.get(name, "") if name else ""
    if isinstance(value, str):
        return value
    shown = f"a {role}" if role == "title" else f"a {name} field"
    raise Unreadable(f"has {shown} that is {json_kind(value)}, expected a string")


def _id(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name) if name else None
    if value is None or value == "":
        return ""
    if not is_whole_number(value) and not isinstance(value, str):
        raise Unreadable(
            f"has an {name} that is {json_kind(value)}, expected a string or whole number"
        )
    return str(value)


def _names(fields: Mapping[str, Any]) -> str:
    names = [repr(name) for name in fields]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no field"
