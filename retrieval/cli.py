"""`retrieval …`: index, search, eval, info, models, and what the app adds (ui, demo).

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a fault of
the machine or of this program, 2 something the caller can mend, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval import __version__
from retrieval.cli_options import (
    CUTTING,
    RUNNING,
    ApiKey,
    AsJson,
    BlendOption,
    Candidates,
    Collection,
    MaxLength,
    ModeOption,
    PassageInstruction,
    Pooling,
    QueryInstruction,
    RerankerOption,
    Store,
    with_model_options,
)
from retrieval.cli_options import MODELS as MODELS_PANEL
from retrieval.cli_output import ReaderGone, check_places, complain, listed, write, write_json
from retrieval.cli_output import api_key as read_key
from retrieval.errors import CorpusError, InvalidInput, RetrievalError, UserError

if TYPE_CHECKING:
    from retrieval.types import IngestReport

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


@app.command()
@with_model_options(*RUNNING, *CUTTING)
def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…",
            help="Files or folders (txt, md, html, jsonl, csv, BEIR), or python-docs.",
        ),
    ],
    collection: Collection = "docs",
    store: Store = ".retrieval",
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
    on_error: Annotated[
        Literal["skip", "raise"], typer.Option(help="What to do with bad input.")
    ] = "skip",
    encoding: Annotated[str | None, typer.Option(help="Of text files, if not UTF-8.")] = None,
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
    from retrieval.opening import ingest
    from retrieval.progress import indexing_bar, show_notices
    from retrieval.rendering import plain, report_as_dict, report_as_text

    reports = []
    for source in sources:
        with indexing_bar(source) as progress:
            report = ingest(
                source,
                collection,
                store=store,
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
                progress=progress,
                on_notice=lambda notice: show_notices([notice]),
                api_key=read_key(api_key),
                **model_options,
            )
        reports.append(report)
        show_notices([plain(str(problem)) for problem in report.failed], label="skipped", most=20)
        if report.truncated_passages:
            show_notices(
                [f"{report.truncated_passages} passages were longer than the encoder reads."]
            )
    if as_json:
        write_json([report_as_dict(report) for report in reports])
    else:
        for source, report in zip(sources, reports, strict=True):
            write(report_as_text(plain(source), report))
    _check_some_indexed(sources, reports)


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


@app.command()
@with_model_options(*RUNNING, "long_passages")
def search(
    query: Annotated[str, typer.Argument(help="The question, in your own words.")],
    collection: Collection = "docs",
    store: Store = ".retrieval",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Default: the one the collection was built with.", rich_help_panel=MODELS_PANEL
        ),
    ] = None,
    reranker: RerankerOption = "auto",
    mode: ModeOption = "hybrid",
    candidates: Candidates = 50,
    top_k: Annotated[int, typer.Option(help="How many hits.")] = 5,
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Second stage.")] = True,
    blend: BlendOption = "auto",
    where: Annotated[
        str | None, typer.Option(help='Filter: key=value,… or JSON \'{"year": {"gte": 2020}}\'.')
    ] = None,
    min_relevance: Annotated[
        float | None, typer.Option(help="Leave out hits below this relevance (0 to 1).")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds for re-ranking: as many candidates as fit, best first.",
        ),
    ] = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    model_options: dict[str, Any],
) -> None:
    """Answer a question with the passages that fit it best."""
    from retrieval.opening import open, parse_where
    from retrieval.progress import show_notices
    from retrieval.rendering import result_as_dict, result_as_text

    with open(
        collection,
        store=store,
        encoder=encoder,
        reranker=reranker if rerank else None,
        api_key=read_key(api_key),
        **model_options,
    ) as retriever:
        result = retriever.search(
            query,
            top_k=top_k,
            candidates=candidates,
            mode=mode,
            where=None if where is None else parse_where(where),
            rerank=rerank,
            blend=None if blend == "auto" else blend,
            min_relevance=min_relevance,
            budget_ms=budget_ms,
        )
    if as_json:
        write_json(result_as_dict(result))
        return
    show_notices(result.notices)
    write(result_as_text(result))


@app.command("eval")
@with_model_options(*RUNNING, *CUTTING, "long_passages")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="BEIR_DIR", help="queries.jsonl, qrels/, …")],
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    modes: Annotated[str, typer.Option(help="First stages, joined by commas.")] = (
        "dense,sparse,hybrid"
    ),
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Second stage too.")] = True,
    encoder: Annotated[
        str | None, typer.Option(help="Default: auto.", rich_help_panel=MODELS_PANEL)
    ] = None,
    reranker: RerankerOption = "auto",
    blend: BlendOption = "auto",
    candidates: Candidates = 50,
    measures: Annotated[
        str, typer.Option(help="Of ir-measures, joined by commas.")
    ] = "nDCG@10,MRR@10,recall@100",
    corpus: Annotated[
        str | None, typer.Option(help="Index this source in place of corpus.jsonl.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Search this collection as it is, index nothing.")
    ] = None,
    store: Store = ".retrieval",
    passages: Annotated[
        Literal["whole", "split"], typer.Option(help="One passage a document, or split.")
    ] = "whole",
    language: Annotated[str, typer.Option(help="Of BM25's words.")] = "auto",
    pooling: Pooling = None,
    query_instruction: QueryInstruction = None,
    passage_instruction: PassageInstruction = None,
    max_length: MaxLength = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many queries.", min=1)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file as JSON.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Write TREC run files into this folder.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds a query for re-ranking (the queries of a batch share them).",
        ),
    ] = None,
    api_key: ApiKey = None,
    *,
    model_options: dict[str, Any],
) -> None:
    """Measure both stages on judged queries in BEIR layout."""
    from retrieval.evaluating import evaluate_folder
    from retrieval.evaluation.evaluate import report_as_text, write_report
    from retrieval.progress import evaluation_bar, indexing_bar

    key = read_key(api_key)
    check_places(json_file, runs)
    wanted = listed(modes)
    for mode in wanted:
        if mode not in ("dense", "sparse", "hybrid"):
            raise InvalidInput(
                f"--modes has {mode!r}, expected dense, sparse or hybrid",
                fix="Join several with commas: --modes dense,hybrid",
            )
    with indexing_bar(str(corpus or folder)) as on_index, evaluation_bar() as on_search:
        report = evaluate_folder(
            folder,
            split=split,
            modes=wanted,  # type: ignore[arg-type]  # checked above
            rerank=rerank,
            encoder=encoder,
            reranker=reranker,
            blend=None if blend == "auto" else blend,
            candidates=candidates,
            measures=listed(measures),
            corpus=corpus,
            collection=collection,
            store=store,
            passages=passages,
            language=language,
            pooling=pooling,
            query_instruction=query_instruction,
            passage_instruction=passage_instruction,
            max_length=max_length,
            limit=limit,
            budget_ms=budget_ms,
            api_key=key,
            on_index=on_index,
            on_search=on_search,
            **model_options,
        )
    write(report_as_text(report))
    write_report(report, json_file=json_file, runs_folder=runs)


@app.command()
def info(
    collection: Annotated[str | None, typer.Argument(help="Default: list all.")] = None,
    store: Store = ".retrieval",
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """What a store holds, and what built a collection."""
    from retrieval.opening import collection_names, read_manifest
    from retrieval.rendering import manifest_as_dict, manifest_as_text

    key = read_key(api_key)
    if collection is None:
        names = collection_names(store=store, api_key=key)
        if as_json:
            write_json({"store": store, "collections": names})
        elif names:
            write("\n".join(names))
        else:
            typer.echo(f"No collections in {store}. Make one with: retrieval index PATH", err=True)
        return
    manifest = read_manifest(collection, store=store, api_key=key)
    if as_json:
        write_json(manifest_as_dict(manifest))
    else:
        write(manifest_as_text(manifest))


@app.command()
def models(as_json: AsJson = False) -> None:
    """The models whose settings are known here; others are read from their own config."""
    from retrieval.models.registry import list_models
    from retrieval.models.resolve import is_cached
    from retrieval.rendering import models_as_dicts, models_as_text

    specs = list_models()
    cached = {spec.name: is_cached(spec) for spec in specs}
    if as_json:
        write_json(models_as_dicts(specs, cached))
    else:
        write(models_as_text(specs, cached))


def _add_plugins() -> None:
    """Commands of other packages (the app's `ui` and `demo`) come through entry points."""
    for entry in sorted(entry_points(group="retrieval.commands"), key=lambda e: e.name):
        app.command(entry.name)(entry.load())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; no traceback unless --debug asks."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:])
    args = [a for a in (sys.argv[1:] if arguments is None else arguments) if a != "--debug"]
    try:
        _add_plugins()
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
    except ReaderGone:
        # Not an error of ours; what is still buffered must not fail at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  (told; --debug shows where it came from)
        if debug:
            complain(traceback.format_exc().rstrip())
        complain(
            f"retrieval: unexpected {type(error).__name__}: {error}. This is a fault in the "
            "program; run again with --debug for the traceback and report it."
        )
        return 1


if __name__ == "__main__":
    main()
