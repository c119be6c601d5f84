"""Checks of a caller's arguments, for callers that no type checker has checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeGuard

from retrieval.errors import InvalidInput
from retrieval.readers.options import ReadOptions
from retrieval.readers.stdlib_docs import SOURCE_NAME as PYTHON_DOCS
from retrieval.types import Document

AnySource: TypeAlias = "str | os.PathLike[str] | Iterable[Document]"
"""A file or folder, "python-docs", or documents."""


def is_path(source: AnySource) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is a file or folder."""
    return isinstance(source, (str, os.PathLike)) and source != PYTHON_DOCS


def check_reading(source: AnySource, reading: ReadOptions) -> None:
    """Refuse to say how files are read of a source that is text already.

    Raises:
        InvalidInput: says which source that is.
    """
    if reading.given and not is_path(source):
        what = "python-docs" if isinstance(source, str) else "documents"
        name = reading.given[0]
        raise InvalidInput(
            f"{name}={getattr(reading, name)!r} was given for {what}, which are text already",
            fix=f"Leave {name} out; it is for files.",
        )


def checked_documents(documents: Iterable[Document]) -> Iterator[Document]:
    """Documents that a program made.

    Raises:
        InvalidInput: says which one, which field and what it holds.
    """
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, Document):
            raise InvalidInput(
                f"document {number} is a {type(document).__name__}, expected a Document",
                fix="Make it with retrieval.Document(id=…, text=…).",
            )
        for name in ("id", "text", "title", "source"):
            value = getattr(document, name)
            if not isinstance(value, str):
                raise InvalidInput(
                    f"document {number} (id {document.id!r}) has the {name} {value!r}, expected "
                    "text (str)",
                    fix=f"Give it a {name} that is a str, or leave the document out. What was "
                    "acknowledged before is kept.",
                )
        if not isinstance(document.metadata, Mapping):
            raise InvalidInput(
                f"document {number} (id {document.id!r}) has the metadata "
                f"{document.metadata!r}, expected a mapping",
                fix="Give metadata as a dict of JSON values, or leave it out.",
            )
        yield document


def refuse_elsewhere(**options: tuple[Any, Any]) -> None:
    """Refuse options that choose a place or a model where a retriever is open already.

    Args:
        options: name → (what was given, what leaves it open).

    Raises:
        InvalidInput: names those that were given.
    """
    # Names without values: one of them may be a key.
    given = [
        name
        for name, (value, default) in options.items()
        if value is not default and not (isinstance(value, str) and value == default)
    ]
    if given:
        raise InvalidInput(
            f"{' and '.join(given)} was given besides a retriever that is open, which has its own "
            "index and its own encoder",
            fix="Leave it out, or give the collection by its name.",
        )
