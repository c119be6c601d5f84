"""The commands that start the app: `retrieval serve`, `ui`, `demo` and `mcp`.

Found by the command line through the entry points `retrieval.commands`. What happens is said on
standard error, one line per step; errors are raised and shown by the command line.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from app.commands.options import Browser, Config, settings_of
from app.server.run import reserved, run, say, stoppable
from app.settings import settings, sources
from retrieval.cli.options import with_options

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


@with_options(options=settings_of("ui"))
def ui(browser: Browser = True, *, options: dict[str, Any]) -> None:
    """Search a collection on a page in the browser."""
    chosen = sources.load(**options)
    with stoppable(), reserved(chosen) as sock:
        import retrieval

        say(f"Opening the collection {chosen.collection!r} in {chosen.store} and its models …")
        place = retrieval.Store(chosen.store, api_key=settings.secret(chosen.api_key))
        place.manifest(chosen.collection)  # which says what there is instead
        _show(chosen, sock, title=chosen.title, browser=browser)


@with_options(options=settings_of("demo"))
def demo(browser: Browser = False, *, options: dict[str, Any]) -> None:
    """Index the documentation of Python's standard library and search it in the browser."""
    chosen = sources.load(collection=DEMO_SOURCE, **options)
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


@with_options(options=settings_of("serve"))
def serve(config: Config = None, *, options: dict[str, Any]) -> None:
    """Answer RAG backends, agents and people on one port: HTTP, MCP and the page.

    Starts also while the collection, its server or a model is missing: /readyz says what is, and
    the service answers once it is there. All settings: `retrieval config`.
    """
    chosen = sources.load(config=config, **options)
    with stoppable(), reserved(chosen) as sock:
        from app.backend.backend import Backend
        from app.observability import logging, tracing
        from app.observability.metrics import Metrics

        logging.setup(chosen)
        tracing.setup(chosen)
        metrics = Metrics()
        backend = Backend(chosen, observer=metrics)
        run(backend, chosen, sock, metrics=metrics, title=chosen.title)


@with_options(options=settings_of("mcp"))
def mcp(config: Config = None, *, options: dict[str, Any]) -> None:
    """Speak MCP over standard input and output, for agents that start their tools themselves."""
    chosen = sources.load(config=config, **options)
    with stoppable():
        from app.backend.backend import Backend
        from app.observability import logging
        from app.protocols.mcp import server as protocol

        logging.setup(chosen)  # to standard error: standard output carries the protocol
        backend = Backend(chosen)
        try:
            asyncio.run(protocol.run_stdio(backend, chosen))
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
    from app.backend.backend import Backend
    from app.observability import logging
    from app.observability.metrics import Metrics

    update: dict[str, object] = {"read_only": True, "page": True}
    if "log_level" not in chosen.model_fields_set:
        update["log_level"] = "warning"  # one line per request is for services
    chosen = chosen.model_copy(update=update)
    logging.setup(chosen)
    metrics = Metrics()
    backend = Backend(chosen, observer=metrics)
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
        say(
            f"     Nothing to index: all {report.unchanged:,} documents are indexed "
            "already and unchanged."
        )
    else:
        say(
            f"     Indexed {report.new + report.changed:,} documents in {report.passages:,} "
            f"passages ({report.seconds:.0f} s); {report.unchanged:,} were unchanged."
        )
    if report.truncated_passages:
        say(f"     {report.truncated_passages:,} passages were longer than the encoder reads.")
    if report.failed:
        say(f"     {len(report.failed):,} could not be indexed, the first: {report.failed[0]}")
