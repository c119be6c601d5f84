"""Runs the service from its settings: the address, the assembled parts, and the stop."""

from __future__ import annotations

import os
import signal
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from app.backend.backend import Backend
    from app.observability.metrics import Metrics
    from app.settings.settings import Settings

# After the grace that requests get, this long is left to close the index before the process ends
# in any case: a thread that is in a search cannot be stopped from outside.
CLOSING_SECONDS = 3.0


@contextmanager
def reserved(chosen: Settings) -> Iterator[socket.socket]:
    """Take the address before any long work; one open to other machines needs keys or --public."""
    from app.server import sockets

    if not sockets.is_loopback(chosen.host) and chosen.keys_file is None:
        if not chosen.public:
            raise InvalidInput(
                f"the host {chosen.host!r} can be reached by other machines, and there are "
                "no API keys",
                fix="Keep --host 127.0.0.1, make keys (`retrieval keys create`) and give their "
                "file as --keys-file, or add --public if everyone there may use it.",
            )
        may = "search" if chosen.read_only else "search and change"
        say(
            f"Warning: everyone who can reach {chosen.host} port {chosen.port} can {may} "
            "this store; there are no API keys."
        )
    with closing(sockets.reserve_port(chosen.host, chosen.port)) as sock:
        yield sock


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: at once, and with everything closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    backend: Backend,
    chosen: Settings,
    sock: socket.socket,
    *,
    metrics: Metrics,
    title: str,
    examples: Sequence[str] = (),
    browser: bool = False,
    step: str = "",
) -> None:
    """Serve until a signal; the backend is opened, where it is not yet, and closed at the end.

    Args:
        backend: what answers.
        chosen: settings.
        sock: from `reserved`.
        metrics: what the backend counts, shown at `/metrics`.
        title, examples: of the page.
        browser: whether to open the page where there is a desktop.
        step: put before what is said.
    """
    from app.observability import tracing
    from app.server import sockets

    app, stopping = assemble(backend, chosen, metrics=metrics, title=title, examples=examples)
    url = sockets.url_of(sock)

    def ready() -> None:
        what = "The page is" if chosen.page else "The service is"
        say(f"{step}{what} at {chosen.public_url or url} (stop with Ctrl-C)")
        if browser and chosen.page:
            threading.Thread(target=_open_browser, args=(url,), daemon=True).start()

    def stop() -> None:
        end_within(chosen.grace_s + CLOSING_SECONDS)
        stopping()

    sockets.serve(app, sock, ready=ready, stopping=stop, grace_s=chosen.grace_s)
    tracing.shutdown()
    say("Stopped.")


def assemble(
    backend: Backend,
    chosen: Settings,
    *,
    metrics: Metrics,
    title: str,
    examples: Sequence[str] = (),
) -> tuple[FastAPI, Callable[[], None]]:
    """The app with its page, and what must be called before it shuts down."""
    from app.answering.llm_client import language_model
    from app.security.api_keys import KeyRing
    from app.server import sockets
    from app.server.app import create_app

    local = sockets.is_loopback(chosen.host)
    app = create_app(
        backend,
        chosen,
        metrics=metrics,
        keys=None if chosen.keys_file is None else KeyRing.load(chosen.keys_file),
        language_model=language_model(chosen, observer=metrics),
        hosts=sockets.loopback_names(chosen.host) if local else None,
    )
    if not chosen.page:
        return app, lambda: None

    from app.ui import page

    blocks = page.build(
        backend.search_now,
        title=title,
        examples=examples,
        facts=backend.facts,
        reranks=chosen.reranker != "none",
        budget_ms=chosen.budget_ms,
    )
    return app, page.mount(app, blocks)


def end_within(seconds: float) -> None:
    """End the process after `seconds` in any case; what was acknowledged is on disk by then."""

    def leave() -> None:
        say("A search that was still running was abandoned.")
        os._exit(0)

    patience = threading.Timer(seconds, leave)
    patience.daemon = True  # an end in time ends it too
    patience.start()


def say(line: str) -> None:
    """Write a line to standard error, for whoever started the program."""
    with suppress(OSError):  # nothing may read the stream any more (`2>&1 | head`)
        typer.echo(line, err=True)


def _open_browser(url: str) -> None:
    """Open the page, but never a browser that runs in this terminal."""
    try:
        controller = webbrowser.get()
    except webbrowser.Error:
        return
    # Text browsers are registered as plain GenericBrowser and would take the terminal over.
    if type(controller) is not webbrowser.GenericBrowser:
        controller.open(url)
