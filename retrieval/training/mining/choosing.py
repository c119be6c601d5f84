"""A batch of queries: their candidates in order, looked at until each has its negatives."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from retrieval.training.mining import false_negatives as reasons
from retrieval.training.mining.candidates import Found, Mined, MiningQuery, Text
from retrieval.training.mining.false_negatives import LikeTexts, OtherPositives
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.mining.teachers import Teacher

JUDGED = "judged"
GIVEN = "given"

_AT_ONCE = 4
"""Candidates of a query that the teacher scores in a call, at least."""


def choose(
    batch: Sequence[tuple[MiningQuery, Sequence[Found]]],
    first: int,
    settings: MiningSettings,
    others: OtherPositives,
    teacher: Teacher | None,
) -> list[Mined]:
    """Choose the negatives of some queries.

    The teacher scores a query's positives, and of its candidates, in order, as many as it takes;
    the pairs of all queries are scored together.

    Args:
        batch: queries, and the candidates of each: of every source in order of rank.
        first: place of the first query among all.
        settings, others, teacher: what decides.
    """
    works = [
        _Work(query, _ordered(found, query.text, settings), first + place, settings, others)
        for place, (query, found) in enumerate(batch)
    ]
    whole = teacher is not None and teacher.whole
    _score(teacher, [(one, one.known_texts(whole)) for one in works])
    for one in works:
        one.begin(teacher)
    while waiting := [(one, block) for one in works if (block := one.next_block())]:
        _score(teacher, [(one, [f.passage.text for f in block]) for one, block in waiting])
        for one, block in waiting:
            one.look(block)
    return [one.mined(teacher) for one in works]


class _Work:
    """What is known of one query so far."""

    def __init__(
        self,
        query: MiningQuery,
        candidates: list[Found],
        row: int,
        settings: MiningSettings,
        others: OtherPositives,
    ) -> None:
        self.query = query
        self.scores: dict[str, tuple[float, float]] = {}  # text → raw, relevance
        self._row = row
        self._settings = settings
        self._others = others
        self._ranks = {found.passage.text: found.rank for found in reversed(candidates)}
        self._candidates = candidates
        self._rest = iter(candidates)
        self._positives: list[Text] = []
        self._negatives: list[tuple[Text, int, str]] = []  # with rank and source
        self._looked_at = 0
        self._dropped: Counter[str] = Counter()

    def known_texts(self, whole: bool) -> list[str]:
        """What the teacher scores at once: all that is labelled; with `whole`, all there is."""
        groups = (*self.query.positives, *self.query.negatives)
        texts = [one.text for group in groups for one in group]
        if self._settings.keep_given:
            texts += [one.text for one in self.query.given]
        if whole:
            texts += [found.passage.text for found in self._candidates]
        return texts

    def begin(self, teacher: Teacher | None) -> None:
        """Settle the positives, and take what was judged or given as negatives."""
        self._positives = [self._best(group) for group in self.query.positives]
        self._least = min((self.scores[p.text][1] for p in self._positives), default=0.0) if (
            teacher is not None
        ) else None  # fmt: skip
        alike = self._settings.near_duplicate
        self._like_positives = LikeTexts([one.text for one in self._positives], alike)
        self._like_negatives = LikeTexts([], alike)
        known = [(self._best(group), JUDGED) for group in self.query.negatives]
        if self._settings.keep_given:
            known += [(one, GIVEN) for one in self.query.given]
        for passage, source in known:
            if self._like_positives.has(passage.text):
                self._dropped[reasons.DUPLICATE] += 1
                self._looked_at += 1
            elif not self._like_negatives.has(passage.text):
                self._take(passage, self._ranks.get(passage.text, 0), source)

    def next_block(self) -> list[Found]:
        """The next candidates that labels and texts leave; empty where none is needed or left."""
        needed = self._settings.negatives - len(self._negatives)
        block: list[Found] = []
        if needed <= 0:
            return block
        for found in self._rest:
            reason = reasons.known_reason(self._row, self.query, found, self._others)
            if reason is None and self._like_positives.has(found.passage.text):
                reason = reasons.DUPLICATE
            if reason is None:
                block.append(found)
                if len(block) >= max(needed, _AT_ONCE):
                    break
            else:
                self._looked_at += 1
                self._dropped[reason] += 1
        return block

    def look(self, block: Iterable[Found]) -> None:
        """Take of these candidates what their scores leave, until there are enough."""
        for found in block:
            if len(self._negatives) >= self._settings.negatives:
                return
            text = found.passage.text
            reason = None
            if self._least is not None:
                relevance = self.scores[text][1]
                reason = reasons.score_reason(relevance, self._least, self._settings)
            if reason is None and self._like_negatives.has(text):
                reason = reasons.REPEATED
            if reason is None:
                self._take(found.passage, found.rank, found.source)
            else:
                self._looked_at += 1
                self._dropped[reason] += 1

    def mined(self, teacher: Teacher | None) -> Mined:
        """What became of it."""
        texts = [one.text for one in (*self._positives, *(n for n, _, _ in self._negatives))]
        scores = [] if teacher is None else [self.scores[text] for text in texts]
        return Mined(
            positives=self._positives,
            negatives=[passage for passage, _, _ in self._negatives],
            scores=[raw for raw, _ in scores],
            relevance=[relevance for _, relevance in scores],
            ranks=[rank for _, rank, _ in self._negatives],
            sources=[source for _, _, source in self._negatives],
            looked_at=self._looked_at,
            dropped=dict(sorted(self._dropped.items())),
            chosen=sum(len(group) > 1 for group in self.query.positives),
        )

    def _take(self, passage: Text, rank: int, source: str) -> None:
        if len(self._negatives) < self._settings.negatives:
            self._negatives.append((passage, rank, source))
            self._like_negatives.add(passage.text)
            self._looked_at += 1

    def _best(self, group: Sequence[Text]) -> Text:
        """Of the passages of a judged document the one that the teacher finds most relevant;
        without a teacher, the one that is found first."""
        if self.scores:
            return max(group, key=lambda one: self.scores[one.text][0])
        return min(group, key=lambda one: self._ranks.get(one.text, len(self._ranks) + 1))


def _score(teacher: Teacher | None, asked: Sequence[tuple[_Work, Sequence[str]]]) -> None:
    """Have texts of queries scored that are not yet."""
    if teacher is None:
        return
    groups = []
    for work, texts in asked:
        fresh = [text for text in dict.fromkeys(texts) if text not in work.scores]
        if fresh:
            groups.append((work, fresh))
    scored = teacher.score([(work.query.text, texts) for work, texts in groups])
    for (work, texts), raw in zip(groups, scored, strict=True):
        pairs = zip(raw.tolist(), teacher.relevance(raw).tolist(), strict=True)
        work.scores.update(zip(texts, pairs, strict=True))


def _ordered(found: Sequence[Found], query: str, settings: MiningSettings) -> list[Found]:
    """The candidates within the ranks, each passage once, in the order they are looked at."""
    shares = settings.shares()
    by_source: dict[str, list[Found]] = {source: [] for source in shares}
    for one in found:
        if settings.rank_from < one.rank <= settings.rank_to:
            by_source[one.source].append(one)
    if settings.sampling == "random":
        random = draws(settings.seed, query)
        by_source = {
            source: [own[place] for place in random.permutation(len(own))]
            for source, own in by_source.items()
        }
    known: set[str] = set()
    ordered = []
    for one in _in_turn(by_source, shares):
        key = one.passage.id or one.passage.text
        if key not in known:
            known.add(key)
            ordered.append(one)
    return ordered


def _in_turn(
    by_source: Mapping[str, Sequence[Found]], shares: Mapping[str, int]
) -> Iterator[Found]:
    rest = {source: iter(own) for source, own in by_source.items()}
    while rest:
        for source in list(rest):
            taken = [one for _, one in zip(range(shares[source]), rest[source], strict=False)]
            yield from taken
            if len(taken) < shares[source]:
                del rest[source]


def draws(seed: int, query: str) -> np.random.Generator:
    """Random numbers of a query: the same whatever its place, and whichever run mines it."""
    digest = hashlib.sha256(f"{seed}\0{query}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
