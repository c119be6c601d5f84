"""What can go wrong around a service, and what its clients get: real processes and sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from doubles.qdrant_http import qdrant_http
from doubles.tcp_proxy import tcp_proxy
from qdrant_client import models
from service_help import DOCUMENTS, Service, make_settings, running, small_service

import retrieval

SEARCH = {"query": "how long are backups kept", "top_k": 2}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with small_service(folder, body_timeout_s=1.0, max_body_mb=0.2, max_upload_mb=0.5) as one:
        yield one


def search(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/search", json={**SEARCH, **fields}, timeout=30)


def found_ids(answer: httpx.Response) -> list[str]:
    return [hit["passage"]["document_id"] for hit in answer.json()["hits"]]


def until(what: Any, *, seconds: float = 20.0) -> Any:
    """The first true value of `what()`."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value or time.monotonic() > end:
            assert value, "it did not come about in time"
            return value
        time.sleep(0.1)


# --- the store ------------------------------------------------------------------------------


def serving(folder: Path, **options: Any) -> Any:
    """The app over a backend that is opened by serving it, as `retrieval serve` does."""
    from app.backend.backend import Backend
    from app.server.app import create_app

    settings = make_settings(folder, **options)
    backend = Backend(settings)
    return create_app(backend, settings)


def test_a_collection_in_strict_mode(tmp_path: Path) -> None:
    with qdrant_http() as qdrant:
        retrieval.ingest(
            DOCUMENTS, "docs", store=qdrant.url, encoder="all-MiniLM-L6-v2", fields=None
        )
        with running(serving(tmp_path, store=f"{qdrant.url}?retry_s=0.5")) as url:

            def limit(**limits: Any) -> None:
                config = models.StrictModeConfig(enabled=True, **limits)
                change = models.UpdateCollection(strict_mode_config=config)
                qdrant.backend.update_collection("docs@v1", change)

            limit(unindexed_filtering_retrieve=False)
            refused = search(url, where={"site": "x"})
            assert refused.status_code == 422, refused.text
            error = refused.json()["error"]
            assert error["code"] == "invalid_filter"
            assert "--field site:keyword" in error["fix"]
            assert qdrant.url not in refused.text

            limit(unindexed_filtering_retrieve=True, max_query_limit=20)
            assert search(url, top_k=20).status_code == 200
            refused = search(url, top_k=30)
            assert refused.status_code == 422, refused.text
            assert "max_query_limit" in refused.json()["error"]["problem"]

            limit(read_rate_limit=6)
            answers = [search(url) for _ in range(4)]
            assert answers[0].status_code == 200
            assert answers[-1].status_code == 503
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


def test_qdrant_away_at_the_start_and_later(tmp_path: Path) -> None:
    with qdrant_http() as qdrant, tcp_proxy(qdrant.url) as proxy:
        retrieval.ingest(DOCUMENTS, "docs", store=qdrant.url, encoder="all-MiniLM-L6-v2")
        proxy.cut()
        app = serving(tmp_path, store=f"{proxy.url}?timeout_s=2&retry_s=0.5")
        with running(app) as url:
            assert httpx.get(f"{url}/healthz").status_code == 200
            refused = until(
                lambda: (r := httpx.get(f"{url}/readyz", timeout=20)).status_code == 503 and r
            )
            assert "index" in refused.json()["problems"]
            away = search(url)
            assert away.status_code == 503, away.text
            assert away.json()["error"]["fix"]
            for answer in (away, refused):
                assert str(proxy.port) not in answer.text
            assert int(away.headers["Retry-After"]) >= 1
            texts = httpx.post(f"{url}/v1/embeddings", json={"input": "a text"}, timeout=20)
            assert texts.status_code == 200, texts.text

            proxy.restore()
            found = until(lambda: (r := search(url)).status_code == 200 and r)
            assert found_ids(found)[0] == "backups"
            until(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 200)
            body = {"documents": [{"id": "wasps", "text": "Wasps sting."}]}
            home = f"{url}/v1/collections"
            assert httpx.post(f"{home}/other/documents", json=body).status_code == 200
            assert found_ids(search(url, query="wasps", collection="other")) == ["wasps"]
            names = [one["name"] for one in httpx.get(home).json()["collections"]]
            assert names == ["docs", "other"]
            assert httpx.delete(f"{home}/other").status_code == 200

            proxy.cut()
            assert search(url).status_code == 503
            began = time.monotonic()
            assert search(url).status_code == 503
            assert time.monotonic() - began < 1.5  # the outage is known
            assert httpx.get(f"{url}/readyz", timeout=20).status_code == 503
            assert httpx.get(f"{url}/healthz").status_code == 200
            proxy.restore()
            until(lambda: search(url).status_code == 200)


