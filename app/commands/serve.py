"""The commands that start the app: `retrieval serve`, `ui`, `demo` and `mcp`.

Found by the command line through the entry points `retrieval.commands`. What happens is said on
standard error, a line a step; errors are raised and shown by the command line.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import (
    MODELS,
    Browser,
    Budget,
    Config,
    Deterministic,
    Device,
    Devices,
    Dtype,
    Engine,
    Host,
    KeysFile,
    LongPassages,
    Port,
    Public,
    ReadOnly,
    Reranker,
    Store,
    Threads,
)
from app.server.run import reserved, run, say, stoppable

if TYPE_CHECKING:
    import socket

    from app.settings.settings import Settings
    from retrieval import IngestReport

DEMO_SOURCE = "python-docs"
DEMO_EXAMPLES = (
    "how do I copy a whole directory tree",
    "parse command line arguments",
    "run something in another process with a timeout",
    "count how often each word occurs in a list",
    "read a csv file where the first row has the column names",
    "make a temporary file that is deleted afterwards",
)


def ui(
    collection: Annotated[
        str | None, typer.Option(help="Name of the collection to search. [docs]")
    ] = None,
    store: Store = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder, where it is not the collection's own.", rich_help_panel=MODELS),
    ] = None,
    reranker: Reranker = None,
    host: Host = None,
    port: Port = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    public: Public = False,
    browser: Browser = True,
    budget_ms: Budget = None,
    device: Device = None,
    devices: Devices = None,
    engine: Engine = None,
    dtype: Dtype = None,
    threads: Threads = None,
    deterministic: Deterministic = False,
    long_passages: LongPassages = None,
) -> None:
    """Search a collection on a page in the browser."""
    from app.settings import settings

    chosen = settings.load(
        collection=collection,
        store=store,
        encoder=encoder,
        reranker=reranker,
        host=host,
        port=port,
        title=title,
        public=public or None,
        budget_ms=budget_ms,
        device=device,
        devices=devices,
        engine=engine,
        dtype=dtype,
        threads=threads,
        deterministic=deterministic or None,
        long_passages=long_passages,
    )
    with stoppable(), reserved(chosen) as sock:
        import retrieval

        say(f"Opening the collection {chosen.collection!r} in {chosen.store} and its models …")
        place = retrieval.Store(chosen.store, api_key=settings.secret(chosen.api_key))
        place.manifest(chosen.collection)  # which says what there is instead
        _show(chosen, sock, title=chosen.title, browser=browser)


def demo(
    store: Store = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder: auto, starter, a name, folder or hub id. [auto]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    reranker: Reranker = None,
    host: Host = None,
    port: Port = None,
    public: Public = False,
    browser: Browser = False,
    budget_ms: Budget = None,
    device: Device = None,
    devices: Devices = None,
    engine: Engine = None,
    dtype: Dtype = None,
    threads: Threads = None,
    deterministic: Deterministic = False,
    long_passages: LongPassages = None,
) -> None:
    """Index the documentation of Python's standard library and search it in the browser."""
    from app.settings import settings

    chosen = settings.load(
        collection=DEMO_SOURCE,
        store=store,
        encoder=encoder,
        reranker=reranker,
        host=host,
        port=port,
        public=public or None,
        budget_ms=budget_ms,
        device=device,
        devices=devices,
        engine=engine,
        dtype=dtype,
        threads=threads,
        deterministic=deterministic or None,
        long_passages=long_passages,
    )
    with stoppable(), reserved(chosen) as sock:
        import retrieval
        from retrieval.cli.progress import indexing_bar

        version = ".".join(map(str, sys.version_info[:3]))
        say(
            f"1/3  Indexing the documentation of Python {version}'s standard library "
            f"into {chosen.store} (encoder: {chosen.encoder or 'auto'}) …"
        )
        with indexing_bar(DEMO_SOURCE) as progress:
            report = retrieval.ingest(
                DEMO_SOURCE,
                DEMO_SOURCE,
                store=chosen.store,
                encoder=chosen.encoder or "auto",
                progress=progress,
                on_notice=lambda notice: say(f"     Note: {notice}"),
                api_key=settings.secret(chosen.api_key),
                storage=settings.storage(chosen),
                **settings.model_options(chosen, reranker=False),
            )
        _say_report(report)
        say("2/3  Loading the models …")
        _show(
            chosen,
            sock,
            title="Ask Python's standard library",
            examples=DEMO_EXAMPLES,
            browser=browser,
            step="3/3  ",
        )


