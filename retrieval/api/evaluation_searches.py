"""The searches of an evaluation, with the options that `evaluate` knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from retrieval.search.options import SearchArguments
from retrieval.search.rerank import BUDGET_NOTICE
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import BlendChoice, Fusion, Mode, Pipeline, SearchResult


class Searches:
    """Searches with a budget for each query, and reports once how deep the re-ranking went."""

    def __init__(
        self,
        retriever: TwoStageRetriever,
        budget_ms: float | None,
        fusion: Fusion | None,
        second_stage: Mapping[str, Any],
    ) -> None:
        self._retriever = retriever
        self._budget_ms = budget_ms
        self._fusion = fusion
        self._second_stage = second_stage
        self._depths: list[int] = []
        self._wanted = 0

    def search_batch(
        self, queries: Sequence[str], **options: Unpack[SearchArguments]
    ) -> list[SearchResult]:
        """One result a query, in order."""
        if self._budget_ms is not None:
            options["budget_ms"] = self._budget_ms * len(queries)
        results = self._retriever.search_batch(queries, **self._completed(options))
        if self._budget_ms is None:
            return results
        self._depths += [result.reranked for result in results]
        self._wanted += sum(
            min(len(result.candidates), options["candidates"] or len(result.candidates))
            for result in results
            if result.reranker is not None
        )
        # One sentence on all queries says more than one each.
        return [
            replace(
                result,
                notices=tuple(n for n in result.notices if not n.startswith(BUDGET_NOTICE)),
            )
            for result in results
        ]

    def _completed(self, options: SearchArguments) -> Any:
        more: dict[str, Any] = dict(self._second_stage)
        if options["mode"] == "hybrid":
            more["fusion"] = self._fusion
        return {**options, **more}

    def pipelines(
        self,
        modes: Sequence[Mode],
        rerank: bool,
        blend: BlendChoice | None,
        candidates: int,
        depth: int,
    ) -> dict[str, Pipeline]:
        """What each mode's searches were made of, defaults settled."""
        return {
            mode: self._retriever.plan(
                **self._completed(
                    {
                        "mode": mode, "rerank": rerank, "blend": blend, "candidates": candidates,
                        "top_k": depth, "fetch": depth,
                    }
                )
            ).pipeline
            for mode in modes
        }  # fmt: skip

    def notices(self) -> tuple[str, ...]:
        """How deep the budget went, where it ended the second stage early."""
        if sum(self._depths) >= self._wanted:
            return ()
        mean = sum(self._depths) / len(self._depths)
        return (
            f"{BUDGET_NOTICE} {self._budget_ms:g} ms a query re-ranked {mean:.1f} of "
            f"{self._wanted / len(self._depths):.1f} candidates on average, and at least "
            f"{min(self._depths)}.",
        )
