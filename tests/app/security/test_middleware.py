"""What the guard lets through and what it refuses: over real sockets, with the real key file."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from guard_help import Prepared, guarded
from service_help import running

from app.observability.metrics import Metrics
from app.security import api_keys
from app.security.api_keys import KeyRing


class Running:
    """A service behind a guard, and what it needs to be asked."""

    def __init__(
        self, url: str, tokens: dict[str, str], file: Path, backend: Prepared, metrics: Metrics
    ) -> None:
        self.url = url
        self.tokens = tokens
        self.file = file
        self.backend = backend
        self.metrics = metrics

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers)

    def bearer(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[name]}"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With keys."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    tokens = {
        "full": api_keys.create(file, "full")[0],
        "reader": api_keys.create(
            file, "reader", write=False, collections=["docs"], tenant="acme", rate="1000/second"
        )[0],
        "limited": api_keys.create(file, "limited", rate="2/minute")[0],
    }
    metrics = Metrics()
    app, backend = guarded(keys=KeyRing.load(file), metrics=metrics)
    with running(app) as url:
        yield Running(url, tokens, file, backend, metrics)


@pytest.fixture(scope="module")
def opened() -> Iterator[Running]:
    """Without keys, with tight limits."""
    metrics = Metrics()
    app, backend = guarded(
        metrics=metrics,
        max_body_mb=0.1,
        max_upload_mb=0.4,
        body_timeout_s=0.5,
        cors_origins=("https://friend.example",),
    )
    with running(app) as url:
        yield Running(url, {}, Path(), backend, metrics)


# --- who asks -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["Authorization: Bearer {}", "x-api-key: {}", "api-key: {}"])
def test_a_key_says_who_asks(closed: Running, form: str) -> None:
    name, value = form.format(closed.tokens["reader"]).split(": ")
    answer = closed.get("/v1/who", **{name: value})
    assert answer.status_code == 200
    who = answer.json()
    assert who.pop("request_id") == answer.headers["x-request-id"]
    assert who == {"key_id": "reader", "write": False, "collections": ["docs"], "tenant": "acme"}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({}, "no API key"),
        ({"authorization": "Bearer"}, "not `Bearer KEY`"),
        ({"authorization": "Bearer two words"}, "not `Bearer KEY`"),
        ({"authorization": "Digest abc"}, "not `Bearer KEY`"),
        ({"authorization": "Bearer tsr_unknown"}, "not known"),
        ({"x-api-key": "ü" * 20}, "not known"),
        ({"api-key": "x" * 5000}, "not known"),
    ],
)
def test_without_a_known_key_there_is_no_answer(
    closed: Running, header: dict[str, str], says: str
) -> None:
    raw = [(name, value.encode("latin-1")) for name, value in header.items()]
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{closed.url}/v1/who", headers=raw)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert says in answer.json()["error"]["message"]
        assert answer.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/metrics", "/openapi.json", "/v2/x", "/mcp", "/mcp/", "/retrieval"]
)
def test_every_address_of_programs_needs_a_key(closed: Running, path: str) -> None:
    password = base64.b64encode(f"me:{closed.tokens['full']}".encode()).decode()
    refused = 403 if path == "/retrieval" else 401  # Dify's own status for it
    assert closed.get(path).status_code == refused
    # what browsers send along by themselves opens the page alone
    assert closed.get(path, authorization=f"Basic {password}").status_code == refused
    assert closed.get(path, **closed.bearer("full")).status_code in (200, 404)


def test_the_page_takes_a_key_as_a_password(closed: Running) -> None:
    asked = closed.get("/")
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"].startswith("Basic ")
    for wrong in ("-", "bm9jb2xvbg==", "not base64", base64.b64encode(b"me:wrong").decode()):
        assert closed.get("/", authorization=f"Basic {wrong}").status_code == 401
    answer = httpx.get(f"{closed.url}/", auth=("anybody", closed.tokens["full"]))
    assert answer.json() == "the page"
    # the page searches as nobody in particular: a key bound to a tenant would see beyond it
    refused = httpx.get(f"{closed.url}/", auth=("anybody", closed.tokens["reader"]))
    assert refused.status_code == 403
    assert "may not use the page" in refused.text


def test_probes_are_open_and_tell_strangers_no_details(closed: Running) -> None:
    assert closed.get("/healthz").json() == {"status": "ok"}
    assert closed.get("/readyz").json() == {"ready": True, "problems": {}}
    closed.backend.problems = {"index": "http://10.0.0.7:6333 is away"}
    try:
        stranger = closed.get("/readyz")
        assert stranger.status_code == 503
        assert list(stranger.json()["problems"]) == ["index"]
        assert "10.0.0.7" not in stranger.text
        known = closed.get("/readyz", **closed.bearer("reader"))
        assert "10.0.0.7" in known.json()["problems"]["index"]
    finally:
        closed.backend.problems = {}


def test_keys_are_made_and_revoked_while_it_runs(closed: Running) -> None:
    token, _ = api_keys.create(closed.file, "brief")
    bearer = {"authorization": f"Bearer {token}"}
    assert closed.get("/v1/who", **bearer).json()["key_id"] == "brief"
    api_keys.revoke(closed.file, "brief")
    assert closed.get("/v1/who", **bearer).status_code == 401
    assert closed.get("/v1/who", **closed.bearer("full")).status_code == 200


def test_without_keys_everybody_may(opened: Running) -> None:
    who = opened.get("/v1/who", authorization="Bearer whatever").json()
    assert (who["key_id"], who["write"], who["collections"]) == ("anonymous", True, None)


# --- how often ------------------------------------------------------------------------------


def test_a_key_has_its_own_rate(closed: Running) -> None:
    statuses = [closed.get("/v1/who", **closed.bearer("limited")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = closed.get("/v1/who", **closed.bearer("limited"))
    assert 1 <= int(refused.headers["retry-after"]) <= 31
    assert refused.json()["error"]["code"] == "rate_limited"
    assert closed.get("/healthz", **closed.bearer("limited")).status_code == 200
    assert closed.get("/v1/who", **closed.bearer("full")).status_code == 200
    assert 'retrieval_shed_total{reason="rate_limited"} 2.0' in closed.metrics.render().decode()


# --- ids and headers ------------------------------------------------------------------------


def test_a_request_id_is_kept_where_it_is_harmless(opened: Running) -> None:
    assert opened.get("/v1/who", **{"x-request-id": "abc-1"}).json()["request_id"] == "abc-1"
    for bad in ("a b", "x" * 129, 'a"b', "<script>"):
        made = opened.get("/v1/who", **{"x-request-id": bad})
        assert len(made.json()["request_id"]) == 32
        assert made.headers["x-request-id"] == made.json()["request_id"]
    assert (
        opened.get("/v1/who").headers["x-request-id"]
        != opened.get("/v1/who").headers["x-request-id"]
    )


def test_answers_hold_browsers_back(opened: Running) -> None:
    headers = opened.get("/v1/who").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("{url}", 200),
        ("https://friend.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost:1", 403),
    ],
)
def test_pages_of_others_may_not_post(opened: Running, origin: str, status: int) -> None:
    origin = origin.format(url=opened.url)
    answer = httpx.post(f"{opened.url}/v1/echo", json={}, headers={"origin": origin})
    assert answer.status_code == status, answer.text
    assert httpx.get(f"{opened.url}/v1/who", headers={"origin": origin}).status_code == 200


def test_what_nobody_expected_has_an_id_and_no_details(
    opened: Running, caplog: pytest.LogCaptureFixture
) -> None:
    answer = opened.get("/v1/items/broken", **{"x-request-id": "find-me"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "find-me"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "find-me" in answer.text
    assert "broken with" not in answer.text
    assert "RuntimeError" in caplog.text


# --- bodies ---------------------------------------------------------------------------------


def post(one: Running, path: str, content: Any, kind: str = "application/json") -> httpx.Response:
    return httpx.post(f"{one.url}{path}", content=content, headers={"content-type": kind})


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/ingest", "/v1/unread", "/v1/slow-app"])
def test_a_declared_body_that_is_too_large_is_not_read(opened: Running, path: str) -> None:
    answer = post(opened, path, b"x" * 5_000_000)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    error = answer.json()["error"]
    assert error["code"] == "body_too_large"
    assert "5,000,000" in error["message"]
    assert "100,000" in error["message"]


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/ingest", "/v1/slow-app"])
def test_a_chunked_body_is_counted(opened: Running, path: str) -> None:
    parts = (b'{"a": "' if number == 0 else b"x" * 10_000 for number in range(20))
    answer = post(opened, path, parts)
    assert answer.status_code == 413, answer.text
    assert answer.json()["error"]["code"] == "body_too_large"
    small = post(opened, path, iter([b'{"a":', b' "b"}']))
    assert small.status_code == 200


def test_uploads_of_files_may_be_larger_and_only_there(opened: Running) -> None:
    kind = "multipart/form-data; boundary=x"
    assert post(opened, "/v1/ingest", b"x" * 300_000, kind).json() == 300_000
    assert post(opened, "/v1/ingest", iter([b"x" * 300_000]), kind).json() == 300_000
    assert post(opened, "/v1/ingest", b"x" * 500_000, kind).status_code == 413
    assert post(opened, "/v1/ingest", b"x" * 300_000).status_code == 413
    assert post(opened, "/v1/echo", b"x" * 300_000, kind).status_code == 413
    assert post(opened, "/v1/../v1/ingest/x", b"x" * 300_000, kind).status_code == 413


def connect(one: Running) -> socket.socket:
    parts = urlsplit(one.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)


def read_answer(sock: socket.socket) -> bytes:
    answer = b""
    while part := sock.recv(65536):
        answer += part
    return answer


HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("path", [b"/v1/echo", b"/v1/ingest"])
@pytest.mark.parametrize(
    "length", [b"Content-Length: 90000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"]
)
def test_a_slow_body_is_refused_and_holds_nobody_up(
    opened: Running, path: bytes, length: bytes
) -> None:
    with connect(opened) as slow:
        slow.sendall(HEAD % path + length)
        began = time.monotonic()
        assert opened.get("/v1/who").status_code == 200
        answer = read_answer(slow)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"connection: close" in answer
        assert time.monotonic() - began < 5


def test_a_trickle_of_bytes_does_not_buy_time(opened: Running) -> None:
    with connect(opened) as slow:
        slow.sendall(HEAD % b"/v1/echo" + b"Content-Length: 90000\r\n\r\n")
        answer = b""
        slow.settimeout(0.05)
        began = time.monotonic()
        while not answer and time.monotonic() - began < 5:
            slow.send(b"x")
            try:
                answer = slow.recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")


def test_the_time_that_the_app_takes_is_not_the_clients(opened: Running) -> None:
    assert post(opened, "/v1/slow-app", b"x" * 50_000).json() == 50_000


def test_slow_clients_leave_nothing_behind(opened: Running) -> None:
    import asyncio
    import gc

    slow = [connect(opened) for _ in range(20)]
    for one in slow:
        one.sendall(HEAD % b"/v1/echo" + b"Content-Length: 1000\r\n\r\n{")
    for one in slow[:10]:
        one.close()
    for one in slow[10:]:
        assert read_answer(one).startswith(b"HTTP/1.1 408")
        one.close()
    end = time.monotonic() + 5
    while _in_flight(opened) and time.monotonic() < end:
        time.sleep(0.05)
    assert _in_flight(opened) == 0
    gc.collect()
    # by type: to ask some of torch's objects for their class warns
    tasks = [o for o in gc.get_objects() if issubclass(type(o), asyncio.Task)]
    left = [task for task in tasks if not task.done()]
    assert not [task for task in left if "run_asgi" in repr(task)], left


def _in_flight(one: Running) -> float:
    value = one.metrics.registry.get_sample_value("retrieval_in_flight")
    assert value is not None
    return value


def test_a_connection_stays_open_after_a_small_refused_body(opened: Running) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            bad = client.post(f"{opened.url}/v1/echo", json={}, headers={"origin": "null"})
            assert bad.status_code == 403
            assert "connection" not in bad.headers


def test_streams_stay_streams(opened: Running) -> None:
    opened.backend.next_part.clear()
    with httpx.stream("GET", f"{opened.url}/v1/stream") as answer:
        parts = answer.iter_bytes()
        assert next(parts) == b"part 0\n", "before the app goes on"
        opened.backend.next_part.set()
        assert b"".join(parts) == b"part 1\npart 2\n"