def serve(
    collection: Annotated[
        str | None, typer.Option(help="Collection of calls that name none. [docs]")
    ] = None,
    store: Store = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder, where it is not the collection's own.", rich_help_panel=MODELS),
    ] = None,
    reranker: Reranker = None,
    host: Host = None,
    port: Port = None,
    config: Config = None,
    keys_file: KeysFile = None,
    public: Public = False,
    read_only: ReadOnly = False,
    page: Annotated[
        bool | None, typer.Option("--page/--no-page", help="The page for people at /. [on]")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    device: Device = None,
    devices: Devices = None,
    engine: Engine = None,
    dtype: Dtype = None,
    threads: Threads = None,
    deterministic: Deterministic = False,
    long_passages: LongPassages = None,
) -> None:
    """Answer RAG backends, agents and people on one port: HTTP, MCP and the page.

    Starts also while the collection, its server or a model is missing: /readyz says what is, and
    the service answers once it is there. All settings: `retrieval config`.
    """
    from app.settings import settings

    chosen = settings.load(
        config=config,
        collection=collection,
        store=store,
        encoder=encoder,
        reranker=reranker,
        host=host,
        port=port,
        keys_file=keys_file,
        public=public or None,
        read_only=read_only or None,
        page=page,
        title=title,
        device=device,
        devices=devices,
        engine=engine,
        dtype=dtype,
        threads=threads,
        deterministic=deterministic or None,
        long_passages=long_passages,
    )
    with stoppable(), reserved(chosen) as sock:
        from app.backend.backend import RetrievalBackend
        from app.observability import logging as logs
        from app.observability import tracing
        from app.observability.metrics import Metrics

        logs.setup(chosen)
        tracing.setup(chosen)
        metrics = Metrics()
        backend = RetrievalBackend(chosen, observer=metrics)
        run(backend, chosen, sock, metrics=metrics, title=chosen.title)


def mcp(
    collection: Annotated[
        str | None, typer.Option(help="Collection of calls that name none. [docs]")
    ] = None,
    store: Store = None,
    reranker: Reranker = None,
    config: Config = None,
    read_only: ReadOnly = False,
    device: Device = None,
    engine: Engine = None,
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Speak MCP over standard input and output, for agents that start their tools themselves."""
    import asyncio

    from app.settings import settings

    chosen = settings.load(
        config=config,
        collection=collection,
        store=store,
        reranker=reranker,
        read_only=read_only or None,
        device=device,
        engine=engine,
        dtype=dtype,
        threads=threads,
    )
    with stoppable():
        from app.backend.backend import RetrievalBackend
        from app.observability import logging as logs
        from app.protocols.mcp import server as protocol

        logs.setup(chosen)  # to standard error: standard output carries the protocol
        backend = RetrievalBackend(chosen)
        try:
            asyncio.run(protocol.run_stdio(backend, chosen, lifecycle=backend))
        finally:
            backend.close()


def _show(
    chosen: Settings,
    sock: socket.socket,
    *,
    title: str,
    examples: tuple[str, ...] = (),
    browser: bool,
    step: str = "",
) -> None:
    """Open everything, say what is in use, and serve the page, where nothing can be changed."""
    from app.backend.backend import RetrievalBackend
    from app.observability import logging as logs
    from app.observability.metrics import Metrics

    update: dict[str, object] = {"read_only": True, "page": True}
    if "log_level" not in chosen.model_fields_set:
        update["log_level"] = "warning"  # a line a request is for services
    chosen = chosen.model_copy(update=update)
    logs.setup(chosen)
    metrics = Metrics()
    backend = RetrievalBackend(chosen, observer=metrics)
    try:
        backend.open()
        facts = backend.facts()
        indent = " " * len(step)
        say(f"{indent}Models in use: encoder {facts.encoder}, reranker {facts.reranker or 'none'}")
        for notice in facts.notices:
            say(f"{indent}Note: {notice}")
        run(
            backend,
            chosen,
            sock,
            metrics=metrics,
            title=title,
            examples=examples,
            browser=browser,
            step=step,
        )
    finally:
        backend.close()


def _say_report(report: IngestReport) -> None:
    if not (report.new or report.changed):
        say(f"     Nothing to index: all {report.unchanged:,} documents are there unchanged.")
    else:
        say(
            f"     Indexed {report.new + report.changed:,} documents in {report.passages:,} "
            f"passages ({report.seconds:.0f} s); {report.unchanged:,} were there unchanged."
        )
    if report.truncated_passages:
        say(f"     {report.truncated_passages:,} passages were longer than the encoder reads.")
    if report.failed:
        say(f"     {len(report.failed):,} could not be indexed, the first: {report.failed[0]}")
