"""Evaluate on a BEIR folder: index its corpus (or take a collection as it is), search, measure."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, Unpack

from retrieval._validate import one_of
from retrieval.api.ingest import ingest
from retrieval.api.open import open
from retrieval.errors import InvalidInput
from retrieval.evaluation.beir import load_beir
from retrieval.evaluation.evaluate import EvaluationReport, check_settings, evaluate
from retrieval.index.store import DEFAULT_STORE, StoreLike
from retrieval.ingestion import IngestProgressCallback
from retrieval.models.defaults import AUTO, NONE
from retrieval.models.options import (
    SETTINGS,
    EncoderOptions,
    check_reranker_named,
    checked,
    without_reranker,
)
from retrieval.models.rerankers.time_budget import checked_budget
from retrieval.models.resolve import resolve
from retrieval.search.options import DEFAULT_CANDIDATES, SearchArguments
from retrieval.search.plan import checked_fusion
from retrieval.search.rerank import BUDGET_NOTICE
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import BlendChoice, Encoder, Fusion, Mode, Reading, SearchResult

INDEXING = frozenset({"language", *SETTINGS})
"""The options that are for indexing the corpus alone."""


class EvaluationOptions(EncoderOptions, total=False):
    """How the corpus is indexed, and how both models run.

    Attributes:
        language: of BM25's words, see `ingest`.
        pooling, query_instruction, passage_instruction, max_length: of the encoder, see `ingest`.
        long_passages, window_overlap, token_cache_bytes: see `CrossEncoderReranker`.
        device, engine, …: how the models run, see `open`.
    """

    language: str
    long_passages: Literal["truncate", "windows", "error"]
    window_overlap: int
    token_cache_bytes: int


_SCRATCH = "eval"
DEFAULT_MEASURES = ("nDCG@10", "MRR@10", "recall@100")


def evaluate_folder(
    folder: str | os.PathLike[str],
    *,
    split: str = "test",
    modes: Sequence[Mode] = ("dense", "sparse", "hybrid"),
    rerank: bool = True,
    encoder: str | Encoder | None = None,
    reranker: str = "auto",
    read: Reading | None = None,
    blend: BlendChoice | None = None,
    fusion: Fusion | None = None,
    candidates: int | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    corpus: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    store: StoreLike = DEFAULT_STORE,
    passages: Literal["whole", "split"] = "whole",
    limit: int | None = None,
    budget_ms: float | None = None,
    api_key: str | None = None,
    on_index: IngestProgressCallback | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
    **options: Unpack[EvaluationOptions],
) -> EvaluationReport:
    """Measure every first stage, without and with re-ranking, on judged queries.

    Args:
        folder: BEIR layout: queries.jsonl, qrels/<split>.tsv and, unless `corpus` or
            `collection` says otherwise, corpus.jsonl.
        modes: first stages. With "lexical" among them, an encoder's term weights are indexed, too,
            and hybrid search joins all three legs.
        candidates: how many passages are re-ranked; None takes 50 on every machine.
        read: whether candidates are read whole, see `SearchOptions`.
        fusion: how hybrid search joins its legs, see `Fusion`.
        corpus: another source of the documents, such as "python-docs".
        collection: an existing collection to search as it is; nothing is indexed.
        passages: "whole" indexes each document as one passage, as published BEIR figures do (text
            over the encoder's length is cut); "split" splits as `retrieval index` does.
        limit: only the first `limit` queries, for a quick look.
        budget_ms: milliseconds a query for the second stage, see `TwoStageRetriever.search`. The
            queries of a batch share what they have together.
        api_key: for the Qdrant server of `collection`.
        on_index, on_search: progress of indexing, and of searching as (what, done, total).
        options: how the corpus is indexed and how the models run, see `EvaluationOptions`.

    Returns:
        The measures of each combination of mode and second stage, and their runs.

    Raises:
        CorpusError: a file of the folder is missing or bad.
        InvalidInput: an argument's value cannot be used.
    """
    candidates = DEFAULT_CANDIDATES if candidates is None else candidates
    running: Any = {name: value for name, value in options.items() if name not in INDEXING}
    # Checked now: a mistake must not cost the time of indexing the corpus.
    check_settings(modes, measures, candidates=candidates)
    _check_search(modes, fusion, read, budget_ms, lexical=collection is not None)
    _check_models(reranker if rerank else NONE, running, passages, resolved=collection is None)
    judged = load_beir(folder, split=split)
    queries = dict(islice(judged.queries.items(), limit))
    running |= {"encoder": encoder, "reranker": reranker if rerank else None, "api_key": api_key}
    with contextlib.ExitStack() as stack:
        if collection is None:
            made = _indexed(corpus or folder, running, modes, passages, on_index, options)
            store = stack.enter_context(made)
        retriever = stack.enter_context(open(collection or _SCRATCH, store=store, **running))
        searcher = _Searches(retriever, budget_ms, fusion, read)
        report = evaluate(
            searcher, queries, {query: judged.qrels[query] for query in queries}, modes=modes,
            rerank=rerank, blend=blend, candidates=candidates, measures=measures,
            progress=on_search, key=judged.key,
        )  # fmt: skip
    return replace(report, notices=(*report.notices, *searcher.notices()))


def _check_search(
    modes: Sequence[Mode],
    fusion: Fusion | None,
    read: Reading | None,
    budget_ms: float | None,
    *,
    lexical: bool,
) -> None:
    """lexical: whether a third leg is possible without the mode "lexical"."""
    for mode in modes:
        one_of(mode, Mode, "the mode")
    if fusion is not None:
        if "hybrid" not in modes:
            raise InvalidInput(
                f"a fusion was given, and hybrid is not among the modes ({', '.join(modes)})",
                fix="Leave the fusion out, or measure the mode hybrid.",
            )
        checked_fusion(fusion, legs=3 if "lexical" in modes or lexical else 2)
    if read is not None:
        one_of(read, Reading, "read")
    if budget_ms is not None:
        checked_budget(budget_ms)


def _check_models(
    reranker: str, options: Mapping[str, Any], passages: str, *, resolved: bool
) -> None:
    """resolved: whether a named reranker is looked for, too."""
    checked(options, reranker=reranker != NONE)
    if reranker not in (AUTO, NONE):
        check_reranker_named(reranker, options)
        if resolved:
            resolve(reranker, "reranker")
    if passages not in ("whole", "split"):
        raise InvalidInput(
            f"passages is {passages!r}, expected 'whole' or 'split'",
            fix="Use 'whole' to compare with published figures, 'split' for what a user gets.",
        )


@contextlib.contextmanager
def _indexed(
    source: str | os.PathLike[str],
    running: dict[str, Any],
    modes: Sequence[Mode],
    passages: str,
    progress: IngestProgressCallback | None,
    options: EvaluationOptions,
) -> Iterator[str]:
    """The store of a collection made from the source, which is deleted after the block.

    The encoder and the key of a server, in `running`, are not for opening it: they are dropped.
    """
    making: Any = without_reranker(options)
    encoder = running.pop("encoder") or "auto"
    del running["api_key"]
    with tempfile.TemporaryDirectory(prefix="retrieval-eval-") as store:
        ingest(
            source, _SCRATCH, store=store, encoder=encoder,
            max_tokens="default" if passages == "split" else None,
            lexical="lexical" in modes, progress=progress, **making,
        )  # fmt: skip
        yield store


class _Searches:
    """Searches with a budget for each query, and reports once how deep the re-ranking went."""

    def __init__(
        self,
        retriever: TwoStageRetriever,
        budget_ms: float | None,
        fusion: Fusion | None,
        read: Reading | None,
    ) -> None:
        self._retriever = retriever
        self._budget_ms = budget_ms
        self._fusion = fusion
        self._read = read
        self._depths: list[int] = []
        self._wanted = 0

    def search_batch(
        self, queries: Sequence[str], **options: Unpack[SearchArguments]
    ) -> list[SearchResult]:
        if self._budget_ms is not None:
            options["budget_ms"] = self._budget_ms * len(queries)
        if options["mode"] == "hybrid":
            options["fusion"] = self._fusion
        options["read"] = self._read
        results = self._retriever.search_batch(queries, **options)
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
