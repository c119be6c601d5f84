"""Retrieval tests: what a search must find, and whether it did.

A case is a question with what its first hits must and must not hold. `retrieval.api.case_file`
reads cases from TOML, `retrieval.api.run_cases` searches, `judge` here decides, and `CasesReport`
(cases_report.py) says what came of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from retrieval.evaluation.resolve import names
from retrieval.types import Hit, Passage, SearchResult

DEFAULT_WITHIN = 5
_SHOWN = 5  # hits that a failure names


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one hit must be: of this document, with these words, or both where both are given.

    document: a document as a person types it, see `retrieval.evaluation.resolve`: its id, its path
        or the end of it ("travel.md", "handbook/travel.md"), with "#page=3" or "#A heading" behind
        it for a part. A file of rows (CSV, JSON Lines) is named by its path, one row by its id.
    text: words that stand in the passage, its title or its headings, in this order; upper and
        lower case, kinds of blanks and Unicode's compatible forms are all one.
    """

    document: str | None = None
    text: str | None = None

    def fits(self, passage: Passage) -> bool:
        """Whether this passage is one that is meant."""
        if self.document is not None and not names(self.document, passage):
            return False
        return self.text is None or _plain(self.text) in _plain(passage.content)

    def __str__(self) -> str:
        parts = [] if self.document is None else [repr(self.document)]
        parts += [] if self.text is None else [f"a passage with the words {self.text!r}"]
        return ": ".join(parts)


@dataclass(frozen=True, slots=True)
class Case:
    """A question and what its answer must be like.

    Attributes:
        name: each case of a file has its own.
        question: as a user asks it.
        must_contain, must_not_contain: what the first hits have to hold, and must not.
        min_recall: the share of `must_contain` that has to be there, above 0 and in hundredths:
            0.67 is two of three. 1 means all of them.
        max_ms: the longest time of a search, in milliseconds.
        nothing_relevant: there must be no hit at all; needs the option min_relevance.
        options: of the search, see `SearchOptions`; its `top_k` is how many hits count.
    """

    name: str
    question: str
    must_contain: tuple[Wanted, ...] = ()
    must_not_contain: tuple[Wanted, ...] = ()
    min_recall: float = 1.0
    max_ms: float | None = None
    nothing_relevant: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: {"top_k": DEFAULT_WITHIN})

    @property
    def within(self) -> int:
        """How many hits count."""
        return int(self.options["top_k"])


@dataclass(frozen=True, slots=True)
class QualityCase:
    """Judged queries, and how good their answers must be on average.

    Attributes:
        name: as of a case.
        judgements: see `load_judgements`.
        split: which of its judgements.
        qrels: a file of judgements in place of its own, likewise.
        measure: see `retrieval.evaluation.metrics`.
        at_least: the smallest mean that passes.
        options: of the searches; how many hits count is the measure's business.
    """

    name: str
    judgements: Path
    split: str
    measure: str
    at_least: float
    qrels: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


State: TypeAlias = Literal["ok", "failed", "error"]


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What came of a case.

    Attributes:
        name: of the case.
        question: of the case; empty for judged queries.
        state: "ok", "failed", or "error" where it could not be searched.
        problems: why it failed, a sentence each without a full stop.
        ms: milliseconds of its search; the best try where `max_ms` is given. None where there was
            none.
        hits: the hits that counted, best first.
        figure: the mean of the measure over judged queries; None for other cases.
        exit_code: of the error, see `RetrievalError`; 0 where there was none.
    """

    name: str
    question: str
    state: State
    problems: tuple[str, ...] = ()
    ms: float | None = None
    hits: tuple[Hit, ...] = ()
    figure: float | None = None
    exit_code: int = 0

    @property
    def why(self) -> str:
        """The problems in one line; empty where there is none."""
        return "; ".join(self.problems)


def judge(
    case: Case, result: SearchResult, ms: float, further: Callable[[], Sequence[Hit]]
) -> CaseOutcome:
    """Whether a search's answer is what its case asks for.

    Args:
        case: what is asked for.
        result: of the search with the case's options.
        ms: how long the search took.
        further: gets the hits after those of the result, for saying where a missing one is; called
            only where one is missing.
    """
    hits = result.hits
    problems = _missing(case, result, further)
    for unwanted in case.must_not_contain:
        ranks = [hit.rank for hit in hits if unwanted.fits(hit.passage)]
        if ranks:
            problems.append(
                f"{unwanted} is at rank {ranks[0]}, and must not be within the first {case.within}"
            )
    if case.nothing_relevant and hits:
        least = case.options.get("min_relevance", "the collection's own")
        problems.append(f"expected no hit with min_relevance {least}, found {_listed(hits)}")
    elif problems:
        problems.append(f"found {_listed(hits)}" if hits else "found nothing at all")
    if case.max_ms is not None and ms > case.max_ms:
        problems.insert(0, f"the search took {ms:.0f} ms, at most {case.max_ms:g} ms are allowed")
    state: State = "failed" if problems else "ok"
    return CaseOutcome(case.name, case.question, state, tuple(problems), ms, hits)


def _missing(case: Case, result: SearchResult, further: Callable[[], Sequence[Hit]]) -> list[str]:
    """Sentences on what the hits lack of `must_contain`, where that is more than may be missing."""
    wanted = case.must_contain
    missing = [one for one in wanted if not any(one.fits(hit.passage) for hit in result.hits)]
    found = len(wanted) - len(missing)
    # shares are compared in hundredths, so that 0.67 is 2 of 3; 1 means all of them
    if not missing or (case.min_recall < 1 and found / len(wanted) >= case.min_recall - 0.005):
        return []
    problems = []
    if case.min_recall < 1:
        problems.append(
            f"{found} of {len(wanted)} are within the first {case.within}, expected a share of at "
            f"least {case.min_recall:g}"
        )
    later = further()
    for one in missing:
        hit = next((hit for hit in later if one.fits(hit.passage)), None)
        first = next((c for c in result.candidates if one.fits(c.passage)), None)
        if hit is not None:
            where = f"it is at rank {hit.rank}"
        elif first is not None:
            where = f"the first stage has it at rank {first.rank}, the answer left it out"
        else:
            where = f"it is not among the {len(result.candidates)} candidates of the first stage"
        problems.append(f"{one} is not within the first {case.within}: {where}")
    return problems


def _listed(hits: Sequence[Hit]) -> str:
    """Ranks, documents and relevances of the first hits, in a line."""
    shown = [
        f"{hit.rank}. {hit.passage.document_id}"
        + ("" if hit.relevance is None else f" (relevance {hit.relevance:.2g})")
        for hit in hits[:_SHOWN]
    ]
    more = [f"and {len(hits) - _SHOWN} more"] if len(hits) > _SHOWN else []
    return ", ".join(shown + more)


def _plain(text: str) -> str:
    """As `Wanted.text` is compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
