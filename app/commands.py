"""The commands that start the app: `retrieval ui` and `retrieval demo`.

Found by the command line through the entry points `retrieval.commands`. What happens is said on
standard error, a line a step; errors are raised and shown by the command line.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    import socket

    from app.settings import Settings
    from retrieval import IngestReport, TwoStageRetriever

# How long after the signal a search may still run; the service waits half of it by itself.
ABANDON_SECONDS = 6.0

DEMO_SOURCE = "python-docs"
DEMO_EXAMPLES = (
    "how do I copy a whole directory tree",
    "parse command line arguments",
    "run something in another process with a timeout",
    "count how often each word occurs in a list",
    "read a csv file where the first row has the column names",
    "make a temporary file that is deleted afterwards",
)

MODELS = "Models"
"""The part of the help that holds the options of models."""

Store = Annotated[
    str | None, typer.Option(help="Folder of the store, or URL of a Qdrant server. [.retrieval]")
]
Reranker = Annotated[
    str | None,
    typer.Option(
        help="Second stage: auto, none, a model's name or folder. [auto]",
        rich_help_panel=MODELS,
    ),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [7860]")]
Public = Annotated[
    bool, typer.Option("--public", help="Allow an address that other machines can reach.")
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps. [auto]", rich_help_panel=MODELS)
]
Devices = Annotated[
    str | None,
    typer.Option(help="Several, joined by commas: cuda:0,cuda:1.", rich_help_panel=MODELS),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto, packed, openvino or transformers. [auto]",
        rich_help_panel=MODELS,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="auto, fp32, bf16, fp16 or, on CPUs, int8. [auto]",
        rich_help_panel=MODELS,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="CPU threads of a model.", rich_help_panel=MODELS),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Each text alone: the same bits whatever else is in the batch; slower.",
        rich_help_panel=MODELS,
    ),
]
LongPassages = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Passages over a cross-encoder's length: truncate, windows (the best one counts), "
        "or error. [truncate]",
        rich_help_panel=MODELS,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(help="Milliseconds for re-ranking at first; the page can change it. [no limit]"),
]
Browser = Annotated[bool, typer.Option(help="Open the page in a browser where there is a desktop.")]


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
    from app import settings

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
    with _stoppable(), _reserved(chosen) as sock:
        import retrieval

        _say(f"Opening the collection {chosen.collection!r} in {chosen.store} and its models …")
        with retrieval.open(
            chosen.collection,
            store=chosen.store,
            encoder=None if chosen.encoder == "auto" else chosen.encoder,
            reranker=chosen.reranker,
            api_key=settings.secret(chosen.api_key),
            **settings.model_options(chosen),
        ) as retriever:
            _serve(retriever, chosen, sock, title=chosen.title, examples=(), browser=browser)


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
    from app import settings

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
    with _stoppable(), _reserved(chosen) as sock:
        import retrieval
        from retrieval.progress import indexing_bar

        version = ".".join(map(str, sys.version_info[:3]))
        _say(
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
                on_notice=lambda notice: _say(f"     Note: {notice}"),
                api_key=settings.secret(chosen.api_key),
                storage=settings.storage(chosen),
                **settings.model_options(chosen, reranker=False),
            )
        _say_report(report)
        _say("2/3  Loading the models …")
        with retrieval.open(
            DEMO_SOURCE,
            store=chosen.store,
            encoder=None if chosen.encoder == "auto" else chosen.encoder,
            reranker=chosen.reranker,
            api_key=settings.secret(chosen.api_key),
            **settings.model_options(chosen),
        ) as retriever:
            _serve(
                retriever,
                chosen,
                sock,
                title="Ask Python's standard library",
                examples=DEMO_EXAMPLES,
                browser=browser,
                step="3/3  ",
            )


def _serve(
    retriever: TwoStageRetriever,
    chosen: Settings,
    sock: socket.socket,
    *,
    title: str,
    examples: Sequence[str],
    browser: bool,
    step: str = "",
) -> None:
    encoder = retriever.encoder.info.model
    reranker = retriever.reranker.info.model if retriever.reranker else None
    indent = " " * len(step)
    _say(f"{indent}Models in use: encoder {encoder}, reranker {reranker or 'none'}")
    for notice in retriever.notices:
        _say(f"{indent}Note: {notice}")

    from app import service
    from app.ui import page

    local = service.is_loopback(chosen.host)
    app = service.create_app(hosts=service.loopback_names(chosen.host) if local else None)
    blocks = page.build(
        retriever,
        title=title,
        examples=examples,
        collection=retriever.index.collection,
        passages=retriever.count(),
        encoder=encoder,
        reranker=reranker,
        notices=retriever.notices,
        mode=retriever.mode,
        candidates=retriever.candidates,
        budget_ms=chosen.budget_ms,
    )
    stopping = page.mount(app, blocks)
    url = service.url_of(sock)

    def ready() -> None:
        _say(f"{step}The page is at {url} (stop with Ctrl-C)")
        if browser:
            threading.Thread(target=_open_browser, args=(url,), daemon=True).start()

    def stop() -> None:
        _end_within(ABANDON_SECONDS)
        stopping()

    service.serve(app, sock, ready=ready, stopping=stop)
    _say("Stopped.")


def _end_within(seconds: float) -> None:
    """End the process for sure: a thread that is in a search cannot be stopped from outside."""

    def leave() -> None:
        # A search reads and never writes: nothing is lost with it.
        _say("A search that was still running was abandoned.")
        os._exit(0)

    patience = threading.Timer(seconds, leave)
    patience.daemon = True  # an end in time ends it too
    patience.start()


@contextmanager
def _reserved(chosen: Settings) -> Iterator[socket.socket]:
    """The address, taken before any long work; an open one only where that is meant."""
    from app import service

    if not service.is_loopback(chosen.host):
        if not chosen.public:
            raise InvalidInput(
                f"the host {chosen.host!r} can be reached by other machines, and the page asks "
                "nobody for a password",
                fix="Keep --host 127.0.0.1, or add --public if everyone there may search.",
            )
        _say(
            f"Warning: everyone who can reach {chosen.host} port {chosen.port} can search "
            "this collection; there is no password."
        )
    with closing(service.reserve_port(chosen.host, chosen.port)) as sock:
        yield sock


@contextmanager
def _stoppable() -> Iterator[None]:
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


def _say_report(report: IngestReport) -> None:
    if not (report.new or report.changed):
        _say(f"     Nothing to index: all {report.unchanged:,} documents are there unchanged.")
    else:
        _say(
            f"     Indexed {report.new + report.changed:,} documents in {report.passages:,} "
            f"passages ({report.seconds:.0f} s); {report.unchanged:,} were there unchanged."
        )
    if report.truncated_passages:
        _say(f"     {report.truncated_passages:,} passages were longer than the encoder reads.")
    if report.failed:
        _say(f"     {len(report.failed):,} could not be indexed, the first: {report.failed[0]}")


def _open_browser(url: str) -> None:
    """Open the page, but never a browser that runs in this terminal."""
    try:
        controller = webbrowser.get()
    except webbrowser.Error:
        return
    # Text browsers are registered as plain GenericBrowser and would take the terminal over.
    if type(controller) is not webbrowser.GenericBrowser:
        controller.open(url)


def _say(line: str) -> None:
    with suppress(OSError):  # the service goes on where nobody listens any more (`2>&1 | head`)
        typer.echo(line, err=True)
