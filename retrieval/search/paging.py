"""Which hits are shown: an order with less repetition, few hits a document, one page of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from retrieval.search.first_stage import FirstStage
from retrieval.search.hits import first_stage_hits, threshold
from retrieval.search.options import SearchPlan
from retrieval.search.rerank import Read
from retrieval.types import FloatArray, Hit, Index

DECIMALS = 6
"""Cosines are rounded to what float32 can tell apart: equal passages tie wherever they stand."""


def choose_hits(
    index: Index, first: FirstStage, read: Sequence[Read], plan: SearchPlan, tenant: str | None
) -> list[list[Hit]]:
    """The hits of every query's page, from as deep a first stage as that takes."""
    vectors: dict[str, FloatArray] = {}
    if plan.diversity is not None:
        ids = dict.fromkeys(hit.passage.id for own in read for hit in own.hits)
        vectors = index.vectors(list(ids), tenant=tenant)
    pages = [Page(plan.offset, plan.end, plan.per_document) for _ in read]
    for page, own in zip(pages, read, strict=True):
        page.offer(
            own.hits if plan.diversity is None else diverse(own.hits, vectors, plan.diversity)
        )
        page.offer(own.rest)
    # Beside a reranker's, what it has not read has no relevance, and would only be left out.
    unread_may_pass = plan.min_relevance is None or plan.reranker is None
    short = [row for row, own in enumerate(read) if own.whole and unread_may_pass]
    while short := [row for row in short if not pages[row].full and first.may_grow(row)]:
        going: list[int] = []
        for row, new in zip(short, first.deepen(short), strict=True):
            hits = first_stage_hits(new, plan.cosines and plan.reranker is None)
            kept = threshold(hits, plan.min_relevance)
            pages[row].offer(kept)
            if len(kept) == len(hits):
                going.append(row)  # deeper cosines are lower still
        short = going
    if plan.neighbours:
        return _with_neighbours(index, [page.hits for page in pages], plan.neighbours, tenant)
    return [page.hits for page in pages]


def diverse(
    hits: Sequence[Hit], vectors: Mapping[str, FloatArray], diversity: float
) -> Iterator[Hit]:
    """Hits by maximal marginal relevance, one at a time; each costs one product with all vectors.

    The first is the one with the highest score, and the next always the one with the largest

        (1 - diversity) · relevance - diversity · (largest cosine with one that was taken before)

    and the smaller id where that is equal. Relevance is the hit's `score`, mapped so that the
    lowest of these hits has 0 and the highest 1: logits have no bounds and sums of RRF lie within
    a few hundredths of each other, and neither could be weighed against a cosine as it is.

    Method: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering
    Documents and Producing Summaries", SIGIR 1998; their λ is 1 - diversity.

    Args:
        hits: in any order.
        vectors: of their passages by id, of any length; one that is missing is like no other.
        diversity: from 0 (by score alone) to 1 (after the first, by difference alone).
    """
    # in the order of ids, the first of equal values is the one that is wanted
    left = sorted(hits, key=lambda hit: hit.passage.id)
    if not left:
        return
    relevance = _scaled([hit.score for hit in left])
    units = _units(left, vectors)
    closest = np.zeros(len(left))
    taken = np.zeros(len(left), dtype=np.bool_)
    for place in range(len(left)):
        value = (1.0 - diversity) * relevance - diversity * closest if place else relevance.copy()
        value[taken] = -np.inf
        best = int(np.argmax(value))
        taken[best] = True
        yield left[best]
        cosines = np.round(units @ units[best], DECIMALS)
        closest = cosines if place == 0 else np.maximum(closest, cosines)


class Page:
    """Hits from `offset` on, up to the `end`-th, of those that are offered in final order.

    per_document: how many hits of one document count at most; None for any number.
    """

    def __init__(self, offset: int, end: int, per_document: int | None) -> None:
        self._offset = offset
        self._end = end
        self._most = per_document
        self._of_document: Counter[str] = Counter()
        self._counted = 0
        self.hits: list[Hit] = []

    @property
    def full(self) -> bool:
        """Whether nothing that is offered from now on can be on it."""
        return self._counted == self._end

    def offer(self, hits: Iterable[Hit]) -> None:
        """Take what belongs here, ranked by its place among all that counted."""
        if self._counted == self._end:
            return
        for hit in hits:
            document = hit.passage.document_id
            if self._most is not None and self._of_document[document] >= self._most:
                continue
            self._of_document[document] += 1
            self._counted += 1
            if self._counted > self._offset:
                own = hit.rank == self._counted
                self.hits.append(hit if own else replace(hit, rank=self._counted))
            if self._counted == self._end:  # before the next one is even made
                return


def _with_neighbours(
    index: Index, pages: Sequence[Sequence[Hit]], width: int, tenant: str | None
) -> list[list[Hit]]:
    passages = {hit.passage.id: hit.passage for hits in pages for hit in hits}
    around = index.neighbours(list(passages.values()), width, tenant=tenant)
    return [
        [
            replace(hit, before=around[hit.passage.id][0], after=around[hit.passage.id][1])
            for hit in hits
        ]
        for hits in pages
    ]


def _scaled(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.array(scores, dtype=np.float64)
    spread = values.max() - values.min()
    scaled: NDArray[np.float64] = (values - values.min()) / spread if spread > 0 else values * 0.0
    return scaled


def _units(hits: Sequence[Hit], vectors: Mapping[str, FloatArray]) -> NDArray[np.float64]:
    """Vectors (n, dimension) of length 1, or 0 where there is none."""
    width = max((len(vector) for vector in vectors.values()), default=1)
    rows = np.zeros((len(hits), width))
    for row, hit in enumerate(hits):
        vector = vectors.get(hit.passage.id)
        if vector is not None:
            rows[row] = vector
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1.0)
    return units
