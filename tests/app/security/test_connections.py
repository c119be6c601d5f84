"""Connections that say nothing, or too slowly, or too much, against a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.security.connection_limits import bounded_http
from app.server import sockets

PARSERS = {"httptools": HttpToolsProtocol, "h11": H11Protocol}

ended = threading.Event()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    if scope["path"] == "/endless":
        ended.clear()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while (await asyncio.wait_for(receive(), 0.001))["type"] != "http.disconnect":
                pass
        except TimeoutError:
            pass
        end = time.monotonic() + 8
        gone = asyncio.ensure_future(receive())
        while not gone.done() and time.monotonic() < end:
            part = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
            await send(part)
            await asyncio.sleep(0)
        if gone.done():
            ended.set()
        gone.cancel()
        return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of a server with uvicorn's fast parser, and with the one it has where that is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "AutoHTTPProtocol", PARSERS[request.param])
        http = bounded_http(head_seconds=0.6, head_bytes=10_000, stall_seconds=0.5)
    with serving(http) as port:
        yield port


@contextmanager
def serving(http: Any) -> Iterator[int]:
    sock = sockets.reserve_port("127.0.0.1", 0)
    sock.listen(64)
    runner = uvicorn.Server(
        uvicorn.Config(application, http=http, log_config=None, lifespan="off", access_log=False)
    )
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        runner.should_exit = True
        thread.join(10)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def read_all(sock: socket.socket) -> bytes:
    answer = b""
    while part := sock.recv(65536):
        answer += part
    return answer


@pytest.mark.parametrize("first", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a"])
def test_a_head_that_does_not_come_ends_the_connection(port: int, first: bytes) -> None:
    with connect(port) as slow:
        slow.sendall(first)
        began = time.monotonic()
        assert read_all(slow).startswith(b"HTTP/1.1 408")
        assert 0.4 < time.monotonic() - began < 3


def test_a_trickle_of_headers_does_not_buy_time(port: int) -> None:
    with connect(port) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        slow.settimeout(0.1)
        began = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - began < 4:
            slow.sendall(b"a: b\r\n")
            try:
                answer = slow.recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")


def test_so_does_a_trickle_on_a_connection_that_was_kept(port: int) -> None:
    with connect(port) as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(4096).endswith(b"ok")
        kept.sendall(b"GET /again")
        assert read_all(kept).startswith(b"HTTP/1.1 408")


def test_too_large_a_head(port: int) -> None:
    with connect(port) as large:
        large.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(30):
            try:
                large.sendall(b"a: " + b"x" * 1000 + b"\r\n")
                time.sleep(0.005)
            except OSError:
                break
        else:
            pytest.fail("it took 30 kB of headers")


def test_a_request_that_takes_long_is_left_alone(port: int) -> None:
    with connect(port) as one:
        one.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        assert read_all(one).endswith(b"ok")
        assert time.monotonic() - began > 0.9


def test_requests_one_after_another_on_one_connection(port: int) -> None:
    with connect(port) as one:
        for _ in range(6):
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert one.recv(4096).endswith(b"ok")
            time.sleep(0.2)  # together longer than one head may take


def test_an_answer_that_is_not_taken_ends_the_connection(port: int) -> None:
    with connect(port) as deaf:
        deaf.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended.wait(6), "the app went on sending to nobody"
