"""What was mined: how much was left out and why, how hard it is, and samples to look at.

As JSON (`MINED.report.json` beside the output):

    {"run": {"settings": {…}, "input": "…", "candidates": "…", "encoder": "…", "teacher": "…"},
     "queries": 0, "left_out": 0, "positives": 0, "negatives": 0, "short": 0, "without": 0,
     "looked_at": 0, "dropped": {REASON: 0}, "sources": {SOURCE: 0}, "chosen_passages": 0,
     "hardness": {"rank": 0.0, "positive": 0.0, "negative": 0.0, "ratio": 0.0},
     "samples": [{"query", "positive", "negative", "positive_score", "negative_score",
                  "rank", "source"}],
     "output_sha256": "…", "notices": []}
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retrieval.evaluation.text_table import text_table
from retrieval.training.mining.candidates import Mined, MiningQuery

SAMPLES = 20
_SHOWN = 300
"""Characters of a text in a sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A query with a positive and a negative of it, to be looked at; long texts are cut.

    Attributes:
        positive_score, negative_score: the teacher's raw scores; None without one.
        rank: of the negative in its source, from 1; None where none found it.
        source: the first stage that found it, "judged" or "given".
    """

    query: str
    positive: str
    negative: str
    positive_score: float | None
    negative_score: float | None
    rank: int | None
    source: str


@dataclass(frozen=True, slots=True)
class MiningReport:
    """What a run of mining did.

    Attributes:
        run: settings, and what identifies input, candidates, encoder and teacher.
        queries: that were written.
        left_out: queries none of whose positives was found in the collection.
        positives, negatives: passages that were written.
        short: queries with fewer negatives than asked for; `without`: with none.
        looked_at: candidates that were looked at, with those that were taken.
        dropped: reason → candidates.
        sources: first stage, "judged" or "given" → negatives.
        chosen_passages: positives that are the best passage of a document that was judged whole.
        hardness: mean `rank` of the negatives; mean relevance of the least relevant `positive` of
            a query and of its `negative`s by the teacher, and their `ratio`; None where nothing
            is known.
        samples: some negatives, drawn by the seed.
        output_sha256: of the file that was written.
        notices: sentences.
    """

    run: Mapping[str, Any]
    queries: int
    left_out: int
    positives: int
    negatives: int
    short: int
    without: int
    looked_at: int
    dropped: Mapping[str, int]
    sources: Mapping[str, int]
    chosen_passages: int
    hardness: Mapping[str, float | None]
    samples: Sequence[Sample]
    output_sha256: str
    notices: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the module says which."""
        return asdict(self)

    @staticmethod
    def of_dict(values: Mapping[str, Any]) -> MiningReport:
        """The report that `as_dict` gave."""
        samples = [Sample(**one) for one in values["samples"]]
        return MiningReport(**{**values, "samples": samples})

    def as_text(self) -> str:
        """For a terminal."""
        asked = self.run["settings"]["negatives"]
        mean = self.negatives / max(self.queries, 1)
        lines = [
            f"{self.queries:,} queries, {self.positives:,} positives, {self.negatives:,} hard "
            f"negatives ({mean:.1f} of {asked} asked for each)"
        ]
        if self.short:
            lines.append(f"  {self.short:,} queries got fewer, {self.without:,} of them none")
        if self.left_out:
            lines.append(f"  {self.left_out:,} queries left out: no positive is in the collection")
        if self.chosen_passages:
            lines.append(
                f"  {self.chosen_passages:,} positives are the best passage of a judged document"
            )
        taken = ", ".join(f"{name} {number:,}" for name, number in self.sources.items())
        lines += [f"  taken from: {taken or 'nothing'}", f"  {self._hardness()}", ""]
        rows = [["candidates", "", "share"], ["looked at", f"{self.looked_at:,}", ""]]
        kept = {"taken": self.negatives}
        for reason, number in {**kept, **self.dropped}.items():
            share = f"{number / max(self.looked_at, 1):.1%}"
            rows.append([reason, f"{number:,}", share])
        lines += text_table(rows, left=1)
        lines += [f"note: {notice}" for notice in self.notices]
        return "\n".join(lines)

    def samples_as_text(self) -> str:
        """The samples, one below the other."""
        parts = []
        for one in self.samples:
            rank = "" if one.rank is None else f" at rank {one.rank}"
            parts.append(
                f"query     {one.query}\n"
                f"positive  {_score(one.positive_score)}{one.positive}\n"
                f"negative  {_score(one.negative_score)}{one.negative}\n"
                f"          from {one.source}{rank}"
            )
        return "\n\n".join(parts)

    def _hardness(self) -> str:
        rank, ratio = self.hardness["rank"], self.hardness["ratio"]
        known = "no rank" if rank is None else f"mean rank {rank:.1f}"
        if ratio is None:
            return f"hardness: {known}; no teacher"
        return (
            f"hardness: {known}; by {self.run['teacher'][0]} relevance "
            f"{self.hardness['negative']:.3f}, positives {self.hardness['positive']:.3f} "
            f"(ratio {ratio:.2f})"
        )


