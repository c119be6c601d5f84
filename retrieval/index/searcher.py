"""A search on any engine: its legs, the order of each, how they are joined and refined."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval._validate import one_of, unicode_text, whole_number
from retrieval.errors import InvalidInput, InvalidQuery, LimitExceeded
from retrieval.fusion import dbsf, rrf
from retrieval.index.bm25 import Bm25Terms
from retrieval.index.point_store import (
    DENSE,
    LEXICAL,
    SPARSE,
    TOKENS,
    Narrowed,
    Nearest,
    PointStore,
    SparseTerms,
    VectorName,
)
from retrieval.index.ties import DENSE_DECIMALS, SPARE, SPARSE_DECIMALS, Scored, leading, ordered
from retrieval.types import FloatArray, Fusion, IndexQuery, LexicalWeights, Manifest, Mode

if TYPE_CHECKING:
    from qdrant_client.models import Filter

LEG_LIMIT = 100
"""Candidates that each leg of a hybrid search gives at least."""

_MANY = 1_000
_LEGS: dict[Mode, tuple[VectorName, ...]] = {
    "dense": (DENSE,),
    "sparse": (SPARSE,),
    "lexical": (LEXICAL,),
    "hybrid": (DENSE, SPARSE, LEXICAL),
}
_DECIMALS: dict[VectorName, int] = {
    DENSE: DENSE_DECIMALS,
    SPARSE: SPARSE_DECIMALS,
    LEXICAL: SPARSE_DECIMALS,
    TOKENS: SPARSE_DECIMALS,
}


class IndexSearcher:
    """Searches that were checked, over one collection's points."""

    def __init__(self, points: PointStore, manifest: Manifest, bm25: Bm25Terms) -> None:
        self._points = points
        self._layout = manifest.layout
        self._bm25 = bm25

    def search(
        self,
        queries: Sequence[IndexQuery],
        *,
        mode: Mode,
        limit: int,
        where: Filter | None,
        fusion: Fusion,
        refine: int | None,
        exact: bool,
        min_score: float | None = None,
        payloads: dict[str, dict[str, Any]] | None = None,
    ) -> list[Scored]:
        """The best `limit` (id, score) of each query; the engine is called once per stage.

        Args:
            payloads: receives those that come with what is found, where all of it may be a result.

        Raises:
            LimitExceeded: the engine gives fewer than `limit`, or `refine`, in one answer.
        """
        while True:
            with contextlib.suppress(Narrowed):
                return self._search(
                    queries, mode, limit, where, fusion, refine, exact, min_score, payloads
                )

    def _search(
        self,
        queries: Sequence[IndexQuery],
        mode: Mode,
        limit: int,
        where: Filter | None,
        fusion: Fusion,
        refine: int | None,
        exact: bool,
        min_score: float | None,
        payloads: dict[str, dict[str, Any]] | None,
    ) -> list[Scored]:
        most = self._points.bounds.results
        depth = max(limit, refine or 0)
        if depth > _MANY:
            depth = min(depth, self._points.count(None))
        if depth == 0:
            return [[] for _ in queries]
        if most is not None and depth > most:
            raise _too_many(limit, refine, most)
        legs = [leg for leg in _LEGS[mode] if leg != LEXICAL or self._layout.lexical]
        each = max(depth, LEG_LIMIT) if len(legs) > 1 else depth
        each = each if most is None else min(each, most)
        first = each + SPARE if most is None else min(each + SPARE, most)
        requests: list[tuple[int, VectorName, Nearest]] = []
        for number, query in enumerate(queries):
            for leg in legs:
                asked = self._request(leg, query, first, where, exact)
                if asked is not None:
                    requests.append((number, leg, asked))
        asked_for = [request for _, _, request in requests]
        final = payloads if len(legs) == 1 and refine is None else None
        answers = self._points.nearest(asked_for, final) if requests else []
        found: list[dict[VectorName, Scored]] = [{leg: [] for leg in legs} for _ in queries]
        for (number, leg, request), answer in zip(requests, answers, strict=True):
            more = self._more(request)
            found[number][leg] = leading(answer, each, _DECIMALS[leg], more, most)
        if mode == "hybrid":
            weights = fusion.weights[: len(legs)]
            joined = [_fused([own[leg] for leg in legs], fusion, weights)[:depth] for own in found]
        else:
            joined = [own[legs[0]] for own in found]
        if min_score is not None:
            joined = [[item for item in own if item[1] >= min_score] for own in joined]
        if refine is not None:
            joined = self._refined(queries, joined)
        return [scored[:limit] for scored in joined]

    def _request(
        self, leg: VectorName, query: IndexQuery, limit: int, where: Filter | None, exact: bool
    ) -> Nearest | None:
        vector: FloatArray | SparseTerms
        if leg == DENSE:
            assert query.vector is not None
            vector = np.ascontiguousarray(query.vector, dtype=np.float32)
        else:
            vector = self._terms(leg, query)
            if not vector.indices:
                return None
        return Nearest(leg, vector, limit, where, exact)

    def _terms(self, leg: VectorName, query: IndexQuery) -> SparseTerms:
        if leg == SPARSE:
            return self._bm25.query(query.text or "")
        weights = query.lexical
        assert weights is not None
        return SparseTerms(tuple(weights.indices.tolist()), tuple(weights.values.tolist()))

    def _more(self, request: Nearest) -> Callable[[int], Scored]:
        def ask(limit: int) -> Scored:
            again = Nearest(request.using, request.query, limit, request.where, request.exact)
            return self._points.nearest([again])[0]

        return ask

    def _refined(self, queries: Sequence[IndexQuery], found: list[Scored]) -> list[Scored]:
        from qdrant_client import models

        asked: list[tuple[int, Nearest]] = []
        for number, (query, scored) in enumerate(zip(queries, found, strict=True)):
            if scored:
                assert query.token_vectors is not None
                ids = models.Filter(must=[models.HasIdCondition(has_id=[k for k, _ in scored])])
                vectors = np.ascontiguousarray(query.token_vectors, dtype=np.float32)
                asked.append((number, Nearest(TOKENS, vectors, len(scored), ids, exact=True)))
        answers = self._points.nearest([request for _, request in asked]) if asked else []
        refined: list[Scored] = [[] for _ in queries]
        for (number, _), answer in zip(asked, answers, strict=True):
            refined[number] = ordered(answer, _DECIMALS[TOKENS])
        return refined


