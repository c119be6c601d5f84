"""Compare settings on judged queries: index, search, measure, and say which one to take."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from retrieval._validate import number, whole_number
from retrieval.api.compare_collection import check_varying
from retrieval.api.compare_cost import estimated_seconds
from retrieval.api.compare_job import ComparisonJob, in_order
from retrieval.api.compare_models import ComparedModels
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.comparison import ComparisonReport, SettingResult, compared
from retrieval.evaluation.comparison_folder import ComparisonFolder, digest
from retrieval.evaluation.grid import names
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.metrics import display_name
from retrieval.evaluation.settings import Setting
from retrieval.index.store import DEFAULT_STORE, Store, StoreLike
from retrieval.ingestion import IngestProgressCallback

SettingCallback: TypeAlias = Callable[[int, int, SettingResult], None]
"""Called as `on_setting(done, total, result)` after each setting."""

MEASURE = "nDCG@10"
DEPTH = 100
"""Passages that are ranked for each query, or more where more are re-ranked."""


def compare_settings(
    judged: str | os.PathLike[str],
    settings: Sequence[Setting],
    *,
    output: str | os.PathLike[str],
    resume: bool = False,
    split: str = "test",
    qrels: str | os.PathLike[str] | None = None,
    corpus: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    store: StoreLike = DEFAULT_STORE,
    tenant: str | None = None,
    measure: str = MEASURE,
    limit: int | None = None,
    most_minutes: float | None = None,
    language: str = "auto",
    api_key: str | None = None,
    on_index: IngestProgressCallback | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
    on_setting: SettingCallback | None = None,
    on_notice: Callable[[str], None] | None = None,
    **running: Any,
) -> ComparisonReport:
    """Measure settings on judged queries, and compare every pair of them.

    Every text is encoded once per encoder, and every pair of texts scored once per reranker,
    however many settings there are; the searches are those of `TwoStageRetriever`. Each setting
    that is done is kept in `output` at once.

    Args:
        judged: see `load_judgements`.
        settings: as `retrieval.evaluation.grid` makes them; the first one is the baseline.
        output: a folder for what is measured; a new or empty one, or with `resume` that of a
            comparison that was interrupted.
        split, qrels: of the judgements.
        corpus: the documents, where they are not the judged set's own.
        collection: compare on this collection of `store` as it is; settings may then differ in
            nothing that it was built with, but the query instruction.
        tenant: whose passages, where the collection keeps tenants apart.
        measure: what decides.
        limit: only the first queries.
        most_minutes: refuse what will take longer, before it begins.
        language: of BM25's words, see `ingest`.
        on_index, on_search, on_setting, on_notice: progress, in the calling thread; of searches as
            (setting's name, queries done, in total).
        running: how models run, as for `retrieval.open`; their dtype is the settings' own.

    Raises:
        CorpusError: judgements that cannot be read, or of documents that are not there.
        InvalidInput: fewer than two settings that differ, an argument that cannot be used, a
            folder of something else, or more work than `most_minutes`.
        ModelNotFound: a model is nowhere; before any work.
    """
    name = display_name(measure)
    if limit is not None:
        whole_number(limit, "limit")
    if most_minutes is not None:
        number(most_minutes, "most_minutes", above=0, fix="Give minutes, such as 15.")
    folder = ComparisonFolder(output)
    place = None if collection is None else Store.of(store, api_key)
    manifest = None if place is None or collection is None else place.manifest(collection)
    check_varying(settings, manifest, corpus)
    own = load_judgements(judged, split, qrels=qrels)
    queries = dict(islice(own.queries.items(), limit))
    own = replace(own, queries=queries, qrels={query: own.qrels[query] for query in queries})
    _check_documents(own, corpus, collection)
    with ComparedModels(running, manifest) as models:
        named = names(models.settle(settings))
        if len(named) < 2:
            raise InvalidInput(
                "there is one setting only"
                + (", all given have the same effect" if len(settings) > 1 else ""),
                fix="Give a dimension two values or more, such as --modes dense,hybrid.",
            )
        where = {"corpus": None if corpus is None else str(corpus), "collection": collection}
        parameters = _parameters(own, named, models, {**where, "measure": name, "limit": limit})
        folder.start(parameters, resume=resume)
        done = folder.done(named)
        job = ComparisonJob(
            own, models, name, max(DEPTH, *(one.candidates for one in named)), language, corpus,
            manifest, place, tenant, on_index, on_search,
        )  # fmt: skip
        left = in_order([one for one in named if one not in done])
        if left:
            _estimate(job, left, most_minutes, on_notice)
        places = list(named)
        for result in job.results({one: named[one] for one in left}):
            done[result.setting] = result
            folder.save(places.index(result.setting), result)
            if on_setting is not None:
                on_setting(len(done), len(named), result)
    return compared(
        [done[one] for one in named], judged=own.name, split=own.split, measure=name,
        depth=job.depth,
    )  # fmt: skip


def _estimate(
    job: ComparisonJob,
    left: Sequence[Setting],
    most_minutes: float | None,
    on_notice: Callable[[str], None] | None,
) -> None:
    """Say how long it will take; refuse it where that is longer than was asked for."""
    queries = list(job.judged.queries.values())
    seconds = estimated_seconds(left, job.models, job.sample(), queries, indexing=job.store is None)
    needed = f"{len(left)} settings need about {_duration(seconds)}"
    if most_minutes is not None and seconds > 60 * most_minutes:
        share = max(1, int(len(queries) * 60 * most_minutes / seconds))
        raise InvalidInput(
            f"{needed}, asked for {most_minutes:g} min",
            fix="Take fewer encoders, lengths of passages or candidates, or fewer queries, such as "
            f"--limit {share}.",
        )
    if on_notice is not None:
        on_notice(f"{needed} on {len(queries):,} queries.")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _check_documents(judged: JudgedQueries, corpus: object, collection: str | None) -> None:
    if corpus is None and collection is None and judged.documents() is None:
        raise InvalidInput(
            f"{judged.name!r} has no documents of its own",
            fix="Give them with --corpus SOURCE, or a collection with --collection NAME.",
        )
    if not judged.queries:
        raise InvalidInput(f"{judged.name!r} has no judged query", fix="Choose another split.")
    if corpus is not None and not isinstance(corpus, str) and not Path(str(corpus)).exists():
        raise CorpusError(f"{corpus} is not there", fix="Give the file or folder of the documents.")


def _parameters(
    judged: JudgedQueries,
    named: Mapping[Setting, str],
    models: ComparedModels,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """What two parts of one comparison must have in common."""
    return {
        "judged": judged.name,
        "split": judged.split,
        "queries": digest(judged.queries),
        "judgements": digest(judged.qrels),
        **others,
        "settings": [
            " ".join(f"{name}={value}" for name, value in one.as_dict().items()) for one in named
        ],
        "models": models.fingerprints,
    }
