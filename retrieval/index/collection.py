"""What an index means, on whatever engine: `CollectionIndex` over a `PointStore`.

Everything that must not differ between engines is here: what may be written, how results are
ordered, how the two legs of a hybrid search are joined, and when a document counts as complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np

from retrieval.errors import InvalidBatch, InvalidInput, InvalidQuery
from retrieval.fusion import rrf
from retrieval.types import Candidate, DocumentState, FloatArray, Manifest, Mode, Passage, Where

from .filters import compile_delete_filter, compile_filter
from .payload import canonical_id, payload_to_passage
from .points import DENSE, SPARSE, PointStore, check_batch
from .ranking import DENSE_DECIMALS, SPARSE_DECIMALS, Scored, leading
from .sparse import Bm25Terms

if TYPE_CHECKING:
    from qdrant_client.models import Filter

LEG_LIMIT = 100
"""Candidates that each leg of a hybrid search gives at least."""

_PAGE = 1_000
_DELETE_BATCH = 500
_MANY = 1_000


class CollectionIndex:
    """A collection of passages; implements `retrieval.types.Index`.

    Not made directly: `EmbeddedIndex` and `ServerIndex` open one on their engine.
    """

    def __init__(self, points: PointStore, collection: str, manifest: Manifest) -> None:
        self._points = points
        self._collection = collection
        self._manifest = manifest
        self._bm25 = Bm25Terms(manifest.bm25)

    @property
    def collection(self) -> str:
        """The collection's name."""
        return self._collection

    @property
    def manifest(self) -> Manifest:
        """What built the collection."""
        return self._manifest

    def upsert(self, passages: Sequence[Passage], vectors: FloatArray) -> None:
        """Write passages with their vectors (n, dimension); durable when it returns.

        A passage whose id is stored already is replaced. The whole batch is checked before
        anything is written.

        Raises:
            InvalidBatch: a passage or vector that must not be written; nothing was.
            DiskFull: not enough space to write safely; what was acknowledged before is kept.
            StoreFault: the engine failed; parts of this batch may be written, and writing it
                again is safe.
        """
        points = check_batch(passages, vectors, self._manifest.encoder.dimension, self._bm25)
        if points:
            self._points.write(points)

    def search(
        self,
        *,
        mode: Mode,
        limit: int,
        vector: FloatArray | None = None,
        text: str | None = None,
        where: Where | None = None,
    ) -> list[Candidate]:
        """The best `limit` passages, best first, ties by passage id, ranks from 1.

        Scores are cosines (dense, to 6 decimals), BM25 scores (sparse, to 5 decimals) or sums of
        1 / (20 + rank) over both legs (hybrid, each leg giving max(limit, 100) candidates). A
        text without a single term, such as only stop words, has no sparse results.

        Args:
            mode: dense, sparse or hybrid.
            limit: at least 1; fewer come back where fewer match.
            vector: float (dimension,), for dense and hybrid.
            text: the query's words, for sparse and hybrid.
            where: only passages that match; {} and None allow all.

        Raises:
            InvalidInput: a missing or wrong argument.
            InvalidFilter: `where` cannot be understood.
        """
        if mode not in get_args(Mode):
            raise InvalidInput(
                f"the mode is {mode!r}, expected dense, sparse or hybrid", fix="Give one of these."
            )
        if not isinstance(limit, (int, np.integer)) or isinstance(limit, bool) or limit < 1:
            raise InvalidInput(
                f"limit is {limit!r}, expected a whole number of at least 1",
                fix="Ask for at least one result.",
            )
        query = self._query_vector(vector, mode) if mode != "sparse" else None
        words = _query_text(text, mode) if mode != "dense" else None
        allowed = compile_filter(where)
        limit = min(int(limit), self._points.count(None)) if limit > _MANY else int(limit)
        if limit == 0:
            return []
        if mode == "hybrid":
            each = max(limit, LEG_LIMIT)
            legs = [self._dense(query, each, allowed), self._sparse(words, each, allowed)]
            scored = rrf([[key for key, _ in leg] for leg in legs])[:limit]
        elif mode == "dense":
            scored = self._dense(query, limit, allowed)
        else:
            scored = self._sparse(words, limit, allowed)
        payloads = self._points.payloads([key for key, _ in scored])
        # one that was deleted since it was found is left out
        found = [
            (payload_to_passage(k, payloads[k]), score) for k, score in scored if k in payloads
        ]
        return [Candidate(passage, score, rank) for rank, (passage, score) in enumerate(found, 1)]

    def delete_passages(self, passage_ids: Sequence[str]) -> None:
        """Delete passages by id; ids that are not stored are passed over.

        Raises:
            InvalidBatch: an id is no UUID; nothing was deleted.
        """
        ids = [canonical_id(passage_id) for passage_id in _texts(passage_ids, "passage_ids")]
        for start in range(0, len(ids), _DELETE_BATCH):
            self._points.delete_ids(ids[start : start + _DELETE_BATCH])

    def delete_documents(self, document_ids: Sequence[str]) -> None:
        """Delete all passages of documents; unknown documents are passed over, [] does nothing.

        Raises:
            InvalidInput: one text instead of a list of them, or no text; nothing was deleted.
        """
        ids = _texts(document_ids, "document_ids")
        for start in range(0, len(ids), _DELETE_BATCH):
            self._points.delete_by_document(ids[start : start + _DELETE_BATCH])

    def delete_where(self, where: Where) -> int:
        """Delete every passage that matches, and say how many there were.

        Raises:
            InvalidFilter: `where` cannot be understood, or is empty and so would match all;
                nothing was deleted.
        """
        chosen = compile_delete_filter(where)
        matching = self._points.count(chosen)
        if matching:
            self._points.delete_matching(chosen)
        return matching

    def document_states(self) -> dict[str, DocumentState]:
        """What is stored of each document, by document id."""
        ids: defaultdict[str, set[str]] = defaultdict(set)
        versions: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
        sources: dict[str, str] = {}
        fields = ["document_id", "document_hash", "document_passages", "source"]
        for passage_id, payload in self._scroll(fields):
            document = str(payload.get("document_id", ""))
            ids[document].add(passage_id)
            sources[document] = str(payload.get("source") or "")
            version = (payload.get("document_hash") or "", payload.get("document_passages") or 0)
            versions[document].add(version)
        states: dict[str, DocumentState] = {}
        for document, passage_ids in ids.items():
            content_hash, passages = next(iter(versions[document]))
            whole = len(versions[document]) == 1 and len(passage_ids) == passages
            states[document] = DocumentState(
                content_hash=(content_hash or None) if whole else None,
                passage_ids=frozenset(passage_ids),
                source=sources[document],
            )
        return states

    def passages(self) -> Iterator[Passage]:
        """Every passage, in id order, read a page at a time."""
        for passage_id, payload in self._scroll(None):
            yield payload_to_passage(passage_id, payload)

    def count(self, where: Where | None = None) -> int:
        """How many passages there are, or how many match."""
        return self._points.count(compile_filter(where))

    def optimize(self) -> None:
        """Build the approximate index over what has been written so far, where it pays."""
        self._points.optimize()

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
        self._points.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._collection!r}, {self._manifest.encoder.model!r})"

    def _dense(self, query: FloatArray | None, limit: int, where: Filter | None) -> Scored:
        assert query is not None
        return leading(
            lambda asked: self._points.nearest(DENSE, query, asked, where), limit, DENSE_DECIMALS
        )

    def _sparse(self, text: str | None, limit: int, where: Filter | None) -> Scored:
        terms = self._bm25.query(text or "")
        if not terms.indices:
            return []
        return leading(
            lambda asked: self._points.nearest(SPARSE, terms, asked, where), limit, SPARSE_DECIMALS
        )

    def _scroll(self, fields: list[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
        after: str | None = None
        while True:
            page, after = self._points.scroll(fields, after, _PAGE)
            yield from page
            if after is None:
                return

    def _query_vector(self, vector: FloatArray | None, mode: Mode) -> FloatArray:
        dimension = self._manifest.encoder.dimension
        if vector is None:
            raise InvalidInput(
                f"the mode {mode} needs a query vector, none was given",
                fix="Give vector=encoder.encode_queries([query])[0], or use mode='sparse'.",
            )
        array = np.asarray(vector)
        if array.dtype.kind != "f" or array.shape != (dimension,):
            raise InvalidInput(
                f"the query vector has shape {array.shape} and type {array.dtype}, expected "
                f"({dimension},) floats",
                fix=f"Encode the query with {self._manifest.encoder.model!r}, which built the "
                "collection.",
            )
        query = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(query).all() or not query.any():
            raise InvalidInput(
                "the query vector has a NaN or an infinity, or is all zeros",
                fix="The encoder failed on this query: try fp32 on the CPU.",
            )
        return query


def _query_text(text: str | None, mode: Mode) -> str:
    if not isinstance(text, str):
        raise InvalidInput(
            f"the mode {mode} needs the query's text, got {text!r}",
            fix="Give text=query, or use mode='dense'.",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidQuery(
            f"the query has a lone surrogate at character {error.start}, which is no Unicode text",
            fix="Decode the query as UTF-8.",
        ) from None
    return text


def _texts(values: Sequence[str], name: str) -> list[str]:
    # a str is a sequence of str too: "doc1" would quietly mean ["d", "o", "c", "1"]
    if isinstance(values, (str, bytes)) or not all(isinstance(value, str) for value in values):
        error = InvalidBatch if name == "passage_ids" else InvalidInput
        raise error(
            f"{name} is {values!r}, expected a list of texts",
            fix=f'Write {name}=["…"]. Nothing was deleted.',
        )
    return list(values)
