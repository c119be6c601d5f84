"""Which metadata fields hold values of more than one kind, that no filter finds all of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrieval.types import Document

_MOST_FIELDS = 500
_MOST_NAMED = 5


class FieldKinds:
    """Kinds of the values of each field, over the documents of a run."""

    def __init__(self) -> None:
        # field → kind → how many documents, and the first of them
        self._found: dict[str, dict[str, tuple[int, str]]] = {}

    def add(self, document: Document) -> None:
        """Note a document's fields."""
        for name, value in document.metadata.items():
            if name not in self._found and len(self._found) >= _MOST_FIELDS:
                continue
            own = self._found.setdefault(name, {})
            for kind in set(_kinds(value)):
                count, first = own.get(kind, (0, document.id))
                own[kind] = count + 1, first

    def notices(self) -> tuple[str, ...]:
        """A sentence for each field of several kinds; the others are counted."""
        mixed = {name: kinds for name, kinds in self._found.items() if len(kinds) > 1}
        said = [_sentence(name, kinds) for name, kinds in list(mixed.items())[:_MOST_NAMED]]
        if len(mixed) > _MOST_NAMED:
            said.append(f"{len(mixed) - _MOST_NAMED} more fields hold values of several kinds.")
        return tuple(said)


def _sentence(name: str, kinds: Mapping[str, tuple[int, str]]) -> str:
    ranked = sorted(kinds.items(), key=lambda item: -item[1][0])
    parts = [f"{kind} in {count:,} ({first})" for kind, (count, first) in ranked]
    return (
        f"The field {name} holds {' and '.join(parts)} of the documents: a filter compares with "
        "one kind at a time."
    )


def _kinds(value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield "true or false"
    elif isinstance(value, (int, float)):
        yield "numbers"
    elif isinstance(value, str):
        yield "text"
    elif isinstance(value, Mapping):
        yield "objects"
    elif isinstance(value, list):
        for one in value:
            yield from _kinds(one)
