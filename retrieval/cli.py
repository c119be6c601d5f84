"""`retrieval …`: index, search, eval, info, models, and what the app adds (ui, demo).

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a fault of
the machine or of this program, 2 something the caller can mend, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retrieval import __version__
from retrieval.errors import Fault, InvalidInput, RetrievalError, UserError

app = typer.Typer(
    name="retrieval",
    help="Two-stage retrieval: index documents, search them, measure both stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Collection = Annotated[str, typer.Option(help="Name of the collection.")]
Store = Annotated[str, typer.Option(help="Folder of the store, or URL of a Qdrant server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (stable, see docs/json.md).")]
ModeOption = Annotated[
    Literal["dense", "sparse", "hybrid"], typer.Option(help="First stage: vectors, BM25 or both.")
]
Candidates = Annotated[int, typer.Option(help="How many first-stage passages are re-ranked.")]
RerankerOption = Annotated[
    str, typer.Option(help="Second stage: auto, none, a model's name or folder.")
]
BlendOption = Annotated[
    Literal["auto", "none", "rrf"],
    typer.Option(help="Final order: the reranker's (none) or joined with stage 1's (rrf)."),
]
Pooling = Annotated[
    Literal["cls", "mean", "last"] | None,
    typer.Option(help="Of the encoder, where its own config declares none."),
]
QueryInstruction = Annotated[
    str | None, typer.Option(help="Put before queries verbatim, instead of the model's own.")
]
PassageInstruction = Annotated[
    str | None, typer.Option(help="Put before passages verbatim, instead of the model's own.")
]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens the encoder reads, instead of the model's own.", min=8)
]
ApiKey = Annotated[
    str | None, typer.Option(help="Of a Qdrant server; '@FILE' reads it from a file.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"retrieval {__version__}")
        raise typer.Exit


@app.command()
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
    encoder: Annotated[str, typer.Option(help="auto, starter, a name, folder or hub id.")] = "auto",
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
) -> None:
    """Index files and folders into a collection; what is unchanged is skipped."""
    from retrieval.opening import ingest
    from retrieval.progress import indexing_bar, show_notices
    from retrieval.rendering import plain, report_as_dict

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
                api_key=_key(api_key),
            )
        reports.append(report)
        show_notices([plain(str(problem)) for problem in report.failed], label="skipped", most=20)
        if report.truncated_passages:
            show_notices(
                [f"{report.truncated_passages} passages were longer than the encoder reads."]
            )
    if as_json:
        _print_json([report_as_dict(report) for report in reports])
        return
    for source, report in zip(sources, reports, strict=True):
        _print(
            f"{plain(source)} → {collection}: {report.read:,} documents read: {report.new:,} new, "
            f"{report.changed:,} changed, {report.unchanged:,} unchanged, "
            f"{len(report.failed):,} skipped; {report.passages:,} passages "
            f"({report.tokens:,} tokens) written in {report.seconds:.1f} s"
        )


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="The question, in your own words.")],
    collection: Collection = "docs",
    store: Store = ".retrieval",
    encoder: Annotated[
        str | None, typer.Option(help="Default: the one the collection was built with.")
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
    api_key: ApiKey = None,
    as_json: AsJson = False,
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
        api_key=_key(api_key),
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
        )
    if as_json:
        _print_json(result_as_dict(result))
        return
    show_notices(result.notices)
    _print(result_as_text(result))


@app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="BEIR_DIR", help="queries.jsonl, qrels/, …")],
    split: Annotated[str, typer.Option(help="Which qrels/<split>.tsv.")] = "test",
    modes: Annotated[str, typer.Option(help="First stages, joined by commas.")] = (
        "dense,sparse,hybrid"
    ),
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Second stage too.")] = True,
    encoder: Annotated[str | None, typer.Option(help="Default: auto.")] = None,
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
    api_key: ApiKey = None,
) -> None:
    """Measure both stages on judged queries in BEIR layout."""
    from retrieval.evaluating import evaluate_folder
    from retrieval.evaluation.evaluate import report_as_text, write_report
    from retrieval.progress import evaluation_bar, indexing_bar

    key = _key(api_key)
    _check_places(json_file, runs)
    wanted = [mode.strip() for mode in modes.split(",") if mode.strip()]
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
            measures=[m.strip() for m in measures.split(",") if m.strip()],
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
            api_key=key,
            on_index=on_index,
            on_search=on_search,
        )
    _print(report_as_text(report))
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

    key = _key(api_key)
    if collection is None:
        names = collection_names(store=store, api_key=key)
        if as_json:
            _print_json({"store": store, "collections": names})
        elif names:
            _print("\n".join(names))
        else:
            typer.echo(f"No collections in {store}. Make one with: retrieval index PATH", err=True)
        return
    manifest = read_manifest(collection, store=store, api_key=key)
    if as_json:
        _print_json(manifest_as_dict(manifest))
    else:
        _print(manifest_as_text(manifest))


@app.command()
def models(as_json: AsJson = False) -> None:
    """The models whose settings are known here; others are read from their own config."""
    from retrieval.models.registry import list_models
    from retrieval.models.resolve import is_cached
    from retrieval.rendering import models_as_dicts, models_as_text

    specs = list_models()
    cached = {spec.name: is_cached(spec) for spec in specs}
    if as_json:
        _print_json(models_as_dicts(specs, cached))
    else:
        _print(models_as_text(specs, cached))


def _key(given: str | None) -> str | None:
    """An API key from the command line, or from a file so that it stays out of `ps`."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(
            f"the API key file {given[1:]!r} cannot be read ({reason})",
            fix="Give --api-key @FILE with a readable file.",
        ) from error


def _check_places(json_file: Path | None, runs: Path | None) -> None:
    """Refuse before the long work what could not be written after it."""
    if json_file is not None and json_file.is_dir():
        raise InvalidInput(
            f"--json is the folder {str(json_file)!r}, expected a file",
            fix="Name a file in it, such as --json figures.json.",
        )
    if runs is not None and runs.exists() and not runs.is_dir():
        raise InvalidInput(
            f"--runs is the file {str(runs)!r}, expected a folder",
            fix="Name a folder; it is made where it does not exist.",
        )


class _ReaderGone(Exception):
    """Whoever read our output has closed it (`retrieval … | head`)."""


def _print(text: str) -> None:
    try:
        typer.echo(text)
    except BrokenPipeError as error:
        raise _ReaderGone from error
    except OSError as error:
        raise Fault(
            f"the output could not be written ({error.strerror})",
            fix="Free space where it goes, or send it elsewhere.",
        ) from error


def _print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is no UTF-8; escaped, it is valid JSON
        text = json.dumps(value, indent=2)
    _print(text)


def _complain(message: str) -> None:
    with suppress(OSError):  # nobody may be listening; the exit code tells it, too
        typer.echo(message, err=True)


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
            raise
        _complain(f"retrieval: {error}")
        return error.exit_code
    except typer.Abort:
        _complain("retrieval: interrupted")
        return 130
    except typer.TyperException as error:  # an option or argument that cannot be used
        message = error.format_message()
        if not message.startswith("Usage:"):  # the help, where no command was given
            message = f"retrieval: {message} (see `retrieval --help`)"
        _complain(message)
        return UserError.exit_code
    except KeyboardInterrupt:
        _complain("retrieval: interrupted; what was acknowledged is kept")
        return 130
    except _ReaderGone:
        # Not an error of ours; what is still buffered must not fail at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        _complain(
            f"retrieval: unexpected {type(error).__name__}: {error}. This is a fault in the "
            "program; run again with --debug for the traceback and report it."
        )
        return 1


if __name__ == "__main__":
    main()