def test_ready_while_one_of_several_nodes_is_away(tmp_path: Path) -> None:
    with qdrant_http() as qdrant, tcp_proxy(qdrant.url) as first, tcp_proxy(qdrant.url) as second:
        retrieval.ingest(DOCUMENTS, "docs", store=qdrant.url, encoder="all-MiniLM-L6-v2")
        with running(serving(tmp_path, store=f"{first.url},{second.url}")) as url:
            until(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 200)
            first.cut()
            assert httpx.get(f"{url}/readyz", timeout=20).status_code == 200
            assert found_ids(search(url))[0] == "backups"


def test_ready_is_not_said_of_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    with qdrant_http(api_key="all") as qdrant:
        retrieval.ingest(
            DOCUMENTS,
            "docs",
            store=retrieval.Store(qdrant.url, api_key="all"),
            encoder="all-MiniLM-L6-v2",
        )
        qdrant.faults.tokens = {"reads": "r"}

        def problems(store: str, key: str, **options: Any) -> dict[str, str]:
            with running(serving(tmp_path, store=store, api_key=key, **options)) as url:

                def answer() -> Any:
                    found = httpx.get(f"{url}/readyz", timeout=20)
                    assert str(qdrant.port) not in found.text
                    told = found.json()["problems"]
                    assert (found.status_code == 200) == (not told)
                    return None if "models" in told or "being asked" in found.text else (told,)

                told: dict[str, str] = until(answer)[0]
                return told

        assert list(problems(qdrant.url, "reads")) == ["writes"]
        assert problems(qdrant.url, "reads", read_only=True) == {}
        assert problems(qdrant.url, "all") == {}
        assert list(problems(f"{qdrant.url}/dashboard", "all")) == ["index"]
        assert list(problems(qdrant.url, "wrong")) == ["index"]


def test_a_model_whose_file_is_missing(tmp_path: Path, tiny_bert_encoder: Path) -> None:
    model = shutil.copytree(tiny_bert_encoder, tmp_path / "model")
    store = tmp_path / "store"
    retrieval.ingest(DOCUMENTS, "docs", store=store, encoder=str(model))
    weights = next(model.glob("*.safetensors"))
    weights.rename(tmp_path / "away")
    with running(serving(tmp_path, encoder=None, reranker="none")) as url:
        answer = until(
            lambda: (r := httpx.get(f"{url}/readyz", timeout=20)).status_code == 503 and r
        )
        assert "models" in answer.json()["problems"]
        refused = search(url)
        assert refused.status_code == 503, refused.text
        error = refused.json()["error"]
        assert str(model) in error["message"]
        assert error["fix"]
        (tmp_path / "away").rename(weights)
        assert until(lambda: search(url).status_code == 200)


def test_a_full_disk_refuses_writes_and_goes_on_searching(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1_000))
        document = {"id": "new", "text": "a text that no disk has room for"}
        url = f"{service.url}/v1/collections/docs/documents"
        refused = httpx.post(url, json={"documents": [document]}, timeout=30)
        assert refused.status_code == 507, refused.text
        assert refused.json()["error"]["code"] == "disk_full"
        assert search(service.url).status_code == 200
        assert httpx.get(f"{service.url}/readyz").status_code == 503
    assert httpx.get(f"{url}/new").status_code == 404
    assert httpx.post(url, json={"documents": [document]}, timeout=30).status_code == 200
    assert httpx.get(f"{url}/new").status_code == 200
    assert httpx.delete(f"{url}/new").status_code == 200


# --- bodies ---------------------------------------------------------------------------------

ADDRESSES = [
    "/v1/search",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/embed",
    "/retrieval",
    "/v1/answer",
    "/v1/chat/completions",
    "/v1/collections/docs/documents",
    "/v1/vector_stores/docs/search",
]


BODIES = [
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b'{"query": "\\ud800", "input": "\\ud800", "inputs": "\\ud800", "texts": ["\\ud800"]}',
    b'{"query": NaN}',
    b"[" * 5000 + b"]" * 5000,
    b'{"top_k": 1' + b"0" * 5000 + b"}",
]
# No body at all is how Dify asks whether the address is right, and null is none.
MALFORMED = [
    (path, body) for path in ADDRESSES for body in BODIES if (path, body) != ("/retrieval", b"null")
]


