"""How a Qdrant server is reached: address, key, certificates, protocol."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from retrieval._validate import is_whole_number, number
from retrieval.errors import InvalidInput

ReadConsistency: TypeAlias = int | Literal["majority", "quorum", "all"]
WriteOrdering: TypeAlias = Literal["weak", "medium", "strong"]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a Qdrant server is reached.

    api_key: for a server that asks for one. grpc: gRPC instead of REST where both can do it.
    grpc_port: of every address, or one each in their order. ca_certificate: file (PEM) of the
    authority that signed the server's certificate; it alone is trusted then.
    client_certificate, client_key: files (PEM) for a server that asks its clients for
    certificates; the key may be in the same file. proxy: whether the environment's proxy is used;
    None: for public addresses only. timeout_s: seconds to wait for each answer, in whole seconds.
    retry_s: seconds that a write goes on being tried while the server is away or busy.
    read_consistency: how many replicas must agree on what is read. write_ordering: how writes to
    one shard are ordered.

    Raises:
        InvalidInput: a value that cannot be used; an API key is never repeated in a message.
    """

    api_key: str | None = field(default=None, repr=False)
    grpc: bool = False
    grpc_port: int | tuple[int, ...] = 6334
    ca_certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: bool | None = None
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
        if self.client_key is not None and self.client_certificate is None:
            raise InvalidInput(
                "client_key was given without client_certificate",
                fix="Give both files, or one client_certificate with both in it.",
            )
        if self.proxy not in (None, True, False):
            raise InvalidInput(
                f"proxy is {self.proxy!r}, expected True or False",
                fix="Leave it out to use the environment's proxy for public addresses only.",
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
