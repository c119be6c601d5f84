"""How requests travel to a Qdrant server: certificates, proxy, connections kept open.

The one place that makes HTTP clients and gRPC channels, so that every kind of request (the
client's, snapshots, the look whether a node is alive) takes the same way.
"""

from __future__ import annotations

import contextlib
import functools
import math
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from qdrant_client import QdrantClient

from retrieval.errors import InvalidInput
from retrieval.index.server.addresses import (
    is_near,
    no_address,
    parts_of,
    proxy_for,
    shown_proxy,
    warn_of_plain_key,
    with_port,
)
from retrieval.index.server.options import ServerOptions, options_of_each

CONNECT_S = 2.0
"""How long a connection may take to be made; a server that is there answers in milliseconds."""

_LIMITS = httpx.Limits(
    max_connections=None,
    max_keepalive_connections=100,
    keepalive_expiry=4.0,  # the server closes idle ones after 5 s
)

_GRPC_OPTIONS = {
    # by default a channel waits up to two minutes before it looks for a server that went away
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 5_000,
    "grpc.max_reconnect_backoff_ms": 5_000,
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    # a new channel connects anew, instead of waiting with an older one for its next try
    "grpc.use_local_subchannel_pool": 1,
}


def client_of(url: str, options: ServerOptions) -> QdrantClient:
    """A client for the server at `url`, one address.

    Raises:
        InvalidInput: no URL of a server, or a certificate or proxy that cannot be used.
    """
    parts = parts_of(url)
    port = options_of_each((url,), options)[0].grpc_port
    assert isinstance(port, int)
    if options.api_key and parts.scheme == "http" and not is_near(parts.hostname or ""):
        warn_of_plain_key(f"{parts.scheme}://{parts.netloc}")
    try:
        return QdrantClient(
            url=with_port(url),
            timeout=math.ceil(options.timeout_s),
            prefer_grpc=options.grpc,
            grpc_port=port,
            grpc_options=_grpc_options(url, options),
            # no version check here: it would only warn where the first call says it clearly
            check_compatibility=False,
            # in `api_key` the client would warn of http:// to the own machine too
            headers=_headers(options),
            # given whole, as the client would close connections to 127.0.0.1 after each request
            transport=_Transport(url, options),
        )
    except ValueError as error:
        raise no_address(url, str(error)) from error


def http_client(url: str, options: ServerOptions, timeout: httpx.Timeout) -> httpx.Client:
    """A plain HTTP client for the server at `url`, one address; paths are under the URL's own.

    Raises:
        InvalidInput: as `client_of`.
    """
    return httpx.Client(
        base_url=with_port(url),
        headers=_headers(options),
        timeout=timeout,
        transport=_Transport(url, options),
    )


def grpc_answers(url: str, options: ServerOptions, within_s: float) -> bool:
    """Whether a new channel to a server's gRPC port gets an answer, whatever it is."""
    import grpc  # type: ignore[import-untyped]
    from qdrant_client.grpc import HealthCheckRequest

    client = client_of(url, options)
    try:
        root = client._client.grpc_root  # type: ignore[attr-defined]
        root.HealthCheck(HealthCheckRequest(), timeout=within_s, wait_for_ready=True)
    except grpc.RpcError as error:
        silent = (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        )
        return error.code() not in silent
    finally:
        client.close()
    return True


def speaks_tls(url: str, port: int | None = None) -> bool:
    """Whether a server's port (another than the URL's, if given) answers as TLS does."""
    parts = parts_of(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((parts.hostname, port or parts.port), CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except OSError:  # ssl.SSLError is one
        return False


class _Transport(httpx.HTTPTransport):
    """The way to one server; connections are made within CONNECT_S whatever an answer may take."""

    def __init__(self, url: str, options: ServerOptions) -> None:
        tls, proxy = _tls(url, options), proxy_for(url, options.proxy)
        try:
            super().__init__(verify=tls, proxy=proxy, limits=_LIMITS)
        except (ImportError, ValueError) as error:
            assert proxy is not None
            raise InvalidInput(
                f"the environment's proxy {shown_proxy(proxy)} for {url} cannot be used "
                f"({str(error).splitlines()[0]})",
                fix="Name another in HTTPS_PROXY or HTTP_PROXY, name the server in NO_PROXY, or "
                "give proxy=False (in the URL: ?proxy=false).",
            ) from error

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions["timeout"]
        given = limits.get("connect")
        connect = CONNECT_S if given is None else min(CONNECT_S, given)
        request.extensions = {**request.extensions, "timeout": {**limits, "connect": connect}}
        return super().handle_request(request)


def _headers(options: ServerOptions) -> dict[str, str]:
    return {} if options.api_key is None else {"api-key": options.api_key}


def _grpc_options(url: str, options: ServerOptions) -> dict[str, Any]:
    found: dict[str, Any] = dict(_GRPC_OPTIONS)
    if options.ca_certificate is not None:
        found["root_certificates"] = _bytes("ca_certificate", options.ca_certificate)
    if options.client_certificate is not None:
        found["certificate_chain"] = _bytes("client_certificate", options.client_certificate)
        key = options.client_key or options.client_certificate
        found["private_key"] = _bytes("client_key", key)
    # gRPC reads proxies of the environment by itself, for private addresses too
    found["grpc.enable_http_proxy"] = int(proxy_for(url, options.proxy) is not None)
    return found


def _tls(url: str, options: ServerOptions) -> ssl.SSLContext:
    authority, certificate = options.ca_certificate, options.client_certificate
    given = "ca_certificate" if authority is not None else "client_certificate"
    if (authority or certificate) and parts_of(url).scheme != "https":
        raise InvalidInput(
            f"a {given} was given for {url!r}, which is not encrypted",
            fix="Write the URL with https://, or leave the certificate out.",
        )
    if authority is None and certificate is None:
        return _usual_authorities()
    context = httpx.create_ssl_context()
    if authority is not None:
        with _readable("ca_certificate", authority):
            context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        with _readable("client_certificate", certificate):
            # without a password, OpenSSL would ask for one at the terminal
            context.load_cert_chain(certificate, options.client_key, password="")
    return context


@functools.cache
def _usual_authorities() -> ssl.SSLContext:
    """What is trusted without a `ca_certificate`; reading it takes longer than all the rest."""
    return httpx.create_ssl_context()


def _bytes(name: str, path: Path) -> bytes:
    with _readable(name, path):
        return Path(path).read_bytes()


@contextlib.contextmanager
def _readable(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        wanted = (
            "of the authority that signed the server's"
            if name == "ca_certificate"
            else "of this client, and its key, without a password, in it or as client_key"
        )
        raise InvalidInput(
            f"the {name} {path} cannot be read as a certificate "
            f"({getattr(error, 'strerror', None) or error})",
            fix=f"Give the file, in PEM form, {wanted}.",
        ) from error
