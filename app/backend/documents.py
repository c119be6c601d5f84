"""Documents as callers see them: written, deleted, and put together again from their passages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from app.backend.access import Access
from app.backend.calls import Calls
from app.backend.open_collections import OpenCollections
from app.backend.writes import Writing
from app.errors import NotHere
from app.types import Caller, StoredDocument
from retrieval import Document, IngestReport, TwoStageRetriever
from retrieval.types import Passage

_OF_PASSAGES = ("page", "last_page")
"""Metadata that a passage has beside its document's: the pages that it is on."""


class Documents:
    """The documents of the service's collections; `collection` None is the default one.

    Args:
        access: what callers may do.
        calls: admission and threads.
        opened: the collections that are open.
        writing: writes and deletes documents.
    """

    def __init__(
        self, access: Access, calls: Calls, opened: OpenCollections, writing: Writing
    ) -> None:
        self._access = access
        self._calls = calls
        self._opened = opened
        self._writing = writing

    async def upsert(
        self,
        caller: Caller,
        documents: Sequence[Document],
        *,
        collection: str | None = None,
        tenant: str | None = None,
    ) -> IngestReport:
        """Write documents; durable when it returns. Makes the collection where it is missing."""
        self._access.write(caller)
        name, owner = self._access.about(caller, collection, tenant)
        check = partial(self._access.manifest, caller, name)
        return await self._calls.write(
            caller,
            lambda: self._writing.upsert(list(documents), name, tenant=owner, check=check),
            name,
        )

    async def delete(
        self,
        caller: Caller,
        ids: Sequence[str],
        *,
        collection: str | None = None,
        tenant: str | None = None,
    ) -> tuple[str, ...]:
        """Delete documents; returns the ids of those that were stored."""
        self._access.write(caller)
        name, owner = self._access.about(caller, collection, tenant)
        check = partial(self._access.manifest, caller, name)
        return await self._calls.write(
            caller,
            lambda: self._writing.delete_documents(ids, name, tenant=owner, check=check),
            name,
        )

    async def get(
        self,
        caller: Caller,
        document_id: str,
        *,
        collection: str | None = None,
        tenant: str | None = None,
    ) -> StoredDocument:
        """One document.

        Raises:
            NotHere: it is not stored.
        """
        name, owner = self._access.about(caller, collection, tenant)

        def get() -> StoredDocument:
            def stored(retriever: TwoStageRetriever) -> dict[str, tuple[Passage, ...]]:
                self._access.manifest(caller, name, retriever.index.manifest)
                return retriever.index.document_passages([document_id], tenant=owner)

            passages = self._opened.ask(name, stored).get(document_id)
            if not passages:
                raise NotHere(
                    f"the collection {name!r} has no document {document_id!r}",
                    fix="Check its id; the hits of a search name their documents.",
                    what="document",
                )
            return put_together(document_id, passages)

        return await self._calls.other(caller, get, name)


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
