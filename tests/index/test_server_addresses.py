"""Addresses that are wrong, strangers, proxies and certificates: real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from doubles.certificates import HAS_OPENSSL, make_certificates
from doubles.qdrant_http import QdrantHttp, qdrant_http

import retrieval
from retrieval import Store
from retrieval.errors import InvalidInput, StoreFault
from retrieval.index.server.addresses import proxy_for, with_port
from retrieval.index.server.index import ServerIndex, ServerOptions, list_collections
from retrieval.index.server.transport import http_client
from retrieval.types import Manifest

Manifests = Callable[..., Manifest]
NGINX = (404, "text/html", b"<html><head><title>404 Not Found</title></head></html>")
WELCOME = (200, "text/html", b"<!doctype html><title>Welcome to nginx!</title>")
ELASTIC = (404, "application/json", b'{"error": {"type": "index_not_found"}, "status": 404}')
OTHER = (200, "application/json", b'{"name": "es-1", "cluster_name": "docker-cluster"}')


@pytest.fixture(scope="module")
def double() -> Iterator[QdrantHttp]:
    with qdrant_http(grpc=True) as running:
        yield running


@contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[HTTPServer]:
    """A program that is not Qdrant, and says the same to everything; also a proxy."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_CONNECT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_url_without_a_port_means_one_port_everywhere() -> None:
    assert with_port("http://host") == "http://host:6333"
    assert with_port("https://host/qdrant/") == "https://host:6333/qdrant"
    assert with_port("https://host:443") == "https://host:443"
    assert with_port("http://[::1]") == "http://[::1]:6333"
    with http_client("https://host", ServerOptions(), None) as plain:  # type: ignore[arg-type]
        assert str(plain.base_url) == "https://host:6333"


def test_a_wrong_path_is_named_before_a_model_is_loaded(double: QdrantHttp) -> None:
    store = Store(f"{double.url}/dashboard")
    for call in (
        lambda: retrieval.ingest([], "docs", store=store, encoder="no-such-model"),
        lambda: retrieval.open("docs", store=store),
        store.names,
    ):
        with pytest.raises(StoreFault, match="not in a Qdrant server's form") as caught:
            call()
        assert "its path" in caught.value.fix


@pytest.mark.parametrize("answer", [NGINX, WELCOME, ELASTIC, OTHER])
def test_a_foreign_server_is_named(answer: tuple[int, str, bytes]) -> None:
    with answering(*answer) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(StoreFault, match=r"Qdrant server's form|not that of a") as caught:
            ServerIndex.open(url, "docs")
    assert "Check the URL, its port and its path" in str(caught.value)


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, double: QdrantHttp) -> None:
    refusing = (403, "text/html", b"<html>Access denied by policy</html>")
    with answering(*refusing) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://me:secret@127.0.0.1:{proxy.server_port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert list_collections(double.url) == []  # a private address is asked itself
        for grpc in (False, True):
            options = ServerOptions(proxy=True, grpc=grpc, grpc_port=double.grpc_port)
            with pytest.raises(StoreFault) as caught:
                list_collections(double.url, options=options)
            assert "secret" not in str(caught.value)
            if not grpc:
                assert f"proxy http://127.0.0.1:{proxy.server_port}" in str(caught.value)
                assert "proxy=False" in caught.value.fix
    assert proxy_for("http://qdrant.example.org", None) is not None
    assert proxy_for("http://qdrant.example.org", False) is None
    assert proxy_for("http://10.1.2.3", None) is None
    assert Store("http://host?proxy=false").options.proxy is False
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert proxy_for("http://qdrant.example.org:6333", True) is None


def test_an_error_of_grpc_names_its_port(double: QdrantHttp) -> None:
    for port in (double.port, 1):  # that of REST, and one where nobody is
        with pytest.raises(StoreFault, match=rf"gRPC port {port}\b") as caught:
            list_collections(double.url, options=ServerOptions(grpc=True, grpc_port=port))
        assert "gRPC port" in caught.value.fix


@pytest.mark.skipif(not HAS_OPENSSL, reason="there is no openssl command to make certificates with")
@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_http_to_a_port_with_tls_says_so(grpc: bool) -> None:
    with qdrant_http(tls=True, grpc=True) as double:
        options = ServerOptions(grpc=grpc, grpc_port=double.grpc_port)
        with pytest.raises(StoreFault, match="speaks TLS, and the URL says http://"):
            list_collections(double.url.replace("https", "http"), options=options)


@pytest.mark.skipif(not HAS_OPENSSL, reason="there is no openssl command to make certificates with")
def test_a_server_that_asks_its_clients_for_certificates(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.authority))
    context.load_cert_chain(made.certificate, made.key)
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        body = b'{"result": {"collections": [], "aliases": []}, "status": "ok", "time": 0}'
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as one:
                    seen.append(str(one.getpeercert()))
                    one.recv(65536)
                    one.sendall(head.encode() + body)
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    key = made.key
    good = ServerOptions(
        ca_certificate=made.authority, client_certificate=made.certificate, client_key=key
    )
    assert list_collections(url, options=good) == []
    assert "localhost" in seen[0]
    with pytest.raises(StoreFault):
        list_collections(url, options=ServerOptions(ca_certificate=made.authority))
    written = f"{url}?ca_certificate={made.authority}&client_certificate={made.certificate}"
    assert Store(f"{written}&client_key={key}").options == good
    assert Store(f"{written}&client_key={key}").names() == []
    listening.close()
    with pytest.raises(InvalidInput, match="cannot be read as a certificate"):
        Store(written).names()  # its key is not in it
    with pytest.raises(InvalidInput, match="client_key was given without"):
        ServerOptions(client_key=key)
    with pytest.raises(InvalidInput, match="which is not encrypted"):
        list_collections("http://localhost", options=ServerOptions(client_certificate=key))
