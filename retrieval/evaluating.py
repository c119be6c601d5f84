"""Evaluate on a BEIR folder: index its corpus (or take a collection as it is), search, measure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Literal

from retrieval.errors import InvalidInput
from retrieval.evaluation.beir import load_beir
from retrieval.evaluation.evaluate import EvaluationReport, check_settings, evaluate
from retrieval.ingestion import IngestProgressCallback
from retrieval.models.choice import AUTO, NONE
from retrieval.models.resolve import resolve
from retrieval.opening import DEFAULT_STORE, ingest, open
from retrieval.types import Blend, Mode

DEFAULT_MEASURES = ("nDCG@10", "MRR@10", "recall@100")


def evaluate_folder(
    folder: str | os.PathLike[str],
    *,
    split: str = "test",
    modes: Sequence[Mode] = ("dense", "sparse", "hybrid"),
    rerank: bool = True,
    encoder: str | None = None,
    reranker: str = "auto",
    blend: Blend | None = None,
    candidates: int = 50,
    measures: Sequence[str] = DEFAULT_MEASURES,
    corpus: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    store: str | os.PathLike[str] = DEFAULT_STORE,
    passages: Literal["whole", "split"] = "whole",
    language: str = "auto",
    pooling: str | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    api_key: str | None = None,
    on_index: IngestProgressCallback | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
    **model_options: Any,
) -> EvaluationReport:
    """Measure every first stage, without and with re-ranking, on judged queries.

    Args:
        folder: BEIR layout: queries.jsonl, qrels/<split>.tsv and, unless `corpus` or
            `collection` says otherwise, corpus.jsonl.
        corpus: another source of the documents, e.g. "python-docs".
        collection: an existing collection to search as it is; nothing is indexed.
        passages: "whole" indexes one passage a document, as published BEIR figures do (what is
            over the encoder's length is cut); "split" splits as `retrieval index` does.
        pooling, query_instruction, passage_instruction, max_length: as for `ingest`.
        limit: only the first so many queries, for a quick look.
        api_key: for a Qdrant server that holds `collection`.
        on_index, on_search: progress of indexing, and of searching as (what, done, total).

    Raises:
        CorpusError: a file of the folder is missing or bad.
        InvalidInput: an argument's value cannot be used.
    """
    # `evaluate` checks them as well, but only after the corpus has been indexed.
    check_settings(modes, measures, candidates=candidates)
    beir = load_beir(folder, split=split)
    queries = beir.queries if limit is None else dict(list(beir.queries.items())[:limit])
    qrels = {query: beir.qrels[query] for query in queries}

    def run(name: str, where: str | os.PathLike[str]) -> EvaluationReport:
        with open(
            name,
            store=where,
            encoder=encoder if collection is not None else None,
            reranker=reranker if rerank else None,
            api_key=api_key if collection is not None else None,
            **model_options,
        ) as retriever:
            return evaluate(
                retriever,
                queries,
                qrels,
                modes=modes,
                rerank=rerank,
                blend=blend,
                candidates=candidates,
                measures=measures,
                progress=on_search,
            )

    if collection is not None:
        return run(collection, store)
    if passages not in ("whole", "split"):
        raise InvalidInput(
            f"passages is {passages!r}, expected 'whole' or 'split'",
            fix="Use 'whole' to compare with published figures, 'split' for what a user gets.",
        )
    if rerank and reranker not in (AUTO, NONE):
        resolve(reranker, "reranker")  # a mistyped name must not cost an hour of indexing
    # A collection of its own, in a folder that goes away: an evaluation leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix="retrieval-eval-") as scratch:
        ingest(
            folder if corpus is None else corpus,
            "eval",
            store=scratch,
            encoder=encoder or "auto",
            language=language,
            max_tokens="default" if passages == "split" else None,
            pooling=pooling,
            query_instruction=query_instruction,
            passage_instruction=passage_instruction,
            max_length=max_length,
            progress=on_index,
            **model_options,
        )
        return run("eval", scratch)
