"""How a Qdrant server is reached: address, key, certificates, protocol."""

from __future__ import annotations

import functools
import ipaddress
import logging
import math
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from retrieval._validate import is_whole_number, number
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

logger = logging.getLogger("retrieval.index.server.index")

ReadConsistency: TypeAlias = int | Literal["majority", "quorum", "all"]
WriteOrdering: TypeAlias = Literal["weak", "medium", "strong"]

_GRPC_OPTIONS = {
    # by default a channel waits up to two minutes before it looks for a server that went away
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 5_000,
    "grpc.max_reconnect_backoff_ms": 5_000,
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a Qdrant server is reached.

    api_key: for a server that asks for one. grpc: gRPC instead of REST where both can do it.
    grpc_port: of every address, or one each in their order.
    ca_certificate: file (PEM) of the authority that signed the server's certificate; it alone is
    trusted then. timeout_s: seconds to wait for each answer, in whole seconds. retry_s: seconds
    that a write goes on being tried while the server is away or busy. read_consistency: how many
    replicas must agree on what is read. write_ordering: how writes to one shard are ordered.

    Raises:
        InvalidInput: a value that cannot be used; an API key is never repeated in a message.
    """

    api_key: str | None = field(default=None, repr=False)
    grpc: bool = False
    grpc_port: int | tuple[int, ...] = 6334
    ca_certificate: Path | None = None
    timeout_s: float = 60.0
    retry_s: float = 300.0
    read_consistency: ReadConsistency | None = None
    write_ordering: WriteOrdering | None = None

    def __post_init__(self) -> None:
        key = self.api_key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise InvalidInput(
                "the API key is empty or has a space, a line break or a sign outside ASCII",
                fix="Give it as the server has it; a key read from a file may end in a line break.",
            )
        for name, value, least in (
            ("timeout_s", self.timeout_s, 0.001),
            ("retry_s", self.retry_s, 0.0),
        ):
            number(
                value,
                name,
                least=least,
                expected="seconds, " + ("more than 0" if least else "at least 0"),
                fix="Leave it out for the default.",
            )
        ports = self.grpc_port if isinstance(self.grpc_port, tuple) else (self.grpc_port,)
        if not ports or not all(is_whole_number(port, 1, 65_535) for port in ports):
            raise InvalidInput(
                f"grpc_port is {self.grpc_port!r}, expected 1 to 65535, or one such port for each "
                "address",
                fix="Leave it out for 6334.",
            )
        consistency = self.read_consistency
        replicas = is_whole_number(consistency, least=1)
        if consistency not in (None, "majority", "quorum", "all") and not replicas:
            raise InvalidInput(
                f"read_consistency is {consistency!r}, expected majority, quorum, all or a number "
                "of replicas",
                fix="Leave it out to read from one replica.",
            )
        if self.write_ordering not in (None, "weak", "medium", "strong"):
            raise InvalidInput(
                f"write_ordering is {self.write_ordering!r}, expected weak, medium or strong",
                fix="Leave it out for weak, which is the fastest.",
            )


def addresses(location: str) -> tuple[str, ...]:
    """The URLs of a location such as `http://a:6333,http://b:6333`, each named once.

    Raises:
        InvalidInput: one of them is no URL of a server.
    """
    urls = tuple(dict.fromkeys(url.strip() for url in location.split(",")))
    for url in urls:
        _address(url)
    return urls


def options_of_each(urls: tuple[str, ...], options: ServerOptions) -> tuple[ServerOptions, ...]:
    """The options of each of several addresses: with its own gRPC port where there are several.

    Raises:
        InvalidInput: not as many ports as addresses.
    """
    ports = options.grpc_port
    if not isinstance(ports, tuple):
        return (options,) * len(urls)
    if len(ports) != len(urls):
        raise InvalidInput(
            f"grpc_port has {len(ports)} ports for {len(urls)} addresses",
            fix="Give one port, which all of them have, or one each in their order.",
        )
    return tuple(replace(options, grpc_port=port) for port in ports)


def client_of(url: str, options: ServerOptions) -> QdrantClient:
    """A client for the server at `url`, one address.

    Raises:
        InvalidInput: no URL of a server, or a certificate that cannot be used.
    """
    from qdrant_client import QdrantClient

    parts = _address(url)
    port = options_of_each((url,), options)[0].grpc_port
    assert isinstance(port, int)
    arguments: dict[str, Any] = {"verify": _usual_authorities()}
    grpc_options: dict[str, Any] = dict(_GRPC_OPTIONS)
    if options.api_key is not None:
        # in `api_key` the client would warn of http:// to the own machine too
        arguments["headers"] = {"api-key": options.api_key}
        if parts.scheme == "http" and not _is_near(parts.hostname or ""):
            _warn_of_plain_key(f"{parts.scheme}://{parts.netloc}")
    if options.ca_certificate is not None:
        if parts.scheme != "https":
            raise InvalidInput(
                f"a ca_certificate was given for {url!r}, which is not encrypted",
                fix="Write the URL with https://, or leave the certificate out.",
            )
        path = Path(options.ca_certificate)
        try:
            grpc_options["root_certificates"] = path.read_bytes()
            arguments["verify"] = ssl.create_default_context(cafile=str(path))
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"the ca_certificate {path} cannot be read as a certificate "
                f"({getattr(error, 'strerror', None) or error})",
                fix="Give the file, in PEM form, of the authority that signed the server's.",
            ) from error
    try:
        return QdrantClient(
            url=url,
            timeout=math.ceil(options.timeout_s),
            prefer_grpc=options.grpc,
            grpc_port=port,
            grpc_options=grpc_options,
            # no version check here: it would only warn where the first call says it clearly
            check_compatibility=False,
            **arguments,
        )
    except ValueError as error:
        raise _no_address(url, str(error)) from error


@functools.cache
def _usual_authorities() -> ssl.SSLContext:
    """What is trusted without a `ca_certificate`; reading it takes longer than all the rest."""
    import httpx

    return httpx.create_ssl_context()


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError as error:
        raise _no_address(url, str(error)) from error
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            f"the URL of the Qdrant server at {parts.hostname!r} has a user name or password in it",
            fix="Leave it out of the URL; give a key as api_key.",
        )
    if not known:
        raise _no_address(url, "no http:// or https:// URL with a host")
    return parts


def _no_address(url: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{url!r} is not the address of a Qdrant server ({why})",
        fix="Write it as http://localhost:6333.",
    )


def _is_near(host: str) -> bool:
    """Whether a host is this machine or is in a private network, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        # names without a dot are those of a machine's or a container network's own
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


@functools.lru_cache(maxsize=256)
def _warn_of_plain_key(address: str) -> None:
    """Once per server: others on the way can read the key, and all that is searched."""
    logger.warning(
        "the API key goes to %s without encryption; give an https:// URL where the server has one",
        address,
    )
