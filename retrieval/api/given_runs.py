"""Runs of other systems beside our own searches: read, and re-ranked by our second stage."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from retrieval._validate import query_text
from retrieval.errors import InvalidInput
from retrieval.evaluation.coverage import missing_queries
from retrieval.evaluation.evaluate import GivenRun
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.trec import ranking, read_run
from retrieval.search.rerank import read_candidates, reading_notices
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Candidate, Mode, SearchResult, Timings

Places = Mapping[str, str | os.PathLike[str]]
"""Name of a run → its file."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs as they were read; `reranked` names those that our second stage re-ranks, too."""

    runs: Mapping[str, Mapping[str, Mapping[str, float]]]
    reranked: frozenset[str]

    @classmethod
    def read(cls, runs: Places, beside: Places) -> Runs:
        """Read the files.

        Args:
            runs: those that are re-ranked.
            beside: those that are only measured.

        Raises:
            InvalidInput: a name that another row has or that cannot be a file's.
            CorpusError: a file is bad, see `read_run`.
        """
        taken = {f"{mode}{more}" for mode in get_args(Mode) for more in ("", "+rerank")}
        for name in (*runs, *beside):
            if name in taken or not name or Path(name).name != name:
                raise InvalidInput(
                    f"a run cannot be called {name!r}: "
                    + ("another row is" if name in taken else "a file is named after it"),
                    fix="Give it another name in front of its file: NAME=FILE.",
                )
            taken |= {name, f"{name}+rerank"}
        found = {name: read_run(path) for name, path in (*runs.items(), *beside.items())}
        return cls(found, frozenset(runs))

    def __bool__(self) -> bool:
        return bool(self.runs)

    def notices(self, judged: JudgedQueries) -> tuple[str, ...]:
        """On judged queries that a run lacks. Raises CorpusError where it lacks all of them."""
        return tuple(
            notice
            for name, run in self.runs.items()
            for notice in missing_queries(name, run, judged)
        )

    def candidates(self, judged: JudgedQueries, most: int) -> set[str]:
        """Ids of the documents that are re-ranked."""
        return {
            id_
            for name in self.reranked
            for query in judged.queries
            for id_ in ranking(self.runs[name].get(query, {}), query=query)[:most]
        }

    def given(
        self, retriever: TwoStageRetriever | None, options: Mapping[str, Any]
    ) -> list[GivenRun]:
        """As `evaluate` takes them; `options` are those of the second stage."""
        rerank = None
        if self.reranked and retriever is not None:
            if retriever.reranker is None:
                raise InvalidInput(
                    "a run was given to be re-ranked, and there is no reranker",
                    fix="Name one with --reranker, or measure the run as it is: --beside FILE.",
                )
            rerank = partial(reranked_run, retriever, options)
        return [
            GivenRun(name, run, rerank if name in self.reranked else None)
            for name, run in self.runs.items()
        ]


def reranked_run(
    retriever: TwoStageRetriever,
    options: Mapping[str, Any],
    text: str,
    scores: Mapping[str, float],
) -> SearchResult:
    """One query's results of another system, in the order of our second stage.

    All passages of a document are read, at the document's rank and score. As in a search, the
    blend joins both orders by default; what the reranker weighs in it is that behind hybrid
    search, since nothing says what found these.

    Args:
        retriever: its collection has the texts.
        options: of the search: read, blend, blend_weight, budget_ms.
        text: of the query.
        scores: document id → score, best first.

    Returns:
        As a search does; the time is that of reading texts and of the second stage.
    """
    query_text(text)
    started = time.perf_counter()
    stored = retriever.index.document_passages(list(scores), tenant=retriever.tenant)
    found = [
        Candidate(passage, score, 0)
        for id_, score in scores.items()
        for passage in stored.get(id_, ())
    ]
    found = [replace(one, rank=rank) for rank, one in enumerate(found, start=1)]
    depth = max(len(found), 1)
    plan = retriever.plan(
        mode="hybrid", rerank=True, top_k=depth, candidates=depth, fetch=depth, **options
    )
    assert plan.reranker is not None  # `Runs.given` looked
    read = read_candidates([text], [found], plan, None)[0]
    hits = [replace(hit, rank=rank) for rank, hit in enumerate((*read.hits, *read.rest), start=1)]
    notices = [*retriever.notices, *reading_notices(read, plan, hits, 1)]
    if len(stored) < len(scores):
        notices.append(
            "Documents of a run that are not in the collection were not read; they follow after "
            "those that were, in the run's order."
        )
    milliseconds = 1000 * (time.perf_counter() - started)
    return SearchResult(
        query=text,
        hits=tuple(hits),
        candidates=tuple(found),
        mode=plan.mode,
        blend=plan.blend,
        encoder="",
        reranker=plan.reranker.info.model,
        timings=Timings(0.0, 0.0, milliseconds, milliseconds),
        notices=tuple(notices),
        reranked=read.reranked,
    )