class Tally:
    """Adds up what became of queries, in their order."""

    def __init__(self, seed: int, asked: int) -> None:
        self._seed = seed
        self._asked = asked
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._ranks: list[int] = [0, 0]
        self._relevance = [0.0, 0.0]
        self._samples: list[tuple[int, int, Sample]] = []  # a heap: the largest key first

    def add(self, query: MiningQuery, mined: Mined) -> None:
        """What became of a query."""
        counts = self._counts
        counts["looked_at"] += mined.looked_at
        self._dropped.update(mined.dropped)
        if not mined.positives:
            counts["left_out"] += 1
            return
        counts["queries"] += 1
        counts["positives"] += len(mined.positives)
        counts["negatives"] += len(mined.negatives)
        counts["short"] += len(mined.negatives) < self._asked
        counts["without"] += not mined.negatives
        counts["chosen"] += mined.chosen
        self._sources.update(mined.sources)
        found = [rank for rank in mined.ranks if rank]
        self._ranks[0] += sum(found)
        self._ranks[1] += len(found)
        if not mined.negatives:
            return
        if mined.relevance:
            first = len(mined.positives)
            self._relevance[0] += min(mined.relevance[:first])
            self._relevance[1] += sum(mined.relevance[first:]) / len(mined.negatives)
            counts["judged"] += 1
        self._sample(query, mined)

    def report(self, run: Mapping[str, Any], digest: str, notices: Sequence[str]) -> MiningReport:
        """All of it."""
        counts = self._counts
        judged = counts["judged"]
        positive, negative = (total / judged if judged else None for total in self._relevance)
        samples = sorted(self._samples, key=lambda one: -one[1])
        return MiningReport(
            run=run,
            queries=counts["queries"],
            left_out=counts["left_out"],
            positives=counts["positives"],
            negatives=counts["negatives"],
            short=counts["short"],
            without=counts["without"],
            looked_at=counts["looked_at"],
            dropped=dict(self._dropped.most_common()),
            sources=dict(sorted(self._sources.items())),
            chosen_passages=counts["chosen"],
            hardness={
                "rank": self._ranks[0] / self._ranks[1] if self._ranks[1] else None,
                "positive": positive,
                "negative": negative,
                "ratio": negative / positive if positive and negative is not None else None,
            },
            samples=[sample for _, _, sample in samples],
            output_sha256=digest,
            notices=(*notices, *self._warnings()),
        )

    def _warnings(self) -> list[str]:
        without = self._counts["without"]
        if not without:
            return []
        return [
            f"{without:,} queries have no negative, on which FlagEmbedding's trainers fail. Raise "
            "rank_to, or lower the margin, or drop them."
        ]

    def _sample(self, query: MiningQuery, mined: Mined) -> None:
        text = f"{self._seed}\0sample\0{query.text}".encode("utf-8", "surrogatepass")
        key = int.from_bytes(hashlib.sha256(text).digest(), "big")
        order = self._counts["queries"]
        if len(self._samples) == SAMPLES and -key <= self._samples[0][0]:
            return
        place = key % len(mined.negatives)
        first = len(mined.positives)
        sample = Sample(
            query=_cut(query.text),
            positive=_cut(mined.positives[0].text),
            negative=_cut(mined.negatives[place].text),
            positive_score=mined.scores[0] if mined.scores else None,
            negative_score=mined.scores[first + place] if mined.scores else None,
            rank=mined.ranks[place] or None,
            source=mined.sources[place],
        )
        push = heapq.heappush if len(self._samples) < SAMPLES else heapq.heapreplace
        push(self._samples, (-key, -order, sample))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _score(score: float | None) -> str:
    return "" if score is None else f"[{score:.3f}] "
