"""`retrieval mine`: hard negatives for training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.cli.options import (
    MODELS,
    RUNNING,
    ApiKey,
    AsJson,
    Store,
    Tenant,
    declared,
    with_model_options,
    with_options,
)
from retrieval.cli.output import complain, read_api_key, write, write_json
from retrieval.search.options import declared_options
from retrieval.training.mining.settings import MiningSettings

_SETTINGS = {
    name: one
    for option in declared_options(MiningSettings)
    for name, one in declared(option).items()
}


@with_model_options(*RUNNING, "long_passages")
@with_options(settings=_SETTINGS)
def mine(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Training examples (FlagEmbedding's JSONL, pairs), or with --collection judged "
            "queries, as `retrieval eval`.",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="File to write: FlagEmbedding's JSONL.")
    ],
    collection: Annotated[
        str | None, typer.Option(help="Find candidates in this collection.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help='Or in these texts: lines of {"text": "…"}, or a BEIR folder. Left out, the '
            "passages of SOURCE."
        ),
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            help="Whose scores tell false negatives: auto, none, a reranker's name or folder, "
            "encoder (cosines), bm25, or several joined by +.",
            rich_help_panel=MODELS,
        ),
    ] = "auto",
    encoder: Annotated[
        str,
        typer.Option(help="Finds candidates among plain texts.", rich_help_panel=MODELS),
    ] = "auto",
    split: Annotated[str, typer.Option(help="Which split of a folder.")] = "train",
    where: Annotated[
        str | None, typer.Option(help="Only passages of this filter become negatives: key=value,…")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, whatever lies at OUTPUT.")
    ] = False,
    store: Store = ".retrieval",
    tenant: Tenant = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    settings: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Mine hard negatives: passages that look like answers and are none.

    Beside OUTPUT lie OUTPUT.report.json and .txt: what was left out and why, and 20 samples. A
    run that was killed goes on where it was.
    """
    from retrieval.api.mine import mine as run
    from retrieval.cli.progress import rate_bar
    from retrieval.index.filter_syntax import parse_where

    key = read_api_key(api_key)
    with rate_bar("texts") as bar:
        report = run(
            source,
            output,
            collection=collection,
            corpus=corpus,
            encoder=encoder,
            teacher=teacher,
            settings=MiningSettings(**settings),
            split=split,
            store=store,
            where=None if where is None else parse_where(where),
            tenant=tenant,
            api_key=key,
            restart=restart,
            progress=bar,
            on_notice=complain,
            model_options=model_options,
        )
    if as_json:
        write_json(report.as_dict())
    else:
        write(report.as_text())
