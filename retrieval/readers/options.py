"""How sources are read: encodings, columns, and which files of a folder."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from retrieval.errors import InvalidInput
from retrieval.readers.files import is_text_encoding

_KEYS = ("text", "title", "id")

ColumnsLike: TypeAlias = "Mapping[str, str | Sequence[str]]"
"""{"text": "body"}, or {"text": ["question", "answer"], "title": "subject", "id": "nr"}."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table, or fields of JSON Lines, a document is made of.

    Attributes:
        text: joined by blank lines, in this order; none takes the usual names.
        title, id: empty takes the usual names.
    """

    text: tuple[str, ...] = ()
    title: str = ""
    id: str = ""

    @classmethod
    def of(cls, given: ColumnsLike | None) -> Columns:
        """Checked, as callers give them.

        Raises:
            InvalidInput: another key, or a value that is no name.

        Example:
            >>> Columns.of({"text": ["question", "answer"]})
            Columns(text=('question', 'answer'), title='', id='')
        """
        if given is None:
            return cls()
        if not isinstance(given, Mapping) or not set(given) <= set(_KEYS):
            raise InvalidInput(
                f"columns is {given!r}, expected a mapping with the keys {', '.join(_KEYS)}",
                fix='Give it as {"text": "body", "id": "nr"}; several text columns as a list.',
            )
        found: dict[str, Any] = {}
        for key, value in given.items():
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, Sequence) or not all(
                isinstance(name, str) and name.strip() for name in names
            ):
                raise InvalidInput(
                    f"columns[{key!r}] is {value!r}, expected the name of a column",
                    fix="Give the name as the first line of the file has it.",
                )
            if key != "text" and len(names) != 1:
                raise InvalidInput(
                    f"columns[{key!r}] is {value!r}, expected one name", fix="Give one."
                )
            found[key] = tuple(names) if key == "text" else names[0]
        return cls(**found)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a source is read.

    Attributes:
        encoding: of text files without a byte order mark; None finds it.
        columns: of tables and JSON Lines.
        all_files: also what is left out of a folder otherwise: hidden files, packages, build
            folders, what .gitignore names.
        follow_links: also links that lead out of the folder.
    """

    encoding: str | None = None
    columns: Columns = Columns()
    all_files: bool = False
    follow_links: bool = False

    @classmethod
    def of(
        cls,
        encoding: str | None = None,
        columns: ColumnsLike | None = None,
        all_files: bool = False,
        follow_links: bool = False,
    ) -> ReadOptions:
        """Checked, as callers give them.

        Raises:
            InvalidInput: says which cannot be used.
        """
        named = isinstance(encoding, str) and is_text_encoding(encoding)
        if encoding is not None and not named:
            raise InvalidInput(
                f"Python knows no text encoding named {encoding!r}",
                fix="Use a name such as utf-8, latin-1, cp1252, gb18030 or shift_jis.",
            )
        for name, value in (("all_files", all_files), ("follow_links", follow_links)):
            if not isinstance(value, bool):
                raise InvalidInput(f"{name} is {value!r}, expected True or False", fix="Use one.")
        return cls(encoding, Columns.of(columns), all_files, follow_links)

    @property
    def codec(self) -> str | None:
        """Python's own name of the encoding: "utf-8" for "UTF8"."""
        return None if self.encoding is None else codecs.lookup(self.encoding).name

    def as_arguments(self) -> dict[str, Any]:
        """As `read` takes them."""
        columns = {key: getattr(self.columns, key) for key in _KEYS}
        return {
            "encoding": self.encoding,
            "columns": {key: value for key, value in columns.items() if value} or None,
            "all_files": self.all_files,
            "follow_links": self.follow_links,
        }

    @property
    def given(self) -> tuple[str, ...]:
        """Names of those that were given, for errors."""
        empty = ReadOptions()
        return tuple(
            name
            for name in ("encoding", "columns", "all_files", "follow_links")
            if getattr(self, name) != getattr(empty, name)
        )
