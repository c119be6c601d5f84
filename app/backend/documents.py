"""A document as it can be put together again from the passages that are stored of it."""

from __future__ import annotations

from collections.abc import Sequence

from app.types import StoredDocument
from retrieval.types import Passage

_OF_PASSAGES = ("page", "last_page")
"""Metadata that a passage has beside its document's: on which pages it stands."""


def put_together(document_id: str, stored: Sequence[Passage]) -> StoredDocument:
    """The document of these passages.

    Overlaps are taken once; what lay between two passages was blank, and is a newline. Of an
    update that was cut off, passages of two versions may be stored: then the one that is whole
    counts, else the one of which more is stored.

    Args:
        document_id: of the document.
        stored: all its passages, at least one, in any order.
    """
    versions: dict[tuple[str, int], dict[int, Passage]] = {}
    for passage in stored:
        version = versions.setdefault((passage.document_hash, passage.document_passages), {})
        version[passage.position] = passage
    (_, expected), chosen = max(
        versions.items(),
        key=lambda one: (len(one[1]) == one[0][1], sum(len(p.text) for p in one[1].values())),
    )
    passages = tuple(chosen[position] for position in sorted(chosen))
    first = passages[0]
    metadata = dict(first.metadata)
    if len(passages) > 1:
        # of one that is on several pages, each passage says its own
        for name in _OF_PASSAGES:
            if any(p.metadata.get(name) != first.metadata.get(name) for p in passages):
                metadata.pop(name, None)
    return StoredDocument(
        id=document_id,
        text=_text(passages),
        title=first.title,
        source=first.source,
        metadata=metadata,
        passages=passages,
        complete=len(passages) == expected,
    )


def _text(passages: Sequence[Passage]) -> str:
    parts: list[str] = []
    end: int | None = None
    for passage in passages:
        if end is None:
            parts.append(passage.text)
        elif passage.start > end:
            parts += ["\n", passage.text]
        else:
            parts.append(passage.text[end - passage.start :])
        end = passage.end if end is None else max(end, passage.end)
    return "".join(parts)
