"""`retrieval train data`: one checked file to train on, from any sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.options import AsJson
from retrieval.cli.output import complain, listed, write, write_json
from retrieval.errors import InvalidInput

_TABLES = "Tables"
_DOCUMENTS = "Documents"
_LEAKS = "Leaks"


def add_to(group: typer.Typer) -> None:
    """Give the group `train` its `data`."""
    group.command()(data)


def data(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="FlagEmbedding's JSONL; CSV, TSV, JSONL or parquet of pairs or triplets; a folder "
            "of them; judged folders (BEIR, FlagEmbedding's, of `retrieval judge`). With --pairs: "
            "documents.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write FlagEmbedding's JSONL here.")],
    split: Annotated[str, typer.Option(help="Of folders.")] = "train",
    dev: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Hold out so much, such as 0.1; what shares a query or a positive stays together.",
        ),
    ] = None,
    dev_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to. Default: beside --out.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            "--eval",
            metavar="JUDGED",
            help="Judged queries that will be measured on; may be repeated.",
            rich_help_panel=_LEAKS,
        ),
    ] = None,
    eval_split: Annotated[
        str, typer.Option(help="Which of its judgements.", rich_help_panel=_LEAKS)
    ] = "test",
    drop_leaks: Annotated[
        bool,
        typer.Option(
            "--drop-leaks",
            help="Leave out training queries that are --eval's, or nearly.",
            rich_help_panel=_LEAKS,
        ),
    ] = False,
    allow_leaks: Annotated[
        bool,
        typer.Option(
            "--allow-leaks",
            help="Only say so. Without either, leaks are refused.",
            rich_help_panel=_LEAKS,
        ),
    ] = False,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Make pairs of documents: titles, headings, or both with a comma.",
            rich_help_panel=_DOCUMENTS,
        ),
    ] = None,
    most_per_document: Annotated[
        int, typer.Option(metavar="N", help="Pairs of a document.", rich_help_panel=_DOCUMENTS)
    ] = 8,
    query_column: Annotated[
        str, typer.Option(help="Where its name does not say it.", rich_help_panel=_TABLES)
    ] = "",
    positive_column: Annotated[str, typer.Option(help="Likewise.", rich_help_panel=_TABLES)] = "",
    negative_column: Annotated[
        list[str] | None,
        typer.Option(help="Likewise; may be repeated.", rich_help_panel=_TABLES),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Names of all columns of a file without a header: query,positive,negative",
            rich_help_panel=_TABLES,
        ),
    ] = None,
    least_score: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Of pairs with a score: from here on a document answers the query.",
            rich_help_panel=_TABLES,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read training data of any format, check it, and write it as FlagEmbedding's JSONL.

    Nothing is written before everything is checked; a mistake is named by file, line and field.
    """
    from retrieval.evaluation.judgements import load_judgements
    from retrieval.training.data.prepare import prepare_data
    from retrieval.training.data.prepare_report import data_report_as_dict, data_report_as_text
    from retrieval.training.data.tables import Columns

    if drop_leaks and allow_leaks:
        raise InvalidInput("--drop-leaks and --allow-leaks were both given", fix="Give one.")
    if (drop_leaks or allow_leaks) and not evaluation:
        raise InvalidInput(
            "leaks are to be dropped or allowed, and no evaluation was given",
            fix="Name it: --eval JUDGED",
        )
    report = prepare_data(
        sources,
        out,
        split=split,
        columns=Columns(
            query=query_column,
            positive=positive_column,
            negatives=tuple(negative_column or ()),
            header=tuple(listed(columns or "")),
            least_score=least_score,
        ),
        pairs=listed(pairs or ""),  # type: ignore[arg-type]  # checked there
        most_per_document=most_per_document,
        evaluation=[
            load_judgements(path, eval_split if path.is_dir() else "test")
            for path in evaluation or ()
        ],
        with_leaks="drop" if drop_leaks else "allow" if allow_leaks else "refuse",
        dev=dev,
        dev_out=dev_out,
        seed=seed,
    )
    for notice in report.notices:
        complain(f"note: {notice}")
    if as_json:
        write_json(data_report_as_dict(report))
    else:
        write(data_report_as_text(report))
