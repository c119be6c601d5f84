"""`retrieval export | import | copy | backup | restore | doctor | recall`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retrieval.cli.options import RUNNING, ApiKey, AsJson, Store, with_model_options
from retrieval.cli.output import given_only, open_store, write, write_json
from retrieval.errors import CorpusError, StoreFault

Name = Annotated[str, typer.Argument(help="Name of the collection, or of a version of it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]


def export(
    collection: Name,
    path: Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl, .jsonl.gz or .parquet")],
    store: Store = ".retrieval",
    overwrite: Overwrite = False,
    api_key: ApiKey = None,
) -> None:
    """Write a collection with its vectors to a file that any store can import."""
    from retrieval.cli.progress import points_bar
    from retrieval.maintenance.export_import import export_collection

    with points_bar("exporting") as progress:
        done = export_collection(
            collection,
            path,
            store=open_store(store, api_key),
            overwrite=overwrite,
            progress=progress,
        )
    write(f"{done.points:,} passages of {done.collection} are in {done.target}")


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="File that `retrieval export` wrote.")
    ],
    collection: Annotated[str | None, typer.Option(help="Name of the new collection.")] = None,
    store: Store = ".retrieval",
    api_key: ApiKey = None,
) -> None:
    """Make a collection of an exported file; nothing is encoded again."""
    from retrieval.cli.progress import points_bar
    from retrieval.maintenance.export_import import import_collection

    with points_bar("importing") as progress:
        done = import_collection(
            path, collection, store=open_store(store, api_key), progress=progress
        )
    write(f"{done.points:,} passages are in {done.collection} in {done.target}")


def copy(
    collection: Name,
    to: Annotated[str, typer.Option(help="Folder or URL of the other store.")],
    store: Store = ".retrieval",
    name: Annotated[str | None, typer.Option(help="Name of the copy; default: the same.")] = None,
    quantization: Annotated[
        Literal["none", "int8", "binary"] | None,
        typer.Option(help="Quantization of the copy's vectors."),
    ] = None,
    on_disk: Annotated[
        bool | None, typer.Option("--on-disk", help="Keep the copy's vectors on disk.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="Shards of the copy, on a server.", min=1)
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies of each shard.", min=1)] = None,
    api_key: ApiKey = None,
    to_api_key: Annotated[
        str | None, typer.Option(help="API key of the other store; '@FILE' reads it from a file.")
    ] = None,
) -> None:
    """Copy a collection with its vectors to another store, as from a laptop to a server."""
    from retrieval.cli.progress import points_bar
    from retrieval.maintenance.export_import import copy_collection

    changes = given_only(
        {
            "quantization": quantization,
            "on_disk": on_disk,
            "shards": shards,
            "replicas": replicas,
        }
    )
    with points_bar("copying") as progress:
        done = copy_collection(
            collection, store=open_store(store, api_key), to=open_store(to, to_api_key), name=name,
            changes=changes, progress=progress,
        )  # fmt: skip
    write(f"{done.points:,} passages are in {done.collection} in {done.target}")


def backup(
    collection: Name,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help=".tar.gz of a folder, .tar of a server")
    ],
    store: Store = ".retrieval",
    overwrite: Overwrite = False,
    api_key: ApiKey = None,
) -> None:
    """Copy a whole collection into one file, consistently."""
    from retrieval.cli.progress import show_notices
    from retrieval.maintenance.backup import backup_collection

    done = backup_collection(
        collection, path, store=open_store(store, api_key), overwrite=overwrite
    )
    write(f"{done.points:,} passages of {done.collection} are in {done.path} "
          f"({done.bytes / 1e6:,.1f} MB)")  # fmt: skip
    show_notices(done.notices)


def restore(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="File that `retrieval backup` wrote.")
    ],
    collection: Annotated[str | None, typer.Option(help="Name of the new collection.")] = None,
    store: Store = ".retrieval",
    api_key: ApiKey = None,
) -> None:
    """Make a collection of a backup."""
    from retrieval.cli.progress import show_notices
    from retrieval.maintenance.backup import restore_collection

    done = restore_collection(path, collection, store=open_store(store, api_key))
    write(f"{done.points:,} passages are in {done.collection} in {store}")
    show_notices(done.notices)


@with_model_options(*RUNNING)
def doctor(
    collection: Name,
    store: Store = ".retrieval",
    encode: Annotated[
        int, typer.Option(help="Encode this many passages anew and compare.", min=0)
    ] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended of what is there.")
    ] = False,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    model_options: dict[str, Any],
) -> None:
    """Check a collection, and say how to correct what is wrong."""
    from dataclasses import asdict

    from retrieval.api.models import load_encoder_of
    from retrieval.cli.progress import points_bar
    from retrieval.maintenance.doctor import examine

    with points_bar("reading") as progress:
        found = examine(
            collection,
            store=open_store(store, api_key),
            encoder=(lambda manifest: load_encoder_of(manifest, model_options)) if encode else None,
            sample=encode,
            repair=repair,
            progress=progress,
        )
    if as_json:
        write_json({**asdict(found), "state": found.state})
    else:
        signs = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}
        for one in found.findings:
            write(f"{signs[one.state]}  {one.check}: {one.text}")
            if one.fix:
                write(f"         → {one.fix}")
    if found.state == "error":
        raise StoreFault(
            f"{found.physical} has problems",
            fix="Do what the findings marked ERROR say, then run this again.",
        )


@with_model_options(*RUNNING)
def recall(
    collection: Name,
    store: Store = ".retrieval",
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of real queries, one per line.")
    ] = None,
    sample: Annotated[
        int, typer.Option(help="Without queries: how many stored passages serve as queries.", min=1)
    ] = 200,
    depths: Annotated[str, typer.Option(help="The k of recall@k, joined by commas.")] = "10,100",
    tenant: Annotated[str | None, typer.Option(help="Whose passages.")] = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    model_options: dict[str, Any],
) -> None:
    """What the approximate index misses, against an exact scan."""
    from dataclasses import asdict

    from retrieval.api.models import load_encoder_of
    from retrieval.maintenance.ann_recall import measure_recall, parse_depths

    place = open_store(store, api_key)
    wanted = parse_depths(depths)
    texts = None if queries is None else _lines(queries)
    vectors = None
    if texts is not None:
        encoder = load_encoder_of(place.manifest(collection), model_options)
        try:
            vectors = encoder.encode_queries(texts)
        finally:
            getattr(encoder, "close", lambda: None)()
    with place.open(collection) as index:
        report = measure_recall(index, vectors, depths=wanted, sample=sample, tenant=tenant)
    if as_json:
        write_json(asdict(report))
        return
    what = "stored passages as queries" if report.own_vectors else "queries"
    write(f"{report.queries:,} {what} on {report.passages:,} passages")
    for k in wanted:
        write(f"recall@{k:<4} {report.recall[k]:.4f}   worst query {report.worst[k]:.4f}")
    write(f"median      {report.approximate_ms:.2f} ms approximate, {report.exact_ms:.2f} ms exact")


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CorpusError(
            f"the queries {str(path)!r} cannot be read ({reason})",
            fix="Give a text file with one query per line.",
        ) from error
    found = [line for line in lines if line]
    if not found:
        raise CorpusError(f"{str(path)!r} holds no query", fix="Write one query per line.")
    return found
