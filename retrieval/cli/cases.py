"""`retrieval test`: retrieval tests from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.options import (
    RUNNING,
    ApiKey,
    RerankerOption,
    with_model_options,
    with_search_options,
)
from retrieval.cli.output import check_places, read_api_key, write
from retrieval.errors import InvalidInput
from retrieval.search.options import search_options

if TYPE_CHECKING:
    from retrieval.evaluation.cases import CaseOutcome

# A page further on, and what stands beside a hit, are no business of a test.
_OPTIONS = [one.name for one in search_options("cli") if one.name not in ("offset", "neighbours")]
_MARKS = {"ok": "ok    ", "failed": "FAILED", "error": "ERROR "}


@with_model_options(*RUNNING, "long_passages")
@with_search_options(*_OPTIONS, given_only=True)
def run_tests(
    cases: Annotated[
        Path, typer.Argument(metavar="CASES", help="TOML file, see docs/evaluation.md.")
    ],
    collection: Annotated[
        str | None, typer.Option(help="Instead of the file's; docs where it names none.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Instead of the file's; .retrieval where it names none.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report in JUnit's XML.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Default: the one the collection was built with.", rich_help_panel=MODELS_PANEL
        ),
    ] = None,
    reranker: RerankerOption = "auto",
    api_key: ApiKey = None,
    *,
    search_options: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Ask a file of questions and check what the answers contain; exit code 3 where one fails.

    Options of searches are those of every case that does not have its own.
    """
    from retrieval.api.case_file import load_cases
    from retrieval.api.open import open
    from retrieval.api.run_cases import needs_reranker, run_cases
    from retrieval.cli.progress import show_notices
    from retrieval.evaluation.cases_report import write_json, write_junit
    from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE

    check_places(json_file, None)
    if junit is not None and junit.is_dir():
        raise InvalidInput(
            f"--junit is the folder {str(junit)!r}, expected a file",
            fix="Name a file in it, such as --junit retrieval.xml.",
        )
    file = load_cases(cases, **search_options)
    with open(
        collection or file.collection or DEFAULT_COLLECTION,
        store=store or file.store or DEFAULT_STORE,
        encoder=encoder,
        reranker=reranker if needs_reranker(file) else None,
        api_key=read_api_key(api_key),
        **model_options,
    ) as retriever:
        report = run_cases(file, retriever, on_case=_show)
    show_notices(report.notices)
    write(report.summary())
    if json_file is not None:
        write_json(json_file, report)
    if junit is not None:
        write_junit(junit, report)
    raise typer.Exit(report.exit_code)


def _show(outcome: CaseOutcome) -> None:
    from retrieval.cli.render import plain

    ms = "" if outcome.ms is None else f"  ({outcome.ms:.0f} ms)"
    write(f"{_MARKS[outcome.state]}  {plain(outcome.name)}{ms}")
    for problem in outcome.problems:
        write(f"        {plain(problem)}")
