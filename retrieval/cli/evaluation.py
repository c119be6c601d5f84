"""`retrieval eval`: both stages on judged queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from retrieval.cli.options import (
    CUTTING,
    RUNNING,
    ApiKey,
    RerankerOption,
    Store,
    with_model_options,
    with_search_options,
)
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.output import check_places, listed, read_api_key, write
from retrieval.errors import InvalidInput
from retrieval.models.options import SETTINGS

if TYPE_CHECKING:
    from retrieval.types import Mode


def add_to(app: typer.Typer) -> None:
    """Give the command line its `eval`."""
    app.command("eval")(evaluate)


@with_model_options(*SETTINGS, *RUNNING, *CUTTING, "long_passages")
@with_search_options("read", "blend", "fusion", "candidates", "budget_ms")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="BEIR_DIR", help="queries.jsonl, qrels/, …")],
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    modes: Annotated[str, typer.Option(help="First stages, joined by commas.")] = (
        "dense,sparse,hybrid"
    ),
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Measure the second stage too.")
    ] = True,
    encoder: Annotated[
        str | None, typer.Option(help="Default: auto.", rich_help_panel=MODELS_PANEL)
    ] = None,
    reranker: RerankerOption = "auto",
    measures: Annotated[
        str, typer.Option(help="Measures of ir-measures, joined by commas.")
    ] = "nDCG@10,MRR@10,recall@100",
    corpus: Annotated[
        str | None, typer.Option(help="Index this source in place of corpus.jsonl.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Search this existing collection; index nothing.")
    ] = None,
    store: Store = ".retrieval",
    passages: Annotated[
        Literal["whole", "split"], typer.Option(help="One passage for each document, or split.")
    ] = "whole",
    language: Annotated[str, typer.Option(help="Language of the BM25 terms.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first N queries.", min=1)] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file as JSON.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Write TREC run files into this folder.")
    ] = None,
    api_key: ApiKey = None,
    *,
    search_options: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Measure both stages on judged queries in BEIR layout."""
    from retrieval.api.evaluate_folder import evaluate_folder
    from retrieval.cli.progress import evaluation_bar, indexing_bar
    from retrieval.evaluation.evaluate import report_as_text, write_report

    key = read_api_key(api_key)
    check_places(json_file, runs)
    with indexing_bar(str(corpus or folder)) as on_index, evaluation_bar() as on_search:
        report = evaluate_folder(
            folder,
            split=split,
            modes=_modes(modes),
            rerank=rerank,
            encoder=encoder,
            reranker=reranker,
            measures=listed(measures),
            corpus=corpus,
            collection=collection,
            store=store,
            passages=passages,
            language=language,
            limit=limit,
            api_key=key,
            on_index=on_index,
            on_search=on_search,
            **search_options,
            **model_options,
        )
    write(report_as_text(report))
    write_report(report, json_file=json_file, runs_folder=runs)


def _modes(text: str) -> list[Mode]:
    """The first stages that --modes names."""
    found = listed(text)
    for mode in found:
        if mode not in ("dense", "sparse", "lexical", "hybrid"):
            raise InvalidInput(
                f"--modes has {mode!r}, expected dense, sparse, lexical or hybrid",
                fix="Join several with commas: --modes dense,hybrid",
            )
    return cast("list[Mode]", found)
