"""`retrieval …`: index, search, eval, info, models, and what the app adds (ui, demo).

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a fault of
the machine or of this program, 2 something the caller can correct, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from retrieval import __version__
from retrieval.cli import collections, index, maintenance, models, search
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
from retrieval.cli.output import (
    ReaderGone,
    check_places,
    complain,
    listed,
    read_api_key,
    write,
)
from retrieval.errors import InvalidInput, RetrievalError, UserError
from retrieval.models.options import SETTINGS

if TYPE_CHECKING:
    from retrieval.types import Mode

app = typer.Typer(
    name="retrieval",
    help="Two-stage retrieval: index documents, search them, measure both stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # options in parts; in "rich" mode, [docs] would be a style
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"retrieval {__version__}")
        raise typer.Exit


index.add_to(app)
search.add_to(app)


@app.command("eval")
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


models.add_to(app)
collections.add_to(app)
maintenance.add_to(app)


def _add_plugins(arguments: Sequence[str]) -> None:
    """Commands of other packages (the app's `serve` and others) come through entry points.

    They are not loaded for a command that is here already, which starts sooner without them.
    """
    here = {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
    here |= {
        str(one.typer_instance.info.name) for one in app.registered_groups if one.typer_instance
    }
    if here.intersection(arguments[:1]):
        return
    for entry in sorted(entry_points(group="retrieval.commands"), key=lambda e: e.name):
        command = entry.load()
        if isinstance(command, typer.Typer):  # a command with its own commands
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; no traceback unless --debug asks."""
    code = run(arguments)
    _let_go_of_streams()
    sys.exit(code)


def _let_go_of_streams() -> None:
    """Drop what could not be written: left in a buffer, it would fail the interpreter's exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed by whoever started the program
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:])
    args = [a for a in (sys.argv[1:] if arguments is None else arguments) if a != "--debug"]
    try:
        _add_plugins(args)
        result = app(args=list(args), prog_name="retrieval", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except RetrievalError as error:
        if debug:
            complain(traceback.format_exc().rstrip())
        complain(f"retrieval: {error}")
        return error.exit_code
    except typer.Abort:
        complain("retrieval: interrupted")
        return 130
    except typer.TyperException as error:  # an option or argument that cannot be used
        message = error.format_message()
        if not message.startswith("Usage:"):  # the help, where no command was given
            message = f"retrieval: {message} (see `retrieval --help`)"
        complain(message)
        return UserError.exit_code
    except KeyboardInterrupt:
        complain("retrieval: interrupted; what was acknowledged is kept")
        return 130
    except ReaderGone:  # not an error of ours
        return 0
    except Exception as error:  # noqa: BLE001  (reported; --debug shows where it came from)
        if debug:
            complain(traceback.format_exc().rstrip())
        complain(
            f"retrieval: unexpected {type(error).__name__}: {error}. This is a fault in the "
            "program; run again with --debug for the traceback and report it."
        )
        return 1
