"""Passages as they are stored, read by document and page by page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from retrieval.errors import InvalidFilter
from retrieval.index.payload import METADATA, payload_to_passage
from retrieval.index.point_store import PointStore
from retrieval.index.tenants import PASSAGE_ID, Tenancy
from retrieval.types import DocumentState, Passage

if TYPE_CHECKING:
    from qdrant_client.models import Filter

_PAGE = 1_000
_BATCH = 500


class StoredPassages:
    """What a collection holds, read without a search.

    `owner` is the tenant of a call as `Tenancy.check` returned it: only that tenant's passages
    are read.
    """

    def __init__(self, points: PointStore, tenancy: Tenancy) -> None:
        self._points = points
        self._tenancy = tenancy

    def passage(self, key: str, payload: Mapping[str, Any]) -> Passage:
        """The passage of a stored point."""
        return payload_to_passage(self._tenancy.passage_id(key, payload), payload)

    def matching(self, where: Filter) -> Iterator[tuple[str, dict[str, Any]]]:
        """Stored ids and metadata of what a filter matches, whoever owns it."""
        return self._scroll([METADATA], where)

    def all(self, owner: str | None) -> Iterator[Passage]:
        """Every passage, in the order of the stored ids."""
        for key, payload in self._scroll(None, self._tenancy.narrow(None, owner)):
            yield self.passage(key, payload)

    def sources(self, owner: str | None) -> Iterator[tuple[str, str]]:
        """(document id, source) of every passage that any copy has; documents repeat."""
        owned, copies = self._tenancy.narrow(None, owner), self._points.copies
        fields = ["document_id", "source"]
        found = self._scroll(fields, owned) if copies is None else copies.seen(fields, owned)
        for _, payload in found:
            yield str(payload.get("document_id", "")), str(payload.get("source") or "")

    def of_documents(
        self, document_ids: Sequence[str], owner: str | None
    ) -> dict[str, tuple[Passage, ...]]:
        """The passages of documents, by position; documents that are not stored are left out."""
        found: defaultdict[str, list[Passage]] = defaultdict(list)
        for chosen in self.document_filters(document_ids, owner):
            for key, payload in self._scroll(None, chosen):
                passage = self.passage(key, payload)
                found[passage.document_id].append(passage)
        return {
            one: tuple(sorted(found[one], key=lambda passage: (passage.position, passage.id)))
            for one in dict.fromkeys(document_ids)
            if one in found
        }

    def neighbours(
        self, passages: Sequence[Passage], width: int, owner: str | None
    ) -> dict[str, tuple[tuple[Passage, ...], tuple[Passage, ...]]]:
        """By passage id, up to `width` passages of the same document before and after it."""
        if width < 1 or not passages:
            return {passage.id: ((), ()) for passage in passages}
        near: defaultdict[tuple[str, str], list[Passage]] = defaultdict(list)
        for found in self._near(passages, width, owner).values():
            near[found.document_id, found.document_hash].append(found)
        for group in near.values():
            group.sort(key=lambda passage: passage.position)
        neighbours = {}
        for one in passages:
            others = near[one.document_id, one.document_hash]
            first, last = one.position - width, one.position + width
            before = tuple(other for other in others if first <= other.position < one.position)
            after = tuple(other for other in others if one.position < other.position <= last)
            neighbours[one.id] = (before, after)
        return neighbours

    def _near(
        self, passages: Sequence[Passage], width: int, owner: str | None
    ) -> dict[str, Passage]:
        """By stored id, the passages around some others, and those themselves."""
        found: dict[str, Passage] = {}
        most = self._points.bounds.conditions
        # two conditions a passage, beside those of the tenant and of the collection itself
        size = len(passages) if most is None else max(1, (most - 2) // 2)
        try:
            for start in range(0, len(passages), size):
                around = self._tenancy.narrow(_around(passages[start : start + size], width), owner)
                for key, payload in self._scroll(None, around):
                    found[key] = self.passage(key, payload)
        except InvalidFilter:
            if self._points.bounds.conditions == most:
                raise
            return self._near(passages, width, owner)  # by what it turned out to be
        return found

    def states(
        self, document_ids: Sequence[str] | None, owner: str | None
    ) -> dict[str, DocumentState]:
        """What is stored of documents, or of all for None."""
        if document_ids is None:
            return self._states(self._tenancy.narrow(None, owner))
        states: dict[str, DocumentState] = {}
        for chosen in self.document_filters(document_ids, owner):
            states |= self._states(chosen)
        return states

    def document_filters(self, document_ids: Sequence[str], owner: str | None) -> Iterator[Filter]:
        """Filters that together match all passages of some documents, a few hundred in each."""
        from qdrant_client import models

        size = min(_BATCH, self._points.bounds.values or _BATCH)
        for start in range(0, len(document_ids), size):
            match = models.MatchAny(any=list(document_ids[start : start + size]))
            condition = models.FieldCondition(key="document_id", match=match)
            chosen = self._tenancy.narrow(models.Filter(must=[condition]), owner)
            assert chosen is not None
            yield chosen

    def beyond(self, lengths: Mapping[str, int], owner: str | None) -> Iterator[Filter]:
        """Filters that together match what documents have beyond their first so many passages."""
        from qdrant_client import models

        bounds = self._points.bounds
        size = min(_BATCH, bounds.values or _BATCH)
        by_length: defaultdict[int, list[str]] = defaultdict(list)
        for document, length in lengths.items():
            by_length[length].append(document)
        parts = [
            models.Filter(
                must=[
                    models.FieldCondition(
                        key="document_id", match=models.MatchAny(any=some[start : start + size])
                    ),
                    models.FieldCondition(key="position", range=models.Range(gte=length)),
                ]
            )
            for length, some in by_length.items()
            for start in range(0, len(some), size)
        ]
        # two conditions each, beside those of the tenant, of the collection itself and of ids
        together = _BATCH if bounds.conditions is None else max(1, (bounds.conditions - 3) // 2)
        for start in range(0, len(parts), together):
            either = models.Filter(should=list(parts[start : start + together]))
            chosen = self._tenancy.narrow(either, owner)
            assert chosen is not None
            yield chosen

    def _states(self, where: Filter | None) -> dict[str, DocumentState]:
        ids: defaultdict[str, set[str]] = defaultdict(set)
        versions: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
        sources: dict[str, str] = {}
        fields = ["document_id", "document_hash", "document_passages", "source"]
        if self._tenancy.kept:
            fields.append(PASSAGE_ID)
        differing: set[str] = set()
        for key, payload, agreed in self._judged(fields, where):
            document = str(payload.get("document_id", ""))
            if not agreed:
                differing.add(document)
            ids[document].add(self._tenancy.passage_id(key, payload))
            sources[document] = str(payload.get("source") or "")
            version = (payload.get("document_hash") or "", payload.get("document_passages") or 0)
            versions[document].add(version)
        states: dict[str, DocumentState] = {}
        for document, passage_ids in ids.items():
            content_hash, passages = next(iter(versions[document]))
            agreed = document not in differing
            whole = agreed and len(versions[document]) == 1 and len(passage_ids) == passages
            states[document] = DocumentState(
                content_hash=(content_hash or None) if whole else None,
                passage_ids=frozenset(passage_ids),
                source=sources[document],
                agreed=agreed,
            )
        return states

    def _judged(
        self, fields: list[str], where: Filter | None
    ) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Points that any copy has, and whether all copies have them alike."""
        copies = self._points.copies
        if copies is None:
            for key, payload in self._scroll(fields, where):
                yield key, payload, True
            return
        seen = copies.seen(fields, where)
        while page := list(islice(seen, _PAGE)):
            same = copies.agreed([key for key, _ in page], fields)
            for key, payload in page:
                yield key, same.get(key, payload), key in same

    def _scroll(
        self, fields: list[str] | None, where: Filter | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        after: str | None = None
        while True:
            page, after = self._points.scroll(fields, after, _PAGE, where)
            yield from page
            if after is None:
                return


def _around(passages: Sequence[Passage], width: int) -> Filter:
    from qdrant_client import models

    return models.Filter(
        should=[
            models.Filter(
                must=[
                    models.FieldCondition(
                        key="document_id", match=models.MatchValue(value=one.document_id)
                    ),
                    models.FieldCondition(
                        key="position",
                        range=models.Range(gte=one.position - width, lte=one.position + width),
                    ),
                ]
            )
            for one in passages
        ]
    )
