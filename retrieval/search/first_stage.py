"""The first stage of a search: queries encoded as its mode needs them, and what they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from retrieval.errors import LimitExceeded
from retrieval.search.plan import SearchPlan
from retrieval.types import Candidate, Encoder, Index, IndexQuery, MultiEncoder


def encode(encoder: Encoder, texts: Sequence[str], plan: SearchPlan) -> list[IndexQuery]:
    """Each query with what the plan needs of it, and nothing more, from one pass of the model."""
    dense = lexical = tokens = None
    if plan.lexical or plan.token_vectors:
        encoding = cast(MultiEncoder, encoder).encode_all(
            texts, "query", lexical=plan.lexical, token_vectors=plan.token_vectors
        )
        dense, lexical, tokens = encoding.vectors, encoding.lexical, encoding.token_vectors
    elif plan.dense:
        dense = encoder.encode_queries(texts)
    return [
        IndexQuery(
            vector=dense[row] if dense is not None and plan.dense else None,
            text=text if plan.mode in ("sparse", "hybrid") else None,
            lexical=None if lexical is None else lexical[row],
            token_vectors=None if tokens is None else tokens[row],
        )
        for row, text in enumerate(texts)
    ]


def query_notices(encoder: Encoder, query: str, plan: SearchPlan) -> list[str]:
    """Whether the encoder read only the beginning of a query."""
    longest = encoder.info.max_length
    text = encoder.info.query_text(query)
    encoded = plan.dense or plan.lexical or plan.token_vectors
    # A token has at least one character, so most queries are cleared without tokenising.
    if not encoded or len(text) <= longest - 2:
        return []
    counter = encoder.token_counter
    tokens = len(counter.token_offsets(text)) + counter.special_tokens
    if tokens <= longest:
        return []
    return [f"The query has {tokens:,} tokens; the encoder read the first {longest:,}."]


class FirstStage:
    """What an index finds for queries, to a depth that can grow.

    A deeper search may order what was found before otherwise: a hybrid's legs are deeper, too,
    and an approximate index looks further. What has been found keeps its place, and only what is
    new is put after it, so that a list is the beginning of every deeper one, and pages that are
    taken from it never repeat or lose a passage.

    `found` holds the candidates of each query, best first. A server may give fewer results of a
    search than the plan would look at: then it looks at as many as there are, if these are enough
    for what was asked for.

    Raises:
        LimitExceeded: they are not.
    """

    def __init__(
        self,
        index: Index,
        queries: Sequence[IndexQuery],
        plan: SearchPlan,
    ) -> None:
        self._index = index
        self._queries = queries
        self._plan = plan
        self._limit = plan.fetch
        self._most: int | None = None
        self.found = self._search(queries)
        self._open = [self._goes_on(own) for own in self.found]

    def may_grow(self, row: int) -> bool:
        """Whether there may be more for that query than was found."""
        return self._open[row]

    def notices(self, row: int, hits: int) -> list[str]:
        """Whether a page of fewer hits than asked for is short because of a server's limit."""
        short = hits < self._plan.options.top_k and len(self.found[row]) == self._most
        if not short:
            return []
        return [
            f"The server gives at most {self._most} results of a search; there may be more hits "
            "than these."
        ]

    def deepen(self, rows: Sequence[int]) -> list[list[Candidate]]:
        """Look twice as deep for some queries, and give what is new for each of them."""
        self._limit = self._limit * 2 if self._most is None else min(self._limit * 2, self._most)
        answers = self._search([self._queries[row] for row in rows])
        more: list[list[Candidate]] = []
        for row, answer in zip(rows, answers, strict=True):
            known = {candidate.passage.id for candidate in self.found[row]}
            unseen = (candidate for candidate in answer if candidate.passage.id not in known)
            new = [replace(one, rank=rank) for rank, one in enumerate(unseen, len(known) + 1)]
            self.found[row].extend(new)
            self._open[row] = self._goes_on(answer)
            more.append(new)
        return more

    def _goes_on(self, answer: Sequence[Candidate]) -> bool:
        return len(answer) == self._limit and self._limit != self._most

    def _search(self, queries: Sequence[IndexQuery]) -> list[list[Candidate]]:
        plan, options = self._plan, self._plan.options
        try:
            return self._index.search_batch(
                queries,
                mode=plan.mode,
                limit=self._limit,
                where=options.where,
                fusion=plan.fusion,
                refine=None if options.refine is None else max(options.refine, self._limit),
                exact=options.exact,
                min_score=options.min_score,
                tenant=options.tenant,
            )
        except LimitExceeded as error:
            if max(plan.asked, options.refine or 0) > error.most or self._limit <= error.most:
                raise
            self._limit = self._most = error.most
            return self._search(queries)
