"""`retrieval eval`: both stages on judged queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from retrieval.cli.options import (
    CUTTING,
    RUNNING,
    ApiKey,
    RerankerOption,
    Store,
    Tenant,
    with_model_options,
    with_search_options,
)
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.output import check_places, listed, read_api_key, shell_line, write
from retrieval.errors import InvalidInput
from retrieval.models.options import SETTINGS

if TYPE_CHECKING:
    from retrieval.types import Mode

_RUNS = "Runs"
_REPORT = "Report"
_DEFAULT_STORE = ".retrieval"


@with_model_options(*SETTINGS, *RUNNING, *CUTTING, "long_passages")
@with_search_options("read", "blend", "blend_weight", "fusion", "candidates", "budget_ms")
def evaluate(
    context: typer.Context,
    judged: Annotated[
        Path,
        typer.Argument(
            metavar="JUDGED",
            help="A BEIR or FlagEmbedding folder, a CSV, TSV or JSONL of your own with query and "
            "relevant, or TREC topics with --qrels; see docs/evaluation.md.",
        ),
    ],
    split: Annotated[str, typer.Option(help="Which judgements of a folder.")] = "test",
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements of TREC topics, or in place of a folder's own.")
    ] = None,
    modes: Annotated[
        str, typer.Option(help="First stages, joined by commas; none measures runs alone.")
    ] = "dense,sparse,hybrid",
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
        str | None, typer.Option(help="Index this source in place of the set's own documents.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Search this existing collection; index nothing.")
    ] = None,
    store: Store = _DEFAULT_STORE,
    tenant: Tenant = None,
    service: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Search a running `retrieval serve`, as its clients do."),
    ] = None,
    passages: Annotated[
        Literal["whole", "split"], typer.Option(help="One passage for each document, or split.")
    ] = "whole",
    language: Annotated[str, typer.Option(help="Language of the BM25 terms.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first N queries.", min=1)] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Another system's run: measure it, and re-rank its candidates; repeatable.",
            rich_help_panel=_RUNS,
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Another system's run: only measure it; repeatable.",
            rich_help_panel=_RUNS,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write all figures as JSON.", rich_help_panel=_REPORT),
    ] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with plots.", rich_help_panel=_REPORT),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Write TREC run files into this folder.", rich_help_panel=_REPORT),
    ] = None,
    api_key: ApiKey = None,
    *,
    search_options: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Measure both stages on judged queries.

    They come as a BEIR folder, as FlagEmbedding's, as TREC topics, or in a table of your own over
    your own collection. Other systems' runs are measured beside, and re-ranked.
    """
    from retrieval.cli.progress import evaluation_bar, indexing_bar
    from retrieval.evaluation.evaluate import report_as_text, write_report

    key = read_api_key(api_key)
    check_places(json_file, runs, html_file)
    shared: dict[str, Any] = {
        "split": split, "qrels": qrels, "modes": _modes(modes), "rerank": rerank,
        "measures": listed(measures), "collection": collection, "tenant": tenant,
        "beside": _named(beside), "limit": limit, "api_key": key, **search_options,
    }  # fmt: skip
    local: dict[str, Any] = {
        "encoder": encoder, "reranker": reranker, "corpus": corpus, "store": store,
        "passages": passages, "language": language, "runs": _named(run), **model_options,
    }  # fmt: skip
    if service is not None:
        from retrieval.api.evaluate_service import evaluate_service

        _refuse_local(local)
        with evaluation_bar() as on_search:
            report = evaluate_service(judged, service, on_search=on_search, **shared)
    else:
        from retrieval.api.evaluate_folder import evaluate_folder

        with indexing_bar(str(corpus or judged)) as on_index, evaluation_bar() as on_search:
            report = evaluate_folder(
                judged, on_index=on_index, on_search=on_search, **shared, **local
            )
    line = shell_line(context.obj or ())
    report = replace(report, origin={**report.origin, "command": line})
    write(report_as_text(report))
    write_report(report, json_file=json_file, runs_folder=runs, html_file=html_file)


def _modes(text: str) -> list[Mode]:
    """The first stages that --modes names."""
    found = listed(text)
    if found == ["none"]:
        return []
    for mode in found:
        if mode not in ("dense", "sparse", "lexical", "hybrid"):
            raise InvalidInput(
                f"--modes has {mode!r}, expected dense, sparse, lexical or hybrid",
                fix="Join several with commas: --modes dense,hybrid; none for runs alone.",
            )
    return cast("list[Mode]", found)


def _named(given: list[str] | None) -> dict[str, str]:
    """Files by the names that stand before a =, else by their own without what follows a dot.

    Raises:
        InvalidInput: two have one name.
    """
    found: dict[str, str] = {}
    for one in given or ():
        name, equals, path = one.partition("=")
        if not equals or Path(one).is_file():
            name, path = Path(one).name.removesuffix(".gz"), one
            name = name.rpartition(".")[0] or name
        if name in found:
            raise InvalidInput(
                f"two runs are called {name!r}", fix="Name them: --beside first=FILE."
            )
        found[name] = path
    return found


def _refuse_local(options: dict[str, Any]) -> None:
    """Refuse beside --service what only concerns searches of this process."""
    defaults = {
        "reranker": "auto", "store": _DEFAULT_STORE, "passages": "whole", "language": "auto",
    }  # fmt: skip
    given = [n for n, value in options.items() if value and value != defaults.get(n)]
    if given:
        names = ", ".join("--run" if n == "runs" else f"--{n.replace('_', '-')}" for n in given)
        raise InvalidInput(
            f"{names} was given beside --service, which has its own models, documents and store",
            fix="Leave it out; --no-rerank measures a service without its second stage, and "
            "--beside other systems' runs.",
        )
