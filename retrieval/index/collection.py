"""What an index means, on whatever engine: `CollectionIndex` over a `PointStore`.

Everything that must not differ between engines is here: what may be written, which tenant's
passages a call sees, how results are ordered, how the legs of a hybrid search are joined, and
when a document counts as complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from retrieval.errors import InvalidBatch, InvalidInput
from retrieval.index.bm25 import Bm25Terms
from retrieval.index.copy_check import CopyCheck
from retrieval.index.filters import compile_delete_filter, compile_filter
from retrieval.index.payload import canonical_id
from retrieval.index.payload_fields import index_paths
from retrieval.index.payload_indexes import IndexedFields
from retrieval.index.point_store import PointData, PointStore
from retrieval.index.searcher import IndexSearcher, check_search
from retrieval.index.stored_passages import StoredPassages
from retrieval.index.tenants import Tenancy
from retrieval.index.upsert_checks import BatchCheck
from retrieval.types import (
    Candidate,
    DocumentState,
    FloatArray,
    Fusion,
    IndexQuery,
    IndexStatus,
    LexicalWeights,
    Manifest,
    Mode,
    Passage,
    Where,
)
from retrieval.types.closing import Closing

if TYPE_CHECKING:
    from qdrant_client.models import Filter

_POINTS_PAGE = 256
_BATCH = 500


class CollectionIndex(Closing):
    """A collection of passages; implements `retrieval.types.Index`.

    Not made directly: `EmbeddedIndex` and `ServerIndex` open one on their engine.
    """

    def __init__(
        self, points: PointStore, collection: str, manifest: Manifest, physical: str | None = None
    ) -> None:
        self._points = points
        self._collection = collection
        self._physical = collection if physical is None else physical
        self._manifest = manifest
        self._indexed = IndexedFields(index_paths(manifest.layout, manifest.storage))
        self._tenancy = Tenancy(manifest.layout.tenants)
        bm25 = Bm25Terms(manifest.bm25)
        self._check = BatchCheck(manifest.encoder.dimension, manifest.layout, bm25)
        self._passages = StoredPassages(points, self._tenancy)
        self._searcher = IndexSearcher(points, manifest, bm25)

    @property
    def collection(self) -> str:
        """The name the collection is searched by."""
        return self._collection

    @property
    def physical(self) -> str:
        """The version of the collection that this is: `docs@v1`, `docs@v2`."""
        return self._physical

    @property
    def manifest(self) -> Manifest:
        """What built the collection."""
        return self._manifest

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: FloatArray,
        *,
        lexical: Sequence[LexicalWeights] | None = None,
        token_vectors: Sequence[FloatArray] | None = None,
        tenant: str | None = None,
    ) -> None:
        """Write passages with their vectors (n, dimension); durable when it returns.

        A passage whose id is stored already (by this tenant) is replaced. The whole batch is
        checked before anything is written.

        Args:
            passages: n of them.
            vectors: float (n, dimension).
            lexical: n term weights of the encoder, where the layout has them.
            token_vectors: n arrays (tokens, d), where the layout has them.
            tenant: who owns them, where the collection has tenants.

        Raises:
            InvalidBatch: a passage or vector that must not be written; nothing was.
            InvalidInput: a tenant is missing or not expected.
            DiskFull: not enough space to write safely; what was acknowledged before is kept.
            StoreFault: the engine failed; parts of this batch may be written, and writing it
                again is safe.
        """
        owner = self._tenancy.check(tenant)
        points = self._check.points(passages, vectors, lexical, token_vectors, owner)
        if points:
            self._resume()
            self._points.write(points)

    def search(
        self,
        *,
        mode: Mode,
        limit: int,
        vector: FloatArray | None = None,
        text: str | None = None,
        lexical: LexicalWeights | None = None,
        token_vectors: FloatArray | None = None,
        where: Where | None = None,
        fusion: Fusion = Fusion(),  # noqa: B008  (frozen)
        refine: int | None = None,
        exact: bool = False,
        min_score: float | None = None,
        tenant: str | None = None,
    ) -> list[Candidate]:
        """`search_batch` for one query, given by its parts."""
        query = IndexQuery(vector, text, lexical, token_vectors)
        return self.search_batch(
            [query], mode=mode, limit=limit, where=where, fusion=fusion, refine=refine,
            exact=exact, min_score=min_score, tenant=tenant,
        )[0]  # fmt: skip

    def search_batch(
        self,
        queries: Sequence[IndexQuery],
        *,
        mode: Mode,
        limit: int,
        where: Where | None = None,
        fusion: Fusion = Fusion(),  # noqa: B008  (frozen)
        refine: int | None = None,
        exact: bool = False,
        min_score: float | None = None,
        tenant: str | None = None,
    ) -> list[list[Candidate]]:
        """The best `limit` passages of each query, best first, ties by id, ranks from 1.

        Scores are cosines (dense, to 6 decimals), BM25 scores or lexical products (sparse,
        lexical, to 5 decimals), sums of `fusion` over all legs (hybrid, each leg giving
        max(limit, 100) candidates), or MaxSim (with `refine`, to 5 decimals). A text without a
        single term, such as only stop words, has no sparse results.

        Args:
            queries: each with what the mode needs: `vector` for dense and hybrid, `text` for
                sparse and hybrid, `lexical` for lexical, and for hybrid where the collection
                stores it, `token_vectors` for `refine`.
            mode: dense, sparse, lexical or hybrid.
            limit: at least 1; fewer come back where fewer match.
            where: only passages that match; {} and None allow all.
            fusion: how hybrid legs are joined.
            refine: first-stage results, at least `limit`, that are re-ordered by MaxSim (Khattab
                and Zaharia 2020) over stored token vectors; the best `limit` of them come back.
            exact: compare with every vector instead of the approximate index.
            min_score: what scores lower is left out, before `refine`, on the mode's own scale.
            tenant: the owner of the passages that are searched, where the collection has tenants.

        Raises:
            InvalidInput: a missing or wrong argument.
            InvalidFilter: `where` cannot be understood, or asks for a field without an index where
                a server allows only indexed ones.
            LimitExceeded: a server gives fewer than `limit`, or `refine`, in one answer.
        """
        check_search(self._manifest, queries, mode, limit, fusion, refine)
        owner = self._tenancy.check(tenant)
        allowed = self._tenancy.narrow(self._compiled(where), owner)
        payloads: dict[str, dict[str, Any]] = {}
        found = self._searcher.search(
            queries, mode=mode, limit=int(limit), where=allowed, fusion=fusion, refine=refine,
            exact=exact, min_score=min_score, payloads=payloads,
        )  # fmt: skip
        payloads |= self._points.payloads(
            list({key for scored in found for key, _ in scored if key not in payloads})
        )
        # one that was deleted since it was found is left out
        return [
            [
                Candidate(self._passages.passage(key, payloads[key]), score, rank)
                for rank, (key, score) in enumerate(
                    (item for item in scored if item[0] in payloads), start=1
                )
            ]
            for scored in found
        ]

    def vectors(
        self, passage_ids: Sequence[str], *, tenant: str | None = None
    ) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by passage id; ids that are not stored are left out."""
        owner = self._tenancy.check(tenant)
        ids = {self._tenancy.point_id(canonical_id(i), owner): i for i in passage_ids}
        found = self._points.vectors(list(ids)) if ids else {}
        return {ids[key]: vector for key, vector in found.items()}

    def neighbours(
        self, passages: Sequence[Passage], width: int, *, tenant: str | None = None
    ) -> dict[str, tuple[tuple[Passage, ...], tuple[Passage, ...]]]:
        """By passage id, up to `width` passages of the same document before and after it.

        Passages of another version of the document (an update that was cut off) are left out.
        """
        return self._passages.neighbours(passages, width, self._tenancy.check(tenant))

    def delete_passages(self, passage_ids: Sequence[str], *, tenant: str | None = None) -> None:
        """Delete passages by id; ids that are not stored are skipped.

        Raises:
            InvalidBatch: an id is not a UUID; nothing was deleted.
        """
        owner = self._tenancy.check(tenant)
        ids = [
            self._tenancy.point_id(canonical_id(passage_id), owner)
            for passage_id in _texts(passage_ids, "passage_ids")
        ]
        with self._deleting():
            for start in range(0, len(ids), _BATCH):
                self._points.delete_ids(ids[start : start + _BATCH])
        if ids:
            self._points.check()

    def clear_leftovers(self, lengths: Mapping[str, int], *, tenant: str | None = None) -> None:
        """Before documents are written that are not stored: delete what copies may have of them.

        A run that was cut off may have left passages on a copy that is not seen from here. Nothing
        is asked where there is one copy of each passage.

        Args:
            lengths: by document id, how many passages it is going to have: those are replaced.
            tenant: whose documents they are, where the collection has tenants.
        """
        owner, copies = self._tenancy.check(tenant), self._points.copies
        if copies is None:
            return
        self._resume()
        for chosen in self._passages.beyond(lengths, owner):
            copies.clear(chosen)

    def delete_stale(
        self,
        passage_ids: Sequence[str],
        lengths: Mapping[str, int],
        *,
        tenant: str | None = None,
    ) -> None:
        """After documents were written anew: delete passages that they no longer have.

        Args:
            passage_ids: those that were seen.
            lengths: by document id, how many passages it has now; what any copy holds beyond
                goes, too, seen or not.
            tenant: whose documents they are, where the collection has tenants.
        """
        if self._points.copies is None:
            if passage_ids:
                self.delete_passages(passage_ids, tenant=tenant)
            return
        from qdrant_client import models

        owner = self._tenancy.check(tenant)
        ids = [self._tenancy.point_id(canonical_id(one), owner) for one in passage_ids]
        seen = [
            models.HasIdCondition(has_id=list(ids[start : start + _BATCH]))
            for start in range(0, len(ids), _BATCH)
        ]
        with self._deleting():
            for parts in zip_longest(seen, self._passages.beyond(lengths, owner)):
                either = [one for one in parts if one is not None]
                self._points.delete_matching(models.Filter(should=either))
        self._points.check()

    def delete_documents(self, document_ids: Sequence[str], *, tenant: str | None = None) -> None:
        """Delete all passages of documents; unknown documents are skipped, [] does nothing.

        Raises:
            InvalidInput: one text instead of a list of texts; nothing was deleted.
        """
        owner = self._tenancy.check(tenant)
        ids = _texts(document_ids, "document_ids")
        with self._deleting():
            for chosen in self._passages.document_filters(ids, owner):
                self._points.delete_matching(chosen)
        if ids:
            self._points.check()

    def delete_where(self, where: Where, *, tenant: str | None = None) -> int:
        """Delete every passage that matches, and say how many there were.

        Raises:
            InvalidFilter: `where` cannot be understood, or is empty and so would match all;
                nothing was deleted.
        """
        owner = self._tenancy.check(tenant)
        compiled = self._same(compile_delete_filter(where))
        chosen = self._tenancy.narrow(compiled, owner)
        assert chosen is not None
        with self._deleting():
            matching = self._points.count(chosen)
            if matching or self._points.copies is not None:  # others may have what this one lacks
                self._points.delete_matching(chosen)
        self._points.check()
        return matching

    def document_states(
        self, document_ids: Sequence[str] | None = None, *, tenant: str | None = None
    ) -> dict[str, DocumentState]:
        """What is stored of these documents, or of all; documents not stored are left out.

        Where passages are kept in several copies, all of them are asked.
        """
        owner = self._tenancy.check(tenant)
        self._resume()
        ids = None if document_ids is None else _texts(document_ids, "document_ids")
        found = self._passages.states(ids, owner)
        if ids is None or (ids and not found):
            self._points.check()
        return found

    def document_passages(
        self, document_ids: Sequence[str], *, tenant: str | None = None
    ) -> dict[str, tuple[Passage, ...]]:
        """All that is stored of these documents, by position; those not stored are left out.

        Of an update that was cut off, passages of both versions are there: `document_hash` tells
        them apart.

        Raises:
            InvalidInput: one text instead of a list of texts.
        """
        owner = self._tenancy.check(tenant)
        ids = _texts(document_ids, "document_ids")
        found = self._passages.of_documents(ids, owner)
        if not found and ids:
            self._points.check()
        return found

    def document_sources(self, *, tenant: str | None = None) -> Iterator[tuple[str, str]]:
        """(document id, source) of every passage that any copy has, a page at a time; documents
        repeat."""
        yield from self._passages.sources(self._tenancy.check(tenant))
        self._points.check()

    def passages(self, *, tenant: str | None = None) -> Iterator[Passage]:
        """Every passage, in id order (with tenants: of their stored ids), a page at a time."""
        yield from self._passages.all(self._tenancy.check(tenant))
        self._points.check()

    def count(self, where: Where | None = None, *, tenant: str | None = None) -> int:
        """How many passages there are, or how many match."""
        owner = self._tenancy.check(tenant)
        found = self._points.count(self._tenancy.narrow(self._compiled(where), owner))
        self._points.check()
        return found

    @property
    def copies(self) -> CopyCheck | None:
        """Compares the copies of passages; None where there is one of each."""
        copies = self._points.copies
        if copies is None:
            return None
        return CopyCheck(self._points, copies, self._passages, self._tenancy)

    def points(self) -> Iterator[PointData]:
        """Every point of every tenant with all its vectors, in id order, as one copy has it."""
        for page in self._points.points(_POINTS_PAGE):
            yield from page
        self._points.check()

    def agreed_points(self) -> Iterator[PointData]:
        """The same, of which all copies are the same.

        Raises:
            StoreFault: the copies of some differ; the message names documents.
        """
        check = self.copies
        yield from self.points() if check is None else check.points(self._physical)

    def write_points(self, points: Sequence[PointData]) -> None:
        """Write points that were read from a collection of the same manifest; durable then."""
        if points:
            self._resume()
            self._points.write(points)

    def optimize(self) -> None:
        """Build the approximate index over what has been written so far, where it pays."""
        self._points.optimize()

    def status(self) -> IndexStatus:
        """How the collection is doing, all tenants together."""
        return self._points.status()

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
        self._points.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._collection!r}, {self._manifest.encoder.model!r})"

    def _resume(self) -> None:
        """Before anything is written or judged: what an earlier writer could not see to its end."""
        if self._points.copies is not None:
            self._points.copies.resume()

    @contextlib.contextmanager
    def _deleting(self) -> Iterator[None]:
        self._resume()
        yield
        if self._points.copies is not None:
            self._points.copies.settle()

    def _compiled(self, where: Where | None) -> Filter | None:
        compiled = compile_filter(where)
        return None if compiled is None else self._same(compiled)

    def _same(self, compiled: Filter) -> Filter:
        """A filter that means the same on every engine, and that this one answers."""
        find = None if self._points.bounds.unindexed else self._passages.matching
        return self._indexed.same(compiled, find=find)


def _texts(values: Sequence[str], name: str) -> list[str]:
    # a str is a sequence of str too: "doc1" would quietly mean ["d", "o", "c", "1"]
    if isinstance(values, (str, bytes)) or not all(isinstance(value, str) for value in values):
        error = InvalidBatch if name == "passage_ids" else InvalidInput
        raise error(
            f"{name} is {values!r}, expected a list of texts",
            fix=f'Write {name}=["…"]. Nothing was deleted.',
        )
    return list(values)