def check_search(
    manifest: Manifest,
    queries: Sequence[IndexQuery],
    mode: Mode,
    limit: int,
    fusion: Fusion,
    refine: int | None,
) -> None:
    """Check what a search was given, see `CollectionIndex.search_batch`.

    Raises:
        InvalidInput: an argument is missing or cannot be used.
        InvalidQuery: a text has a lone surrogate.
    """
    one_of(mode, Mode, "the mode", fix="Give one of these.")
    whole_number(_plain(limit), "limit", fix="Ask for at least one result.")
    layout = manifest.layout
    if mode == "lexical" and not layout.lexical:
        raise InvalidInput(
            f"the collection {manifest.collection!r} stores no lexical weights",
            fix="Search with mode='sparse' (BM25), or index with bge-m3 and lexical=True.",
        )
    if refine is not None:
        whole_number(
            _plain(refine),
            "refine",
            least=int(limit),
            fix="Refine at least as many results as are asked for.",
        )
        if layout.token_dimension is None:
            raise InvalidInput(
                f"the collection {manifest.collection!r} stores no token vectors to refine by",
                fix="Leave refine out, or index with token_vectors=True.",
            )
    for query in queries:
        if mode in ("dense", "hybrid"):
            _check_vector(query.vector, manifest, mode)
        if mode in ("sparse", "hybrid"):
            _check_text(query.text, mode)
        if layout.lexical and mode in ("lexical", "hybrid"):
            _check_lexical(query.lexical, mode)
        if refine is not None:
            _check_tokens(query.token_vectors, layout.token_dimension or 0)
    if mode == "hybrid":
        _fused([[] for _ in fusion.weights], fusion, fusion.weights)  # which checks them


def _too_many(limit: int, refine: int | None, most: int) -> LimitExceeded:
    what, asked = ("limit", limit) if limit > most else ("refine", refine)
    return LimitExceeded(
        f"{what} is {asked} (top_k, candidates and refine ask for it), and the server gives at "
        f"most {most} results of a search (max_query_limit of the collection's strict mode)",
        fix=f"Ask for {most} or fewer, or raise max_query_limit there.",
        most=most,
    )


def _fused(legs: Sequence[Scored], fusion: Fusion, weights: Sequence[float]) -> Scored:
    if fusion.method == "rrf":
        return rrf([[key for key, _ in leg] for leg in legs], fusion.k, weights)
    if fusion.method == "dbsf":
        return dbsf(legs, weights)
    raise InvalidInput(
        f"the fusion method is {fusion.method!r}, expected rrf or dbsf",
        fix="Leave it out for dbsf.",
    )


def _plain(count: object) -> object:
    """A whole number of NumPy's is one of Python's here; all else stays."""
    return int(count) if isinstance(count, np.integer) else count


def _check_vector(vector: FloatArray | None, manifest: Manifest, mode: Mode) -> None:
    dimension = manifest.encoder.dimension
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
            fix=f"Encode the query with {manifest.encoder.model!r}, which built the collection.",
        )
    if not np.isfinite(array).all() or not array.any():
        raise InvalidInput(
            "the query vector has a NaN or an infinity, or is all zeros",
            fix="The encoder failed on this query: try fp32 on the CPU.",
        )


def _check_text(text: str | None, mode: Mode) -> None:
    if not isinstance(text, str):
        raise InvalidInput(
            f"the mode {mode} needs the query's text, got {text!r}",
            fix="Give text=query, or use mode='dense'.",
        )
    unicode_text(text, "the query", fix="Decode the query as UTF-8.", error=InvalidQuery)


def _check_lexical(weights: LexicalWeights | None, mode: Mode) -> None:
    if weights is None:
        raise InvalidInput(
            f"the mode {mode} needs the query's lexical weights, none were given",
            fix="Give lexical=encoder.encode_all([query], 'query', lexical=True).lexical[0].",
        )
    if not np.isfinite(weights.values).all() or len(weights.indices) != len(weights.values):
        raise InvalidInput(
            "the query's lexical weights are not one finite number a token",
            fix="The encoder failed on this query: try fp32 on the CPU.",
        )


def _check_tokens(vectors: FloatArray | None, dimension: int) -> None:
    array = np.zeros((0, 0)) if vectors is None else np.asarray(vectors)
    fits = array.ndim == 2 and len(array) > 0 and array.shape[1] == dimension
    if not fits or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InvalidInput(
            f"refine needs the query's token vectors, finite floats of shape (tokens, {dimension})"
            f", got {'none' if vectors is None else f'shape {array.shape}'}",
            fix="Give token_vectors=encoder.encode_all([query], 'query', token_vectors=True)"
            ".token_vectors[0], or leave refine out.",
        )
