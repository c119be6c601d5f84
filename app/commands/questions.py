"""`retrieval questions`: a pool of questions to judge, from files, from a log, or written by the
language model that the service is configured with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import Config
from retrieval.cli.options import (
    RUNNING,
    ApiKey,
    Collection,
    RerankerOption,
    Store,
    Tenant,
    with_model_options,
)
from retrieval.cli.output import listed, read_api_key, write
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from retrieval.api.make_pool import PoolReport
    from retrieval.evaluation.pool_files import Origin
    from retrieval.evaluation.trec import Run


@with_model_options(*RUNNING, "long_passages")
def questions(
    pool: Annotated[Path, typer.Argument(help="The pool's folder; made where it is not there.")],
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Queries: one per line, or JSON lines with id and text; - is standard input.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The service's log of searches, most frequent first."),
    ] = None,
    most: Annotated[
        int | None, typer.Option(metavar="N", help="At most N queries of the log.", min=1)
    ] = None,
    synthetic: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Have the language model (llm_url, llm_model) write a question for each of N "
            "passages.",
            min=0,
        ),
    ] = 0,
    keep_within: Annotated[
        int,
        typer.Option(
            metavar="K", help="Keep those that find their document in the first K.", min=1, max=100
        ),
    ] = 10,
    modes: Annotated[
        str | None,
        typer.Option(
            help="Systems to pool, joined by commas; +rerank adds the second stage. "
            "[dense,sparse,hybrid,hybrid+rerank]"
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="FILE", help="A run of another system to pool; repeatable."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(metavar="K", help="Judge the first K of each system. [10]", min=1, max=50),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order and of the sample. [0]")] = None,
    collection: Collection = "docs",
    store: Store = ".retrieval",
    reranker: RerankerOption = "auto",
    tenant: Tenant = None,
    api_key: ApiKey = None,
    config: Config = None,
    *,
    model_options: dict[str, Any],
) -> None:
    """Collect questions and what the systems find for them, to be judged: `retrieval judge`.

    Again with further questions, modes or runs it adds what is new; judgements stay.
    """
    from retrieval.api.make_pool import make_pool
    from retrieval.cli.progress import evaluation_bar, say

    given = _given(queries, log, most, collection, tenant)
    with ExitStack() as stack:
        written = stack.enter_context(_language_model(config)) if synthetic else None
        progress = stack.enter_context(evaluation_bar())
        report = make_pool(
            pool,
            collection,
            queries=given,
            systems=None if modes is None else listed(modes),
            runs=_runs(runs or []),
            depth=depth,
            synthetic=synthetic,
            write=written,
            keep_within=keep_within,
            seed=seed,
            store=store,
            reranker=reranker,
            tenant=tenant,
            api_key=read_api_key(api_key),
            progress=progress,
            on_notice=lambda notice: say(f"note: {notice}"),
            **model_options,
        )
    write(report_as_text(report, pool))


def report_as_text(report: PoolReport, pool: Path) -> str:
    """What was added, and the state of the pool."""
    from retrieval.cli.judge import status_as_text

    lines = [f"{pool}: {report.queries:,} new queries, {report.items:,} new documents to judge"]
    if report.synthetic is not None:
        one = report.synthetic
        why = "; ".join(f"{number:,} {reason}" for reason, number in one.dropped.items())
        lines.append(
            f"language model: {one.written:,} questions written, {one.kept:,} kept"
            + (f", {one.written - one.kept:,} dropped: {why}" if why else "")
        )
    return "\n".join([*lines, status_as_text(report.status, str(pool))])


def _given(
    queries: str | None, log: Path | None, most: int | None, collection: str, tenant: str | None
) -> dict[Origin, list[tuple[str, str]]]:
    """The queries of the file and of the log, by origin."""
    from retrieval.cli.progress import show_notices
    from retrieval.cli.search import read_queries
    from retrieval.evaluation.query_log import read_query_log

    given: dict[Origin, list[tuple[str, str]]] = {}
    if queries is not None:
        given["file"] = read_queries(queries)
    if log is not None:
        logged = read_query_log(log, collection, most=most, tenant=tenant)
        show_notices(logged.notices)
        given["log"] = [("", text) for text in logged.queries]
    elif most is not None:
        raise InvalidInput(
            "--most was given without --log", fix="Name the service's log of searches, too."
        )
    return given


def _runs(paths: list[Path]) -> dict[str, Run]:
    """The runs by their files' names."""
    from retrieval.evaluation.trec import read_run

    runs: dict[str, Run] = {}
    for path in paths:
        if path.name in runs:
            raise InvalidInput(
                f"two runs are called {path.name!r}, and a system is known by its file's name",
                fix="Rename one of the files.",
            )
        runs[path.name] = read_run(path)
    return runs


@contextmanager
def _language_model(config: Path | None) -> Iterator[Callable[[str], str]]:
    """The configured language model: prompt → answer.

    Raises:
        InvalidInput: none is configured.
    """
    from app.answering.llm_client import Sampling, Written, language_model
    from app.answering.prompt import Message, plain
    from app.settings import sources

    model = language_model(sources.load(config=config))
    if model is None:
        raise InvalidInput(
            "--synthetic needs a language model, and none is configured",
            fix="Set llm_url and llm_model (RETRIEVAL_LLM_URL, RETRIEVAL_LLM_MODEL, and "
            "RETRIEVAL_LLM_KEY where the endpoint needs one) to an OpenAI-compatible endpoint.",
        )
    with asyncio.Runner() as runner:
        try:
            yield lambda prompt: runner.run(
                model.write((Message("user", plain(prompt)),), Sampling(), Written())
            )
        finally:
            runner.run(model.close())
