"""`retrieval index`: files and folders into a collection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.cli.options import (
    CUTTING,
    RUNNING,
    ApiKey,
    AsJson,
    Collection,
    MaxLength,
    PassageInstruction,
    Pooling,
    QueryInstruction,
    Store,
    Tenant,
    with_model_options,
)
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.output import api_key as read_key
from retrieval.cli.output import given_only, write, write_json
from retrieval.errors import CorpusError, InvalidInput

if TYPE_CHECKING:
    from retrieval.types import FieldKind, IngestReport

STORAGE = "Storage (of a new collection)"
MACHINES = "Many machines (extra `scale`)"
_KINDS = ("keyword", "number", "datetime")


def add_to(app: typer.Typer) -> None:
    """Give the command line its `index`."""
    app.command()(index)


@with_model_options(*RUNNING, *CUTTING)
def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…",
            help="Files or folders (txt, md, html, pdf, docx, pptx, epub, jsonl, csv, BEIR), or "
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
    language: Annotated[str, typer.Option(help="Of BM25's words: auto, en, zh, …")] = "auto",
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest passage in the encoder's tokens.", min=8)
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(help="Tokens repeated from passage to passage.", min=0)
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete documents that have left the source; unreadable ones stay."
        ),
    ] = False,
    on_error: Annotated[
        Literal["skip", "raise"], typer.Option(help="What to do with bad input.")
    ] = "skip",
    encoding: Annotated[str | None, typer.Option(help="Of text files, if not UTF-8.")] = None,
    quantization: Annotated[
        Literal["none", "int8", "binary"] | None,
        typer.Option(
            metavar="FORMAT",
            help="none, int8 or binary: search short vectors, re-score with whole ones.",
            rich_help_panel=STORAGE,
        ),
    ] = None,
    on_disk: Annotated[
        bool | None,
        typer.Option(
            "--on-disk/--in-memory",
            help="Read vectors and graph from disk as needed: less memory, slower.",
            rich_help_panel=STORAGE,
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KIND",
            help="Index metadata for filters, as keyword, number or datetime; can be repeated. "
            "Default: by the look of the first documents.",
            rich_help_panel=STORAGE,
        ),
    ] = None,
    lexical: Annotated[
        bool,
        typer.Option(
            "--lexical", help="The encoder's term weights too (bge-m3).", rich_help_panel=STORAGE
        ),
    ] = False,
    token_vectors: Annotated[
        bool,
        typer.Option(
            "--token-vectors", help="A vector a token too, for MaxSim.", rich_help_panel=STORAGE
        ),
    ] = False,
    shards: Annotated[
        int | None, typer.Option(help="Of a server's collection.", min=1, rich_help_panel=STORAGE)
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Copies of each shard.", min=1, rich_help_panel=STORAGE)
    ] = None,
    write_consistency: Annotated[
        int | None,
        typer.Option(
            help="Copies that must have a write before it counts.",
            min=1,
            rich_help_panel=STORAGE,
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Share the work on a Ray cluster.", rich_help_panel=MACHINES),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of the cluster; auto for this machine's.", rich_help_panel=MACHINES),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Encoders at a time.", min=1, rich_help_panel=MACHINES),
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Or a share of one: 0.5.", rich_help_panel=MACHINES)
    ] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(help="Of each encoder.", rich_help_panel=MACHINES)
    ] = None,
    pooling: Pooling = None,
    query_instruction: QueryInstruction = None,
    passage_instruction: PassageInstruction = None,
    max_length: MaxLength = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    model_options: dict[str, Any],
) -> None:
    """Index files and folders into a collection; what is unchanged is skipped."""
    from retrieval.cli.progress import indexing_bar, show_notices
    from retrieval.index.store import Store as Place
    from retrieval.serialization import plain, report_as_dict, report_as_text

    place = Place(store, api_key=read_key(api_key))
    storage = given_only(
        {
            "quantization": quantization,
            "on_disk": on_disk,
            "shards": shards,
            "replicas": replicas,
            "write_consistency": write_consistency,
        }
    )
    if not place.is_server and (shards or replicas or write_consistency):
        raise InvalidInput(
            "--shards, --replicas and --write-consistency are for a server, and the store "
            f"{store!r} is a folder",
            fix="Leave them out, or give the URL of a Qdrant server.",
        )
    sharing = given_only(
        {
            "address": ray_address,
            "workers": workers,
            "gpus_per_worker": gpus_per_worker,
            "cpus_per_worker": cpus_per_worker,
        }
    )
    run = _runner(ray, sharing)
    fields = _fields(field) if field else None
    reports = []
    for source in sources:
        shown: list[str] = []

        def show(notice: str, shown: list[str] = shown) -> None:
            shown.append(notice)
            show_notices([plain(notice)])

        with indexing_bar(source) as progress:
            report = run(
                source,
                collection,
                store=place,
                encoder=encoder,
                language=language,
                max_tokens="default" if max_tokens is None else max_tokens,
                overlap_tokens=overlap_tokens,
                on_error=on_error,
                encoding=encoding,
                pooling=pooling,
                query_instruction=query_instruction,
                passage_instruction=passage_instruction,
                max_length=max_length,
                prune=prune,
                tenant=tenant,
                storage=storage,
                lexical=lexical,
                token_vectors=token_vectors,
                fields="auto" if fields is None else fields,
                progress=progress,
                on_notice=show,
                **model_options,
            )
        reports.append(report)
        _tell(report, shown)
    if as_json:
        write_json([report_as_dict(report) for report in reports])
    else:
        for source, report in zip(sources, reports, strict=True):
            write(report_as_text(plain(source), report))
    _check_some_indexed(sources, reports)


def _runner(ray: bool, sharing: dict[str, Any]) -> Callable[..., IngestReport]:
    """What indexes: this process, or a Ray cluster."""
    if ray:
        from retrieval.distributed import ingest_with_ray

        return partial(ingest_with_ray, **sharing)
    if sharing:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sharing)
        raise InvalidInput(
            f"{names.replace('--address', '--ray-address')} given without --ray",
            fix="Give --ray, too, or leave them out.",
        )
    from retrieval.api.ingest import ingest

    return ingest


def _tell(report: IngestReport, shown: Sequence[str]) -> None:
    """What a user should know beside the figures, on standard error."""
    from retrieval.cli.progress import show_notices
    from retrieval.serialization import plain

    show_notices([plain(str(problem)) for problem in report.failed], label="skipped", most=20)
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


def _fields(given: Sequence[str]) -> dict[str, FieldKind]:
    """`year:number` and the like as names and kinds."""
    fields: dict[str, FieldKind] = {}
    for one in given:
        name, _, kind = one.rpartition(":")
        if not name or kind not in _KINDS:
            raise InvalidInput(
                f"--field is {one!r}, expected NAME:KIND with a kind of {', '.join(_KINDS)}",
                fix="Write, for example, --field year:number --field lang:keyword.",
            )
        fields[name] = kind  # type: ignore[assignment]  # checked above
    return fields


def _check_some_indexed(sources: Sequence[str], reports: Sequence[IngestReport]) -> None:
    """A source that gave nothing is not done, however well each part of it was skipped."""
    for source, report in zip(sources, reports, strict=True):
        if report.new or report.changed or report.unchanged:
            continue
        if report.failed:
            raise CorpusError(
                f"nothing of {source} could be indexed; the notes above say why",
                fix="Mend what the notes name, or give another source.",
            )
        raise CorpusError(
            f"{source} holds no document, so nothing was indexed",
            fix="Give a file, or a folder with files in it.",
        )
