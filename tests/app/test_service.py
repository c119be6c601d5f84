from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from fastapi import FastAPI

from app.server import sockets
from app.server.app import protect
from retrieval.errors import InvalidInput, PortInUse


@contextmanager
def running(hosts: list[str] | None) -> Iterator[str]:
    sock = sockets.reserve_port("127.0.0.1", 0)
    sock.listen()
    up = threading.Event()
    app = FastAPI()
    protect(app, hosts=hosts)
    running = sockets.make_server(app, ready=up.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
    url = sockets.url_of(sock)
    thread.start()
    try:
        assert up.wait(10)
        yield url
    finally:
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def test_every_answer_has_the_security_headers() -> None:
    with running(None) as url, urllib.request.urlopen(f"{url}/openapi.json") as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_foreign_name_is_refused_on_a_loopback_address() -> None:
    with running(sockets.loopback_names("127.0.0.1")) as url:
        request = urllib.request.Request(f"{url}/openapi.json", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with closing(refused.value):
            assert refused.value.code == 400


def test_a_port_in_use_is_refused_before_anything_else() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} on 127.0.0.1 is in use.*--port"):
            sockets.reserve_port("127.0.0.1", port)


def test_a_port_taken_between_reserving_and_serving() -> None:
    # Two that reserved the same port: Linux lets both bind, one of them listen.
    first = sockets.reserve_port("127.0.0.1", 0)
    with closing(first):
        second = sockets.reserve_port("127.0.0.1", first.getsockname()[1])
        first.listen()
        with pytest.raises(PortInUse):
            sockets.serve(FastAPI(), second)
        assert second.fileno() == -1


def test_a_port_can_be_taken_again_at_once() -> None:
    sock = sockets.reserve_port("127.0.0.1", 0)
    port = sock.getsockname()[1]
    with closing(sock):
        sock.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = sock.accept()
            served.close()  # the server closes first: its side of the port lingers
            client.recv(1)
    sockets.reserve_port("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a" * 300])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match=r"--host"):
        sockets.reserve_port(host, 0)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("example.org", False),
    ],
)
def test_which_addresses_are_this_machine_only(host: str, local: bool) -> None:
    assert sockets.is_loopback(host) is local


def test_the_url_of_an_open_address_can_be_visited() -> None:
    with closing(sockets.reserve_port("0.0.0.0", 0)) as sock:
        assert sockets.url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"