@pytest.mark.parametrize(("path", "body"), MALFORMED)
def test_malformed_bodies(service: Service, path: str, body: bytes) -> None:
    answer = httpx.post(
        f"{service.url}{path}", content=body, headers={"content-type": "application/json"}
    )
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/xml"])
def test_wrong_content_types(service: Service, path: str, kind: str) -> None:
    """A form on a foreign page can send these without asking first."""
    answer = httpx.post(
        f"{service.url}{path}", content=json.dumps(SEARCH), headers={"content-type": kind}
    )
    assert answer.status_code in (400, 415, 422), answer.text


@pytest.mark.parametrize("path", ["/v1/search", "/embed", "/retrieval", "/v2/rerank"])
@pytest.mark.parametrize("declared", [True, False])
def test_huge_bodies(service: Service, path: str, declared: bool) -> None:
    body = json.dumps({"query": "x" * 300_000}).encode()
    content: Any = body if declared else iter([body[:100_000], body[100_000:]])
    answer = httpx.post(
        f"{service.url}{path}", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413, answer.text
    assert search(service.url).status_code == 200


# --- clients --------------------------------------------------------------------------------


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def test_a_slow_client_is_sent_away_and_holds_nobody_up(service: Service) -> None:
    with connect(service.url) as slow:
        slow.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        began = time.monotonic()
        assert search(service.url).status_code == 200
        answer = b""
        while b"\r\n\r\n" not in answer and (part := slow.recv(4096)):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert time.monotonic() - began < 10


def test_clients_that_go_away_leave_nothing_behind(service: Service) -> None:
    body = json.dumps({"queries": ["how long are backups kept"] * 50, "top_k": 1}).encode()
    head = (
        b"POST /v1/search/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    for _ in range(20):
        with connect(service.url) as gone:
            gone.sendall(head + body)
    until(lambda: _in_flight(service) == 0)
    assert search(service.url).status_code == 200


def _in_flight(service: Service) -> float:
    scrape = httpx.get(f"{service.url}/metrics").text
    lines = [line for line in scrape.splitlines() if line.startswith("retrieval_in_flight")]
    # the scrape itself may be counted
    return max(0.0, sum(float(line.split()[-1]) for line in lines) - 1)


# --- the end --------------------------------------------------------------------------------

PROGRAM = "from retrieval.cli.main import main; main()"


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`retrieval serve` in its own process, once it is ready."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RETRIEVAL_")}
    given = {
        "store": folder / "store",
        "encoder": "all-MiniLM-L6-v2",
        "reranker": "maxsim",
        "port": 0,
        "page": False,
        "log_level": "warning",
        **settings,
    }
    clean |= {f"RETRIEVAL_{name.upper()}": str(value) for name, value in given.items()}
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "serve"], env=clean, stderr=file, text=True, cwd=folder
        )
    try:
        said = until(lambda: (t := log.read_text()).find(" is at ") >= 0 and t, seconds=60)
        url = said.split(" is at ", 1)[1].split()[0]
        until(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 200, seconds=60)
        yield process, url
    finally:
        process.kill()
        process.wait()


def test_sigterm_under_load_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    retrieval.ingest(DOCUMENTS, "docs", store=tmp_path / "store", encoder="all-MiniLM-L6-v2")
    broken: list[str] = []
    answered: list[int] = []
    written: list[str] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"{url}/v1/search", json=SEARCH)
                except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
                    # A connection that was idle when the service closed it is no accepted request.
                    if not stopping.is_set():
                        broken.append(repr(error))
                    return
                answered.append(answer.status_code)
                if answer.status_code == 200 and not answer.json()["hits"]:
                    broken.append(answer.text)

    def write(url: str) -> None:
        with httpx.Client(timeout=30) as client:
            for number in range(1000):
                document = {"id": f"w{number}", "text": f"written under load, number {number}"}
                try:
                    answer = client.post(
                        f"{url}/v1/collections/docs/documents", json={"documents": [document]}
                    )
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    written.append(f"w{number}")

    stopping = threading.Event()
    # nobody is refused for the load: what this is about is what was let in
    with started(tmp_path, max_wait_ms=60_000) as (process, url):
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(6)]
        threads.append(threading.Thread(target=write, args=(url,)))
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 20 and len(written) > 3, seconds=60)
        stopping.set()
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, (tmp_path / "log").read_text()
        stop.set()
        for thread in threads:
            thread.join(30)
    assert broken == []
    assert set(answered) <= {200, 503}, set(answered)
    assert (tmp_path / "log").read_text().endswith("Stopped.\n")
    with retrieval.open("docs", store=tmp_path / "store", reranker="none") as retriever:
        stored = retriever.index.document_states(written)
    assert sorted(stored) == sorted(written)
