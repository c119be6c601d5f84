"""`run_cases`: retrieval tests on an open collection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from retrieval.api.case_file import CaseFile, load_cases
from retrieval.errors import InvalidInput, RetrievalError
from retrieval.evaluation.cases import Case, CaseOutcome, QualityCase, judge
from retrieval.evaluation.cases_report import CasesReport
from retrieval.evaluation.evaluate import evaluate
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.resolve import resolve, unknown
from retrieval.search.options import DEFAULT_CANDIDATES, SearchArguments
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Hit, SearchResult

_TRIES = 3  # of a search that is to be fast: a busy machine is not a slow one
_LOOKED_THROUGH = 50  # hits after those that count, for saying where a missing one is


def run_cases(
    cases: CaseFile | str | os.PathLike[str],
    retriever: TwoStageRetriever,
    *,
    on_case: Callable[[CaseOutcome], object] | None = None,
) -> CasesReport:
    """Search every case's question and compare the answers with what the cases ask for.

    Args:
        cases: of `load_cases`, or its file. Which collection it names is not looked at: the
            retriever's is searched.
        retriever: see `retrieval.open`.
        on_case: called with each outcome as soon as there is one.

    Returns:
        An outcome for each case. A case that cannot be searched is an error and stops no other.

    Raises:
        CorpusError: as `load_cases`.

    Example:
        >>> import retrieval
        >>> from pathlib import Path
        >>> from retrieval.api.run_cases import run_cases
        >>> documents = [retrieval.Document("soup", "Soup is served at noon.")]
        >>> _ = retrieval.ingest(documents, "menu", encoder="starter")
        >>> text = "[[case]]\\nquestion = 'When can I eat?'\\nmust_contain = ['text:at noon']"
        >>> _ = Path("cases.toml").write_text(text)
        >>> with retrieval.open("menu", reranker=None) as retriever:
        ...     run_cases("cases.toml", retriever).passed
        True
    """
    file = cases if isinstance(cases, CaseFile) else load_cases(cases)
    started = time.perf_counter()
    notices: dict[str, None] = dict.fromkeys(retriever.notices)
    outcomes: list[CaseOutcome] = []

    def done(outcome: CaseOutcome) -> None:
        outcomes.append(outcome)
        if on_case is not None:
            on_case(outcome)

    for case in file.cases:
        outcome = run_case(case, retriever)
        done(outcome)
        if outcome.state != "error":
            notices.update(dict.fromkeys(_idle(case, retriever)))
    for quality in file.quality:
        done(_run_quality(quality, retriever, notices))
    return CasesReport(
        source=str(file.path),
        collection=retriever.index.manifest.collection,
        outcomes=tuple(outcomes),
        seconds=time.perf_counter() - started,
        notices=tuple(notices),
    )


def run_case(case: Case, retriever: TwoStageRetriever) -> CaseOutcome:
    """Search one case's question and compare the answer with what it asks for.

    Where it has `max_ms`, the first search warms up; then there are up to three until one is fast
    enough, and the fastest counts.
    """
    try:
        _check(case, retriever)
        result = retriever.search(case.question, **_arguments(case.options))
        ms = result.timings.total_ms
        if case.max_ms is not None:
            ms = _fastest(case, case.max_ms, retriever)
        return judge(case, result, ms, lambda: _further(case, retriever))
    except RetrievalError as error:
        return _error(case, case.question, error)


def needs_reranker(file: CaseFile) -> bool:
    """Whether any of the cases is searched with a second stage."""
    every: list[Case | QualityCase] = [*file.cases, *file.quality]
    return any(case.options.get("rerank") is not False for case in every)


def _check(case: Case, retriever: TwoStageRetriever) -> None:
    plan = retriever.plan(**_arguments(case.options))
    if case.nothing_relevant and not plan.relevance.limited:
        raise InvalidInput(
            "nothing_relevant was given without min_relevance, and every search finds something",
            fix="Give the relevance that a hit must have: min_relevance = 0.4",
        )


def _idle(case: Case, retriever: TwoStageRetriever) -> list[str]:
    """What a case forbids that is not there anyway: a mistyped name would never fail."""
    names = [one.document for one in case.must_not_contain if one.document is not None]
    if not names:
        return []
    tenant = case.options.get("tenant") or retriever.tenant
    return [
        f"{case.name!r} must not find {name!r}, which the collection does not hold: correct the "
        "name, or take it out."
        for name in unknown(names, retriever.index, tenant=tenant)
    ]


def _fastest(case: Case, enough: float, retriever: TwoStageRetriever) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        result = retriever.search(case.question, **_arguments(case.options))
        best = min(best, result.timings.total_ms)
        if best <= enough:
            break
    return best


def _further(case: Case, retriever: TwoStageRetriever) -> Sequence[Hit]:
    options = {**case.options, "offset": case.within, "top_k": _LOOKED_THROUGH}
    return retriever.search(case.question, **_arguments(options)).hits


def _run_quality(
    case: QualityCase, retriever: TwoStageRetriever, notices: dict[str, None]
) -> CaseOutcome:
    options = dict(case.options)
    try:
        plan = retriever.plan(**_arguments(options))
        judged = load_judgements(case.judgements, case.split, qrels=case.qrels)
        judged = resolve(judged, retriever.index, tenant=plan.options.tenant)
        report = evaluate(
            _WithOptions(retriever, options), judged.queries, judged.qrels, modes=[plan.mode],
            rerank=plan.reranker is not None, blend=options.get("blend"),
            candidates=plan.options.candidates or DEFAULT_CANDIDATES,
            measures=[case.measure], key=judged.key,
        )  # fmt: skip
    except RetrievalError as error:
        return _error(case, "", error)
    notices.update(dict.fromkeys(report.notices))
    row = report.rows[-1]  # the second stage's, where there is one
    figure = row.measures[case.measure]
    problems: tuple[str, ...] = ()
    if figure < case.at_least:
        problems = (
            f"{case.measure} is {figure:.4f} on {report.queries} queries, expected at least "
            f"{case.at_least:g}",
        )
    return CaseOutcome(
        case.name, "", "failed" if problems else "ok", problems, row.ms_per_query, figure=figure
    )


class _WithOptions:
    """A retriever whose searches have these options beside those that an evaluation chooses."""

    def __init__(self, retriever: TwoStageRetriever, options: Mapping[str, Any]) -> None:
        self._retriever = retriever
        self._options = options

    def search_batch(
        self, queries: Sequence[str], **options: Unpack[SearchArguments]
    ) -> list[SearchResult]:
        return self._retriever.search_batch(queries, **_arguments({**self._options, **options}))


def _arguments(options: Mapping[str, Any]) -> SearchArguments:
    return options  # type: ignore[return-value]  # checked when the file was read


def _error(case: Case | QualityCase, question: str, error: RetrievalError) -> CaseOutcome:
    return CaseOutcome(case.name, question, "error", (str(error),), exit_code=error.exit_code)
