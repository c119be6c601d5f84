"""What must not become a negative, since it answers the query, or may."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from retrieval.training.mining.candidates import Found, MiningQuery, Text
from retrieval.training.mining.exact import QUERIES, VectorFile, nearest
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.near_duplicates import jaccard, shingles

RELEVANT = "judged relevant"
SAME_DOCUMENT = "of a relevant document"
QUERY = "the query itself"
OTHER_POSITIVE = "positive of another query"
DUPLICATE = "copy of a positive"
REPEATED = "copy of a negative"
MAX_SCORE = "above max_score"
MIN_SCORE = "below min_score"
ABSOLUTE = "within absolute_margin"
RELATIVE = "within relative_margin"

MOST_ALIKE = 50
"""Queries that are looked at as alike to one."""


class OtherPositives:
    """Which passages answer other queries, for whom that counts.

    Args:
        queries: all of them.
        vectors: of them, in their order.
        settings: whose `other_positives` and `similar_queries` decide.
    """

    def __init__(
        self, queries: Sequence[MiningQuery], vectors: VectorFile, settings: MiningSettings
    ) -> None:
        self._rule = settings.other_positives
        self._relevant = [query.relevant for query in queries]
        self._owners: defaultdict[str, list[int]] = defaultdict(list)
        self._alike: dict[int, frozenset[int]] = {}
        if self._rule == "keep":
            return
        for row, keys in enumerate(self._relevant):
            for key in keys:
                self._owners[key].append(row)
        if self._rule == "similar":
            self._alike = alike(vectors, settings.similar_queries)

    def answers(self, row: int, passage: Text) -> bool:
        """Whether the passage answers another query that counts for the one at `row`."""
        if self._rule == "keep":
            return False
        for key in passage.keys:
            for other in self._owners.get(key, ()):
                if other != row and (self._rule == "all" or self._counts(row, other)):
                    return True
        return False

    def _counts(self, row: int, other: int) -> bool:
        alike_ = other in self._alike.get(row, ()) or row in self._alike.get(other, ())
        return alike_ or not self._relevant[row].isdisjoint(self._relevant[other])


def alike(vectors: VectorFile, least: float) -> dict[int, frozenset[int]]:
    """By query, the others whose vectors have at least that cosine; at most `MOST_ALIKE`."""
    found: dict[int, frozenset[int]] = {}
    total = len(vectors)
    for start in range(0, total, QUERIES):
        block = vectors.rows(start, min(start + QUERIES, total))
        at, cosines = nearest(block, vectors, MOST_ALIKE + 1)
        for row, (others, values) in enumerate(zip(at.tolist(), cosines.tolist(), strict=True)):
            own = start + row
            near = {o for o, c in zip(others, values, strict=True) if c >= least and o != own}
            if near:
                found[own] = frozenset(near)
    return found


class LikeTexts:
    """Texts that others are compared with: copies and near copies of them are found.

    Args:
        texts: the first of them.
        least: the share of shingles in common from which two are one.
    """

    def __init__(self, texts: Sequence[str], least: float) -> None:
        self._least = least
        self._shingles = [shingles(text) for text in texts]

    def has(self, text: str) -> bool:
        """Whether one of them is (nearly) that text."""
        own = shingles(text)
        return any(jaccard(own, other) >= self._least for other in self._shingles)

    def add(self, text: str) -> None:
        """A further one."""
        self._shingles.append(shingles(text))


def known_reason(row: int, query: MiningQuery, found: Found, others: OtherPositives) -> str | None:
    """Why a candidate cannot be a negative, as far as labels tell; None where they do not."""
    passage = found.passage
    own, *document = passage.keys
    if own in query.relevant:
        return RELEVANT
    if document and document[0] in query.relevant:
        return RELEVANT if passage.id == passage.document else SAME_DOCUMENT
    if passage.text.split() == query.text.split():
        return QUERY
    return OTHER_POSITIVE if others.answers(row, passage) else None


def score_reason(relevance: float, positive: float, settings: MiningSettings) -> str | None:
    """Why a candidate cannot be a negative by its relevance; None where it can.

    positive: relevance of the least relevant positive: the safe side, where there are several.
    """
    if settings.max_score is not None and relevance > settings.max_score:
        return MAX_SCORE
    if settings.absolute_margin is not None and relevance > positive - settings.absolute_margin:
        return ABSOLUTE
    if settings.margin is not None and relevance > positive - abs(positive) * settings.margin:
        return RELATIVE
    if settings.min_score is not None and relevance < settings.min_score:
        return MIN_SCORE
    return None
