"""Results made by hand for the pure functions, and a server in a thread for the browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from app import service
from retrieval.types import Blend, Candidate, Hit, Mode, Passage, SearchResult, Timings

# What a hostile document or a careless template would need to break out of the page.
HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=\"window.pwned=2\"><a href='javascript:"
    "window.pwned=3'>go</a></li></ol></div> **bold** `tick` ${window.pwned=4} {{value}} "
    '{{#each value}}x{{/each}} @children &lt;b&gt; &amp; "double" \'single\''
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

    app = service.create_app(hosts=service.loopback_names("127.0.0.1"))
    stopping = page.mount(app, page.build(searcher, title="Test page", **facts))
    sock = service.reserve_port("127.0.0.1", 0)
    url = service.url_of(sock)
    up = threading.Event()
    server = service.make_server(app, ready=up.set, stopping=stopping)
    sock.listen(128)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        assert up.wait(30), "the server did not start"
        yield url
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """`with serving(searcher, **facts) as url:` serves the page on a free port."""
    return _serving
