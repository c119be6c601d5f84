"""`ingest_with_ray`: the driver of a distributed indexing run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retrieval._validate import whole_number
from retrieval.api.ingest import ingest
from retrieval.distributed.actor_counts import (
    READ_CPUS,
    SPLIT_CPUS,
    WRITE_CPUS,
    ActorCounts,
    plan_actors,
)
from retrieval.distributed.actors import Encode, EncoderFactory, Job, Read, Split, Write
from retrieval.distributed.cluster import connected, limits, one_item_a_block
from retrieval.distributed.messages import Counts, Failure, unpacked
from retrieval.distributed.partitions import BATCH_CHARACTERS
from retrieval.distributed.report import ReportTotals
from retrieval.distributed.sources import Source, check_source, opened
from retrieval.distributed.writers import Target, access_to, start_owner, this_machine
from retrieval.errors import CollectionNotFound, InvalidInput, RetrievalError
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.ingestion.collection_settings import SAMPLE_DOCUMENTS
from retrieval.ingestion.input_checks import AnySource
from retrieval.models.options import of_encoder
from retrieval.readers.options import ColumnsLike, ReadOptions
from retrieval.types import Document, IngestReport

if TYPE_CHECKING:
    from retrieval.ingestion import IngestProgressCallback

BATCH_DOCUMENTS = 256

_RESTARTS = 20
_RETRIES = 5
"""How often a worker is started again, and one batch tried again, after a worker was killed."""


def ingest_with_ray(
    source: AnySource,
    collection: str = DEFAULT_COLLECTION,
    *,
    store: StoreLike = DEFAULT_STORE,
    encoder: str | EncoderFactory = "auto",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: float = 1.0,
    batch: int = BATCH_DOCUMENTS,
    address: str | None = None,
    on_error: Literal["skip", "raise"] = "skip",
    encoding: str | None = None,
    columns: ColumnsLike | None = None,
    all_files: bool = False,
    follow_links: bool = False,
    tenant: str | None = None,
    version: str | None = None,
    progress: IngestProgressCallback | None = None,
    on_notice: Callable[[str], None] | None = None,
    api_key: str | None = None,
    **options: Any,
) -> IngestReport:
    """`retrieval.ingest` on the machines of a Ray cluster; ends in the same collection.

    Reading, splitting, encoding and writing run beside each other in separate processes. A
    worker that is killed is started again and its work done again, which changes nothing: ids are
    stable and a write replaces. A run that is stopped is continued by starting it again. The first
    documents of a new collection are indexed by one worker alone: they decide what it is.

    Args:
        source: a file or folder that every machine sees under the same path; "python-docs"; or
            documents, which are put into Ray's object store first (it spills to disk).
        collection: made when it does not exist; otherwise its own models and splitter are used.
        store: URL of a Qdrant server, or a `Store` of one, to which several workers write; or a
            folder of the driver's machine, which one process then reads and writes for all.
        encoder: a model's name or hub id, or a folder that every machine has; or a function
            without arguments that makes the encoder, called in each worker.
        workers: encoders that run at a time; None takes as many as the cluster has room for.
        gpus_per_worker: GPUs of each, or a share of one (0.5); None takes 1 where the cluster has
            GPUs, else 0.
        cpus_per_worker: CPUs of each; on CPUs also the threads of its model, unless `threads` is
            given.
        batch: most documents that go from stage to stage together.
        address: of a Ray cluster ("auto" for the one this machine belongs to). None uses the
            connection there is, or RAY_ADDRESS, or starts Ray on this machine for this run.
        on_error, encoding, columns, all_files, follow_links, tenant, version, progress, on_notice,
            api_key: as in `ingest`.
        options: the others of `ingest`, except for `prune`: afterwards, `ingest` with it skips what
            is unchanged and deletes what the source no longer has.

    Returns:
        As `ingest`, without duplicates by content.

    Raises:
        InvalidInput: an argument's value, or more workers than the cluster has room for.
        MissingExtra: Ray is not installed.
        Fault: workers died again and again, or failed in an unexpected way.
        As `ingest`.
    """
    _check(encoder, batch, on_error, options)
    reading = ReadOptions.of(encoding, columns, all_files, follow_links)
    check_source(source, reading)
    place = _absolute(Store.of(store, api_key))
    started = time.perf_counter()
    with connected(address) as ray:
        plan = plan_actors(
            ray.cluster_resources(),
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            cpus_per_worker=cpus_per_worker,
            one_writer=not place.is_server,
        )
        if not plan.gpus_per_encoder and not callable(encoder):
            options.setdefault("threads", max(1, int(plan.cpus_per_encoder)))
        files = opened(source, reading, batch, SAMPLE_DOCUMENTS)
        same = {**options, "tenant": tenant, "version": version}
        first = _begin(files, collection, place, encoder, plan, same)
        if on_notice is not None:
            for notice in first.notices:
                on_notice(notice)
        job = _job(place, version or place.current(collection), tenant, encoder, options)
        totals = ReportTotals(first, on_error, progress, started)
        _run(files, job, plan, reading, batch, totals)
    return totals.report(collection)


# --- checks of the arguments --------------------------------------------------------------------


def _check(encoder: object, batch: object, on_error: object, options: dict[str, Any]) -> None:
    if not isinstance(encoder, str) and not callable(encoder):
        raise InvalidInput(
            f"the encoder is a {type(encoder).__name__}; a model that is loaded here cannot be "
            "sent to other machines",
            fix="Give its name, or a function that makes it: encoder=lambda: BiEncoder(…).",
        )
    whole_number(batch, "batch", fix="Give how many documents go on together, such as 256.")
    if on_error not in ("skip", "raise"):
        raise InvalidInput(
            f"on_error is {on_error!r}, expected 'skip' or 'raise'", fix="Use one of the two."
        )
    if options.pop("prune", False):
        raise InvalidInput(
            "prune was given with Ray, whose workers each see a part of the source",
            fix="Index with Ray first, then once more without it and with prune: what is "
            "unchanged is skipped, and what the source no longer has is deleted.",
        )


def _absolute(store: Store) -> Store:
    """The store as every process sees it, wherever it was started."""
    return store if store.is_server else Store(Path(store.location).absolute())


# --- the run ----------------------------------------------------------------------------------


def _begin(
    source: Source,
    collection: str,
    store: Store,
    encoder: str | EncoderFactory,
    plan: ActorCounts,
    options: Mapping[str, Any],
) -> IngestReport:
    """Make the collection and index its first documents, or check that an existing one fits.

    A worker does it, as any run without Ray would: what a new collection is follows from its
    first documents, and the encoder may need a worker's GPU.
    """
    import ray

    try:
        store.manifest(options["version"] or collection)
        documents: tuple[Document, ...] = ()
    except CollectionNotFound:
        documents = source.first
    resources: dict[str, Any] = {"num_cpus": plan.cpus_per_encoder}
    if plan.gpus_per_encoder:
        resources["num_gpus"] = plan.gpus_per_encoder
    if not store.is_server:
        resources["scheduling_strategy"] = this_machine()
    given = {name: value for name, value in options.items() if value is not None}
    task = ray.remote(_first).options(max_retries=_RETRIES, **resources)
    result = ray.get(task.remote(documents, collection, store, encoder, given))
    if isinstance(result, Failure):
        raise result.error()
    return result


def _first(
    documents: tuple[Document, ...],
    collection: str,
    store: Store,
    encoder: str | EncoderFactory,
    options: Mapping[str, Any],
) -> IngestReport | Failure:
    try:
        made = encoder() if callable(encoder) else encoder
        return ingest(documents, collection, store=store, encoder=made, **options)
    except RetrievalError as error:
        return Failure.of(error)


def _job(
    store: Store,
    version: str,
    tenant: str | None,
    encoder: str | EncoderFactory,
    options: Mapping[str, Any],
) -> Job:
    target = Target(store, version, tenant)
    return Job(
        target,
        store.manifest(version),
        None if store.is_server else start_owner(target),
        encoder if callable(encoder) else None,
        of_encoder(options),
    )


def _run(
    source: Source,
    job: Job,
    plan: ActorCounts,
    reading: ReadOptions,
    batch: int,
    totals: ReportTotals,
) -> None:
    """Index the whole source and add up what became of it."""
    with closing(access_to(job.target, job.owner)) as access:
        totals.add(Counts(problems=source.problems))
        with closing(_items(source, job, plan, reading, batch)) as items:
            for item in items:
                totals.add(item)
        if totals.counts.passages or totals.first.passages:
            access.optimize()


def _items(
    source: Source, job: Job, plan: ActorCounts, reading: ReadOptions, batch: int
) -> Generator[Counts | Failure, None, None]:
    """What became of each batch, as they are done."""
    import ray.data

    if not source.blocks:
        return
    strategy = ray.data.ActorPoolStrategy
    kept = limits(max_restarts=_RESTARTS, max_task_retries=_RETRIES)
    tokens = job.manifest.layout.token_dimension is not None
    reader = Read(reading, batch, BATCH_CHARACTERS // (16 if tokens else 1))
    encode: dict[str, Any] = {"num_cpus": plan.cpus_per_encoder}
    if plan.gpus_per_encoder:
        encode["num_gpus"] = plan.gpus_per_encoder
    common: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    with one_item_a_block(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        data = (
            ray.data.from_arrow_refs(list(source.blocks))
            .map_batches(
                reader.__call__, num_cpus=READ_CPUS, **limits(max_retries=_RETRIES), **common
            )
            .map_batches(
                Split,
                fn_constructor_args=(job,),
                compute=strategy(size=plan.splitters),
                num_cpus=SPLIT_CPUS,
                **kept,
                **common,
            )
            .map_batches(
                Encode,
                fn_constructor_args=(job,),
                compute=strategy(size=plan.encoders),
                **encode,
                **kept,
                **common,
            )
            .map_batches(
                Write,
                fn_constructor_args=(job,),
                compute=strategy(size=plan.writers),
                num_cpus=WRITE_CPUS,
                **kept,
                **common,
            )
        )
    for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from unpacked(block)
