"""Which hits are returned: a limit per document, one page, and how deep the first stage must go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from retrieval.search.first_stage import FirstStage
from retrieval.search.hits import first_stage_hits
from retrieval.search.mmr import diverse
from retrieval.search.options import SearchOptions
from retrieval.search.plan import SearchPlan
from retrieval.search.rerank import Read
from retrieval.types import FloatArray, Hit, Index


def choose_hits(
    index: Index, first: FirstStage, read: Sequence[Read], plan: SearchPlan
) -> list[list[Hit]]:
    """The hits of every query's page, from as deep a first stage as that takes."""
    options = plan.options
    pages = [Page(options.offset, plan.end, options.per_document) for _ in read]
    vectors: dict[str, FloatArray] = {}
    if options.diversity:
        ids = dict.fromkeys(hit.passage.id for own in read for hit in own.hits)
        vectors = index.vectors(list(ids), tenant=options.tenant)
    for page, own in zip(pages, read, strict=True):
        page.offer(diverse(own.hits, vectors, options.diversity) if options.diversity else own.hits)
        page.offer(own.rest)
    # Beside a reranker's, what it has not read has no relevance, and would only be left out.
    relevance = plan.relevance
    unread_may_pass = not relevance.limited or plan.reranker is None or relevance.of_first_stage
    short = [row for row, own in enumerate(read) if own.whole and unread_may_pass]
    while short := [row for row in short if not pages[row].full and first.may_grow(row)]:
        going: list[int] = []
        for row, new in zip(short, first.deepen(short), strict=True):
            cosines = plan.cosines and plan.reranker is None
            hits = relevance.told(first_stage_hits(new, cosines))
            kept = relevance.kept(hits)
            pages[row].offer(kept)
            if len(kept) == len(hits):
                going.append(row)  # deeper cosines are lower still
        short = going
    found = [page.hits for page in pages]
    return _with_neighbours(index, found, options) if options.neighbours else found


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
    index: Index, pages: Sequence[Sequence[Hit]], options: SearchOptions
) -> list[list[Hit]]:
    passages = {hit.passage.id: hit.passage for hits in pages for hit in hits}
    around = index.neighbours(list(passages.values()), options.neighbours, tenant=options.tenant)
    return [
        [
            replace(hit, before=around[hit.passage.id][0], after=around[hit.passage.id][1])
            for hit in hits
        ]
        for hits in pages
    ]
