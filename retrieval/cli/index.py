"""`retrieval index`: files and folders into a collection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.cli.index_options import (
    CLUSTER,
    LAYOUT,
    MACHINES,
    READING,
    SERVER,
    SPLITTING,
    STORAGE,
    WORDS,
    how_read,
)
from retrieval.cli.options import (
    CUTTING,
    RUNNING,
    ApiKey,
    AsJson,
    Collection,
    Store,
    Tenant,
    field_kinds,
    with_model_options,
    with_options,
)
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.output import open_store, write, write_json
from retrieval.errors import CorpusError, InvalidInput, RetrievalError
from retrieval.models.options import SETTINGS

if TYPE_CHECKING:
    from retrieval.index.store import Store as Place
    from retrieval.types import IngestReport


@with_model_options(*SETTINGS, *RUNNING, *CUTTING)
@with_options(
    words=WORDS,
    reading=READING,
    splitting=SPLITTING,
    storage=STORAGE,
    layout=LAYOUT,
    server=SERVER,
    cluster=CLUSTER,
)
def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…",
            help="Files or folders (texts, web pages, Office, mail, code, tables, BEIR), or "
            "python-docs.",
        ),
    ],
    collection: Collection = "docs",
    store: Store = ".retrieval",
    tenant: Tenant = None,
    encoder: Annotated[
        str,
        typer.Option(help="auto, starter, a name, folder or hub id.", rich_help_panel=MODELS_PANEL),
    ] = "auto",
    language: Annotated[
        str, typer.Option(help="Language of the BM25 terms: auto, en, zh, …")
    ] = "auto",
    *,
    words: dict[str, Any],
    splitting: dict[str, Any],
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete documents that have left the source; unreadable ones stay."
        ),
    ] = False,
    on_error: Annotated[
        Literal["skip", "raise"], typer.Option(help="What to do with bad input.")
    ] = "skip",
    reading: dict[str, Any],
    problems: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all that could not be used to this file, a line each."
        ),
    ] = None,
    storage: dict[str, Any],
    layout: dict[str, Any],
    server: dict[str, Any],
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Share the work on a Ray cluster.", rich_help_panel=MACHINES),
    ] = False,
    cluster: dict[str, Any],
    model_options: dict[str, Any],
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Index files and folders into a collection; what is unchanged is skipped."""
    from retrieval.cli.render import plain, report_as_text
    from retrieval.serialization import report_as_dict

    place = open_store(store, api_key)
    _check_server(place, server)
    if field := layout.pop("field", None):
        layout["fields"] = field_kinds(field)
    run = partial(
        _runner(ray, cluster),
        collection=collection,
        store=place,
        encoder=encoder,
        language=language,
        **words,
        prune=prune,
        on_error=on_error,
        **how_read(reading),
        tenant=tenant,
        storage={**storage, **server},
        **splitting,
        **layout,
        **model_options,
    )
    if problems is not None:
        _write_problems(problems, ())  # before the long work, so that it can be
    with _no_empty_collection(place, collection):
        reports = [_indexed(source, run) for source in sources]
        if problems is not None:
            _write_problems(problems, reports)
        if as_json:
            write_json([report_as_dict(report) for report in reports])
        else:
            for source, report in zip(sources, reports, strict=True):
                write(report_as_text(plain(source), report))
        _check_some_indexed(sources, reports)


@contextlib.contextmanager
def _no_empty_collection(place: Place, collection: str) -> Iterator[None]:
    """A first run that fails, or finds nothing, leaves no empty collection behind."""
    is_new = False
    with contextlib.suppress(RetrievalError):  # said when it is opened
        is_new = not place.is_server and collection not in place.names()
    try:
        yield
    except Exception:  # an interrupted run is gone on with
        if is_new:
            # another process may have it by now, or it was never made
            with contextlib.suppress(RetrievalError):
                with place.open(collection) as index:
                    is_empty = index.status().points == 0
                if is_empty:
                    place.delete(collection)
        raise


def _indexed(source: str, run: Callable[..., IngestReport]) -> IngestReport:
    """Index one source and write to standard error what is noticed, each notice once."""
    from retrieval.cli.progress import indexing_bar, show_notices
    from retrieval.cli.render import plain

    shown: list[str] = []

    def show(notice: str) -> None:
        shown.append(notice)
        show_notices([plain(notice)])

    with indexing_bar(source) as progress:
        report = run(source, progress=progress, on_notice=show)
    _tell(report, shown)
    return report


def _write_problems(file: Path, reports: Sequence[IngestReport]) -> None:
    lines = [f"{problem}\n" for report in reports for problem in report.failed]
    try:
        file.write_text("".join(lines), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise InvalidInput(
            f"--problems {str(file)!r} cannot be written: {(error.strerror or '').lower()}",
            fix="Name a file in a folder that exists.",
        ) from error


def _check_server(store: Place, options: dict[str, Any]) -> None:
    if options and not store.is_server:
        raise InvalidInput(
            "--shards, --replicas and --write-consistency are for a server, and the store "
            f"{store.location!r} is a folder",
            fix="Leave them out, or give the URL of a Qdrant server.",
        )


def _runner(ray: bool, cluster: dict[str, Any]) -> Callable[..., IngestReport]:
    """The function that indexes: in this process, or on a Ray cluster."""
    if ray:
        from retrieval.distributed import ingest_with_ray

        address = cluster.pop("ray_address", None)
        return partial(ingest_with_ray, address=address, **cluster)
    if cluster:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in cluster)
        raise InvalidInput(
            f"{names} given without --ray",
            fix="Give --ray, too, or leave them out.",
        )
    from retrieval.api.ingest import ingest

    return ingest


def _tell(report: IngestReport, shown: Sequence[str]) -> None:
    """What a user should know beside the figures, on standard error."""
    from retrieval.cli.progress import show_notices
    from retrieval.cli.render import plain

    most = 20
    for label, is_note in (("skipped", False), ("note", True)):
        told = [plain(str(one)) for one in report.failed if one.is_note is is_note]
        show_notices(told, label=label, most=most)
    if len(report.failed) > most:
        show_notices(["--problems FILE writes them all to a file."])
    show_notices(
        [
            f"{plain(one)} has the same text as {plain(other)}"
            for one, other in report.duplicate_examples
        ],
        label="duplicate",
    )
    if report.truncated_passages:
        show_notices([f"{report.truncated_passages} passages were longer than the encoder reads."])
    show_notices([plain(notice) for notice in report.notices if notice not in shown])


def _check_some_indexed(sources: Sequence[str], reports: Sequence[IngestReport]) -> None:
    """A source that gave nothing is not done, however well each part of it was skipped."""
    for source, report in zip(sources, reports, strict=True):
        if report.new or report.changed or report.unchanged:
            continue
        if report.failed:
            raise CorpusError(
                f"nothing of {source} could be indexed; the notes above say why",
                fix="Correct what the notes name, or give another source.",
            )
        raise CorpusError(
            f"{source} holds no document, so nothing was indexed",
            fix="Give a file, or a folder with files in it.",
        )
