"""`retrieval list | info | delete | reindex | versions | switch | rollback`: whole collections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retrieval.cli.index_options import READING, WORDS, how_read
from retrieval.cli.options import (
    CUTTING,
    RUNNING,
    ApiKey,
    AsJson,
    Collection,
    Store,
    field_kinds,
    with_model_options,
    with_options,
)
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.output import given_only, open_store, write, write_json
from retrieval.errors import InvalidInput

Name = Annotated[str, typer.Argument(help="Name of the collection.")]
Version = Annotated[str, typer.Argument(help="The version, as `retrieval versions` names it.")]


_NOT_OURS = "  (not made by this library for that name: left alone)"


def list_(store: Store = ".retrieval", api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """The collections of a store."""
    place = open_store(store, api_key)
    names, foreign = place.names(), place.foreign()
    if as_json:
        write_json({"store": store, "collections": names, "foreign": foreign})
    elif names or foreign:
        every = sorted({*names, *foreign})
        write("\n".join(f"{one}{_NOT_OURS if one in foreign else ''}" for one in every))
    else:
        typer.echo(f"No collections in {store}. Make one with: retrieval index PATH", err=True)


def info(
    collection: Annotated[str | None, typer.Argument(help="Default: list all.")] = None,
    store: Store = ".retrieval",
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """What a store holds, and what built a collection."""
    from retrieval.cli.render import cluster_as_text, manifest_as_text
    from retrieval.serialization import cluster_as_dict, manifest_as_dict

    if collection is None:
        list_(store, api_key, as_json)
        return
    place = open_store(store, api_key)
    manifest = place.manifest(collection)
    names, cluster = place.vector_names(manifest), place.cluster(collection)
    if as_json:
        told = {"vector_names": names, "cluster": cluster_as_dict(cluster, manifest.storage)}
        write_json({**manifest_as_dict(manifest), **told})
    else:
        write(manifest_as_text(manifest, names))
        if cluster is not None:
            write(cluster_as_text(cluster, manifest.storage))


def versions(
    collection: Name, store: Store = ".retrieval", api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """The versions of a collection; * marks the one that searches use."""
    place = open_store(store, api_key)
    found, current = place.versions(collection), place.current(collection)
    foreign = place.foreign(collection)
    if as_json:
        values = {"collection": collection, "versions": found, "current": current}
        write_json({**values, "foreign": foreign})
        return
    for version in found:
        manifest = place.manifest(version)
        mark = "*" if version == current else " "
        write(f"{mark} {version}  {manifest.encoder.model}  {manifest.created}")
    for other in foreign:
        write(f"  {other}{_NOT_OURS}")


@with_model_options(*RUNNING, *CUTTING)
@with_options(words=WORDS, reading=READING)
def reindex(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH…]",
            help="Everything that the collection will hold; with --encoder alone, what it holds.",
        ),
    ] = None,
    collection: Collection = "docs",
    store: Store = ".retrieval",
    encoder: Annotated[
        str | None,
        typer.Option(help="Default: unchanged.", rich_help_panel=MODELS_PANEL),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of the BM25 terms.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest passage in the encoder's tokens.", min=8)
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(help="Tokens repeated from passage to passage.", min=0)
    ] = None,
    quantization: Annotated[
        Literal["none", "int8", "binary"] | None,
        typer.Option(help="Quantization of stored vectors."),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KIND",
            help="Index this metadata for filters, too, as keyword, number or datetime; can be "
            "repeated.",
        ),
    ] = None,
    judged: Annotated[
        Path | None,
        typer.Option(metavar="JUDGED", help="Judged queries to compare both versions on."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of its judgements: qrels/SPLIT.tsv.")] = "test",
    cases: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Retrieval tests: no case may fail that passed before."),
    ] = None,
    switch: Annotated[
        bool | None,
        typer.Option(
            "--switch/--no-switch",
            help="Always use the new version, or never. Default: only if it is not worse.",
        ),
    ] = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    words: dict[str, Any],
    reading: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Build a collection anew beside the one in use, compare both, and switch to it.

    Searches go on meanwhile. What is not given stays as it is; `retrieval rollback` takes the
    switch back.
    """
    from dataclasses import replace

    from retrieval.api.reindex import reindex as build
    from retrieval.cli.progress import indexing_bar, show_notices
    from retrieval.cli.render import plain

    place = open_store(store, api_key)
    options = given_only(
        {
            **words,
            **how_read(reading),
            "encoder": encoder,
            "language": language,
            "max_tokens": max_tokens,
            "overlap_tokens": overlap_tokens,
        }
    )
    if quantization is not None or field:
        built = place.manifest(collection).storage
        options["storage"] = replace(
            built,
            quantization=quantization or built.quantization,
            fields={**built.fields, **field_kinds(field or [])},
        )
        options["fields"] = options["storage"].fields or "auto"
    with indexing_bar(collection) as progress:
        report = build(
            sources or [], collection, store=place, judged=judged, split=split, cases=cases,
            switch=switch, progress=progress,
            on_notice=lambda notice: show_notices([notice]),
            **options, **model_options,
        )  # fmt: skip
    for one in report.ingested:
        for label, is_note in (("skipped", False), ("note", True)):
            told = [plain(str(each)) for each in one.failed if each.is_note is is_note]
            show_notices(told, label=label, most=20)
    if as_json:
        write_json(report.as_dict())
    else:
        write(report.as_text())


def switch(
    collection: Name, version: Version, store: Store = ".retrieval", api_key: ApiKey = None
) -> None:
    """Let searches use another version of a collection from now on, in one step."""
    before = open_store(store, api_key).switch(collection, version)
    write(f"{collection}: {before} → {version}. Take it back with: retrieval rollback {collection}")


def rollback(collection: Name, store: Store = ".retrieval", api_key: ApiKey = None) -> None:
    """Let searches use the version before the current one again."""
    place = open_store(store, api_key)
    before = place.current(collection)
    now = place.rollback(collection)
    write(f"{collection}: {before} → {now}")


def delete(
    collection: Annotated[
        str, typer.Argument(help="Name of the collection, or of one version of it.")
    ],
    store: Store = ".retrieval",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Delete a collection with all its versions, or one version that is not in use."""
    from retrieval.index.manifest import split_name

    place = open_store(store, api_key)
    gone = [collection]
    if split_name(collection)[1] is None:
        gone = place.versions(collection)  # which says so where there is none of that name
    if not yes and not _confirmed(f"Delete {', '.join(gone)} in {store}, with all passages?"):
        raise InvalidInput("nothing was deleted", fix="Answer y, or use --yes without a terminal.")
    place.delete(collection)
    write(f"Deleted {', '.join(gone)}.")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # no terminal to ask at
        return False
