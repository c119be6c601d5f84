"""Results made by hand for the pure functions, and a server in a thread for the browser."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from app.server import sockets
from app.server.app import protect
from retrieval.types import Blend, Candidate, Hit, Mode, Passage, SearchResult, Timings

# What a hostile document or a careless template would need to break out of the page.
HOSTILE = (
    '<script>window.pwned=1</script><img src=x onerror="window.pwned=2"><a href=\'javascript:'
    "window.pwned=3'>go</a></li></ol></div> **bold** `tick` ${window.pwned=4} {{value}} "
    "{{#each value}}x{{/each}} @children &lt;b&gt; &amp; \"double\" 'single'"
)


def make_passage(name: str, text: str = "text", **fields: Any) -> Passage:
    return Passage(
        id=f"id-{name}",
        document_id=name,
        position=0,
        text=text,
        start=0,
        end=len(text),
        title=fields.pop("title", name),
        source=fields.pop("source", f"folder/{name}.md"),
        **fields,
    )


def make_result(
    stage1: list[str],
    final: list[str],
    *,
    query: str = "copy a tree",
    texts: dict[str, str] | None = None,
    mode: Mode = "hybrid",
    blend: Blend = "none",
    reranker: str | None = "a-reranker",
    notices: tuple[str, ...] = (),
) -> SearchResult:
    """A result whose first stage found `stage1` and whose final order is `final`."""
    passages = {name: make_passage(name, (texts or {}).get(name, "text")) for name in stage1}
    candidates = tuple(
        Candidate(passages[name], 1.0 / rank, rank) for rank, name in enumerate(stage1, start=1)
    )
    hits = tuple(
        Hit(
            passage=passages[name],
            rank=rank,
            score=10.0 - rank,
            relevance=0.9 / rank if reranker else None,
            stage1_rank=stage1.index(name) + 1,
            stage1_score=1.0 / (stage1.index(name) + 1),
            stage2_rank=rank if reranker else None,
            stage2_score=10.0 - rank if reranker else None,
        )
        for rank, name in enumerate(final, start=1)
    )
    return SearchResult(
        query=query,
        hits=hits,
        candidates=candidates,
        mode=mode,
        blend=blend,
        encoder="an-encoder",
        reranker=reranker,
        timings=Timings(encode_ms=4.21, retrieve_ms=1.5, rerank_ms=120.4, total_ms=126.11),
        notices=notices,
    )


@contextmanager
def _serving(searcher: Any, **facts: Any) -> Iterator[str]:
    from app.ui import page

    app = FastAPI()
    protect(app, hosts=sockets.loopback_names("127.0.0.1"))
    stopping = page.mount(app, page.build(searcher.search, title="Test page", **facts))
    sock = sockets.reserve_port("127.0.0.1", 0)
    url = sockets.url_of(sock)
    up = threading.Event()
    running = sockets.make_server(app, ready=up.set, stopping=stopping)
    sock.listen(128)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        assert up.wait(30), "the server did not start"
        yield url
    finally:
        running.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session", name="hostile")
def _hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session", name="make_passage")
def _make_passage() -> Callable[..., Passage]:
    return make_passage


@pytest.fixture(scope="session", name="make_result")
def _make_result() -> Callable[..., SearchResult]:
    return make_result


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """`with serving(searcher, **facts) as url:` serves the page on a free port."""
    return _serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; the test skips where there is none.

    A module's own: while Playwright runs, no test in this thread may use `asyncio.run`.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    with sync_api.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium here")
        chromium = driver.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url, width=…, scheme=…)`: a page that is ready for a question.

    At the end of the test it fails if a page asked another host for anything, or if a script
    failed in it.
    """
    contexts: list[Any] = []
    outside: list[str] = []
    faults: list[str] = []

    def watch(request: Any) -> None:
        if urlsplit(request.url).hostname not in (None, "127.0.0.1"):
            outside.append(request.url)

    def console(message: Any) -> None:
        if message.type == "error":
            faults.append(message.text)

    def open_(url: str, *, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", watch)
        page.on("console", console)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        page.get_by_label("Your question").wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert outside == [], "the page asked other hosts"
    assert faults == [], "scripts failed in the page"


DOCUMENTS = {
    "Leave": "Employees ask for leave in the portal, at least two weeks before it begins. "
    "The team lead answers within three working days.",
    "Expenses": "Travel expenses are paid back within ten days after the receipts were handed in. "
    "Meals abroad are paid at the daily rate of the country.",
    "Backups": "Every night at two the database is copied to another site. "
    "Copies are kept for ninety days and a restore is rehearsed every quarter.",
    "Passwords": "A forgotten password is reset with the link on the sign-in page. "
    "After five wrong attempts the account is locked for an hour.",
    "Visitors": "Guests get a badge at the front desk and are met there by their host.",
    "Printer": "When the printer on the second floor jams, open the left door and pull the sheet "
    "towards you. Toner is in the cupboard beside it.",
    "Deploys": "A release goes out on Tuesday after the tests have passed on the main branch. "
    "To go back, start the previous image again.",
    "Hostile": f"The cafeteria serves soup and {HOSTILE} bread from noon to two.",
}


@pytest.fixture(scope="session")
def office_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the collection `office`, built by the real `ingest` with the starter encoder."""
    import retrieval

    store = tmp_path_factory.mktemp("office") / "store"
    documents = [
        retrieval.Document(id=title, text=text, title=title, source=f"office/{title.lower()}.md")
        for title, text in DOCUMENTS.items()
    ]
    report = retrieval.ingest(documents, "office", store=store, encoder="all-MiniLM-L6-v2")
    assert report.new == len(DOCUMENTS)
    return store
