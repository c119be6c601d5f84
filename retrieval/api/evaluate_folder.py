"""Evaluate on judged queries: index their corpus or take a collection as it is, search, measure."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

from retrieval._validate import one_of
from retrieval.api.evaluation_origin import origin
from retrieval.api.evaluation_searches import Searches
from retrieval.api.given_runs import Places, Runs
from retrieval.api.ingest import ingest
from retrieval.api.open import open
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.coverage import missing_documents
from retrieval.evaluation.evaluate import EvaluationReport, check_settings, evaluate
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.resolve import resolve as found_in
from retrieval.index.store import DEFAULT_STORE, StoreLike
from retrieval.ingestion import IngestProgressCallback
from retrieval.ingestion.input_checks import AnySource
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
from retrieval.search.options import DEFAULT_CANDIDATES
from retrieval.search.plan import checked_fusion
from retrieval.types import BlendChoice, Encoder, Fusion, Mode, Reading

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
    qrels: str | os.PathLike[str] | None = None,
    modes: Sequence[Mode] = ("dense", "sparse", "hybrid"),
    rerank: bool = True,
    encoder: str | Encoder | None = None,
    reranker: str = "auto",
    read: Reading | None = None,
    blend: BlendChoice | None = None,
    blend_weight: float | None = None,
    fusion: Fusion | None = None,
    candidates: int | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    runs: Places | None = None,
    beside: Places | None = None,
    corpus: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    store: StoreLike = DEFAULT_STORE,
    tenant: str | None = None,
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
        folder: judged queries in any format that `load_judgements` reads. What a file of one's
            own names as relevant is looked up in the collection, see
            `retrieval.evaluation.resolve`.
        split, qrels: which judgements, see `load_judgements`.
        modes: first stages. With "lexical" among them, an encoder's term weights are indexed, too,
            and hybrid search joins all three legs. With `runs` or `beside` there may be none.
        candidates: how many passages are re-ranked; None takes 50 on every machine.
        read, blend, blend_weight: of the second stage, see `SearchOptions`.
        fusion: how hybrid search joins its legs, see `Fusion`.
        runs: other systems' results by name: measured, and their first `candidates` re-ranked
            (see `retrieval.api.given_runs`).
        beside: other systems' results by name, only measured.
        corpus: another source of the documents, such as "python-docs".
        collection: an existing collection to search as it is; nothing is indexed.
        tenant: of the collection, where it keeps tenants apart.
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
        CorpusError: a file is missing or bad; what is judged relevant is not in the collection;
            or a run has results for none of the judged queries.
        InvalidInput: an argument's value cannot be used.
    """
    parameters = dict(locals())
    parameters |= parameters.pop("options")
    for name in ("on_index", "on_search"):
        del parameters[name]
    candidates = DEFAULT_CANDIDATES if candidates is None else candidates
    running: Any = {name: value for name, value in options.items() if name not in INDEXING}
    # Checked now: a mistake must not cost the time of indexing the corpus.
    check_settings(
        modes, measures, candidates=candidates, without_modes=bool(runs or beside)
    )  # fmt: skip
    _check_search(modes, fusion, read, budget_ms, lexical=collection is not None)
    second = rerank and (bool(modes) or bool(runs))
    _check_models(reranker if second else NONE, running, passages, resolved=collection is None)
    if runs and (not rerank or reranker == NONE):
        raise InvalidInput(
            "a run was given to be re-ranked, and no second stage is wanted",
            fix="Measure the run as it is: --beside FILE.",
        )
    judged = load_judgements(folder, split, qrels=qrels).first(limit)
    others = Runs.read(runs or {}, beside or {})
    notices = others.notices(judged)
    running |= {"encoder": encoder, "reranker": reranker if second else None, "api_key": api_key}
    with contextlib.ExitStack() as stack:
        if not modes and not runs and not judged.typed:
            return _runs_alone(judged, others, measures, notices, parameters)
        if collection is None:
            wanted = None if modes else others.candidates(judged, candidates)
            source = _source(judged, corpus, wanted)
            made = _indexed(source, running, modes, passages, on_index, options)
            store = stack.enter_context(made)
        retriever = stack.enter_context(
            open(collection or _SCRATCH, store=store, tenant=tenant, **running)
        )
        judged = found_in(judged, retriever.index, tenant=tenant)
        if modes:
            notices += missing_documents(judged, retriever.index, tenant=tenant)
        second_stage = {"read": read, "blend_weight": blend_weight}
        searcher = Searches(retriever, budget_ms, fusion, second_stage)
        report = evaluate(
            searcher, judged.queries, judged.qrels, modes=modes, rerank=rerank, blend=blend,
            candidates=candidates, measures=measures, progress=on_search, key=judged.key,
            runs=others.given(retriever, {**second_stage, "blend": blend, "budget_ms": budget_ms}),
        )  # fmt: skip
        parameters |= {
            "candidates": candidates,
            "depth": report.depth,
            "batch_size": report.batch_size,
            "pipelines": searcher.pipelines(modes, rerank, blend, candidates, report.depth),
            "manifest": retriever.index.manifest,
        }
    return _with_origin(report, judged, parameters, notices, searcher.notices())


def _runs_alone(
    judged: JudgedQueries,
    others: Runs,
    measures: Sequence[str],
    notices: tuple[str, ...],
    parameters: dict[str, Any],
) -> EvaluationReport:
    """Runs that are only measured: no document is needed, nor a model."""
    report = evaluate(
        None, judged.queries, judged.qrels, modes=(), measures=measures, key=judged.key,
        runs=others.given(None, {}),
    )  # fmt: skip
    return _with_origin(report, judged, parameters, notices)


def _with_origin(
    report: EvaluationReport,
    judged: JudgedQueries,
    parameters: dict[str, Any],
    before: tuple[str, ...],
    after: tuple[str, ...] = (),
) -> EvaluationReport:
    """The report with what else is to be told, and where it comes from."""
    files = [*(parameters["runs"] or {}).values(), *(parameters["beside"] or {}).values()]
    return replace(
        report,
        notices=(*before, *report.notices, *after),
        origin=origin(judged, parameters, files),
    )


def _source(
    judged: JudgedQueries, corpus: str | os.PathLike[str] | None, wanted: set[str] | None
) -> AnySource:
    """Where the documents are; only the wanted ones, where that is not None.

    Raises:
        CorpusError: nowhere.
    """
    if corpus is not None:
        return corpus
    documents = judged.documents()
    if documents is None:
        raise CorpusError(
            f"the judged queries of {judged.name!r} come without documents",
            fix="Name an indexed collection with --collection, or with --corpus the documents to "
            "index for it.",
        )
    if wanted is not None:
        return (document for document in documents if document.id in wanted)
    return judged.corpus_file or documents


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
    source: AnySource,
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
