"""`retrieval search`: one question, or a file of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from retrieval._validate import is_whole_number
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.options import (
    RUNNING,
    ApiKey,
    AsJson,
    Collection,
    RerankerOption,
    Store,
    with_model_options,
    with_search_options,
)
from retrieval.cli.output import read_api_key, write, write_json, write_json_line
from retrieval.errors import CorpusError, InvalidInput

if TYPE_CHECKING:
    from retrieval import SearchResult, TwoStageRetriever

_BATCH = 32
"""Queries of a file that are searched in one call."""


@with_model_options(*RUNNING, "long_passages")
@with_search_options()
def search(
    query: Annotated[
        str | None, typer.Argument(help="The question, in your own words; or --queries.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Many questions: one per line, or JSON lines with id and text; - is standard "
            "input. With --json one result a line.",
        ),
    ] = None,
    collection: Collection = "docs",
    store: Store = ".retrieval",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Default: the one the collection was built with.", rich_help_panel=MODELS_PANEL
        ),
    ] = None,
    reranker: RerankerOption = "auto",
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    search_options: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Answer a question with the passages that fit it best."""
    from retrieval.api.open import open

    asked = _asked(query, queries)
    with open(
        collection,
        store=store,
        encoder=encoder,
        reranker=reranker if search_options.get("rerank", True) else None,
        api_key=read_api_key(api_key),
        **model_options,
    ) as retriever:
        if query is not None:
            _show(retriever.search(query, **search_options), as_json)
        else:
            _show_many(retriever, asked, search_options, as_json)


def _show(result: SearchResult, as_json: bool) -> None:
    from retrieval.cli.progress import show_notices
    from retrieval.cli.render import result_as_text
    from retrieval.serialization import result_as_dict

    if as_json:
        write_json(result_as_dict(result))
    else:
        show_notices(result.notices)
        write(result_as_text(result))


def _show_many(
    retriever: TwoStageRetriever,
    queries: Sequence[tuple[str, str]],
    search_options: dict[str, Any],
    as_json: bool,
) -> None:
    """Search a batch at a time; each notice is shown with the first result that has it."""
    from retrieval.cli.progress import show_notices
    from retrieval.cli.render import plain, result_as_text
    from retrieval.serialization import result_as_dict

    shown: set[str] = set()
    for start in range(0, len(queries), _BATCH):
        batch = queries[start : start + _BATCH]
        results = retriever.search_batch([text for _, text in batch], **search_options)
        for (name, text), result in zip(batch, results, strict=True):
            if as_json:
                write_json_line({"id": name, **result_as_dict(result)})
                continue
            show_notices([notice for notice in result.notices if notice not in shown])
            shown.update(result.notices)
            write(f"{name}: {plain(text)}\n\n{result_as_text(result)}\n")


def _asked(query: str | None, queries: str | None) -> list[tuple[str, str]]:
    """(id, text) of every question of the command line; the id of its only one is empty."""
    if (query is None) == (queries is None):
        given = "neither" if query is None else "both"
        raise InvalidInput(
            f"a search takes a question or --queries FILE, {given} of them was given"
            if query is None
            else "a search takes a question or --queries FILE, and both were given",
            fix="Write: retrieval search 'your question', or retrieval search --queries FILE.",
        )
    if query is not None:
        return [("", query)]
    assert queries is not None
    return read_queries(queries)


def read_queries(place: str) -> list[tuple[str, str]]:
    """(id, text) of every query in a file, or of standard input where it is called "-".

    Lines that are JSON objects have `id` (or `_id`, as in BEIR) and `text`; others are a query
    each, named by the number of its line. Empty lines are skipped. The first line decides
    which of both kinds a file is.

    Raises:
        CorpusError: the file cannot be read, has no query, or a line that is none.
    """
    found: dict[str, str] = {}
    shown = "standard input" if place == "-" else place
    with _lines(place, shown) as lines:
        as_objects: bool | None = None
        for number, line in enumerate(lines, start=1):
            line = line.strip().removeprefix("\ufeff")
            if not line:
                continue
            if as_objects is None:
                as_objects = line.startswith("{")
            name, text = _object(line, f"{shown}:{number}") if as_objects else ("", line)
            name = name or str(number)
            if name in found:
                raise CorpusError(
                    f"{shown}:{number} has the id {name!r}, which an earlier query has, too",
                    fix="Give each query its own id: results are matched to queries by it.",
                )
            found[name] = text
    if not found:
        raise CorpusError(
            f"{shown} holds no query", fix="Write one query per line, or JSON with id and text."
        )
    return list(found.items())


@contextmanager
def _lines(place: str, shown: str) -> Iterator[TextIO]:
    try:
        if place == "-":
            yield sys.stdin
            return
        with Path(place).open(encoding="utf-8") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CorpusError(
            f"the queries in {shown} cannot be read ({reason})",
            fix="Give --queries a readable text file in UTF-8.",
        ) from error


def _object(line: str, where: str) -> tuple[str, str]:
    """(id, text) of a line of JSON; the id is empty where it has none."""
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        value = None
    name = value.get("id", value.get("_id", "")) if isinstance(value, dict) else ""
    text = value.get("text") if isinstance(value, dict) else None
    named = isinstance(name, str) or is_whole_number(name)
    if not named or not isinstance(text, str) or not text.strip():
        raise CorpusError(
            f'{where} is not a query: expected {{"id": "…", "text": "…"}}',
            fix="Correct the line, or leave it out.",
        )
    return str(name), text
