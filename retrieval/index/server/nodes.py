"""The nodes of a Qdrant server: which of them answer, as all connections of this process know it.

A node that refuses connections, breaks them or says nothing at all is left. Where a connection has
other nodes it goes on with these, and the one that was left is looked at in the background, until
it is ready. What one connection has found out, all others of the process know.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from retrieval.index.server.addresses import addresses, with_port
from retrieval.index.server.errors import Failure
from retrieval.index.server.options import ServerOptions, options_of_each

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

PROBE_S = 0.8
"""How long a node may take to say that it is alive."""

_LOOK_EVERY_S = 0.5
_HOLDS_S = 1.0
_FORGET_S = 600.0
"""A node that stays away for so long is no longer looked at; the next call finds out by itself."""

logger = logging.getLogger("retrieval.index.server.index")


@dataclass(frozen=True, slots=True)
class Left:
    """A node that does not answer. since: by the monotonic clock. failure: what was seen.
    silent: it refuses nothing, so that calls hang. ready: whether it can be used again."""

    since: float
    failure: Failure
    silent: bool
    ready: Callable[[], bool]


class _Board:
    """Which nodes were left, and a thread that looks at those that have company."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, Left] = {}
        self._returns: dict[str, int] = {}
        self._looking = False

    def left(self, name: str) -> Left | None:
        return self._left.get(name) if self._left else None

    def returns(self, name: str) -> int:
        """How often a node has come back so far."""
        return self._returns.get(name, 0) if self._returns else 0

    def leave(self, name: str, seen: Left, look: bool) -> bool:
        """Note that a node does not answer; whether that is news."""
        with self._lock:
            known = self._left.get(name)
            since = seen.since if known is None else known.since
            self._left[name] = replace(seen, since=since)
            if look and not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="qdrant-nodes", daemon=True).start()
        return known is None

    def back(self, name: str) -> float | None:
        """Note that a node answers; for how many seconds it was away, None if it was not."""
        with self._lock:
            known = self._left.pop(name, None)
            if known is None:
                return None
            self._returns[name] = self._returns.get(name, 0) + 1
        return time.monotonic() - known.since

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            for name, left in list(self._left.items()):
                if time.monotonic() - left.since > _FORGET_S or left.ready():
                    seconds = self.back(name)
                    if seconds is not None:
                        logger.info("the Qdrant node %s is used again after %.0f s", name, seconds)
            with self._lock:
                if not self._left:
                    self._looking = False
                    return


_BOARD = _Board()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BOARD.reset)  # its thread is not in the child


class Node:
    """One address and its client.

    Args:
        url: of the node.
        options: how it is reached; with one gRPC port.
        alone: whether the connection has no other node, so that nobody looks in the background.

    Raises:
        InvalidInput: no URL of a server, or a certificate or proxy that cannot be used.
    """

    def __init__(self, url: str, options: ServerOptions, *, alone: bool) -> None:
        self.url = url
        self.options = options
        self.name = with_port(url) + (f" (gRPC port {options.grpc_port})" if options.grpc else "")
        self._alone = alone
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._made_at = _BOARD.returns(self.name)
        self._client = self._new_client()
        self._looked = (0.0, True)

    @property
    def client(self) -> QdrantClient:
        """The client; a new one when the node came back, as a gRPC channel waits seconds."""
        if not self._alone and self._made_at != _BOARD.returns(self.name):
            with self._lock:
                now = _BOARD.returns(self.name)
                if self._made_at != now:
                    old, self._client = self._client, self._new_client()
                    self._made_at = now
                    with contextlib.suppress(Exception):
                        old.close()
        return self._client

    @property
    def left(self) -> Left | None:
        """Why the node was left; None while it answers."""
        return _BOARD.left(self.name)

    def leave(self, failure: Failure, silent: bool) -> bool:
        """Ask others from now on; whether that is news."""
        seen = Left(time.monotonic(), failure, silent, self._is_ready)
        return _BOARD.leave(self.name, seen, not self._alone)

    def heard(self) -> float | None:
        """It answered; for how many seconds it had been away, None if it had not."""
        return _BOARD.back(self.name) if self.left is not None else None

    def is_alive(self) -> bool:
        """Whether the node says anything at all; threads that ask at once share the answer.

        Of a node that is away, the answer holds for a second.
        """
        asked = time.monotonic() - (_HOLDS_S if self.left is not None else 0.0)
        with self._looking:
            at, alive = self._looked
            if at < asked:
                alive = _answers(self.url, self.options, "/healthz")
                self._looked = (time.monotonic(), alive)
            return alive

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _new_client(self) -> QdrantClient:
        from retrieval.index.server.transport import client_of

        return client_of(self.url, self.options)

    def _is_ready(self) -> bool:
        return _answers(self.url, self.options, "/readyz")


def alive(location: str, options: ServerOptions) -> tuple[str, ServerOptions]:
    """The first address that answers, with its options; the first of all where none does.

    For requests that are not made by a client of qdrant's, which go to one node from beginning
    to end.
    """
    urls = addresses(location)
    each = tuple(zip(urls, options_of_each(urls, options), strict=True))
    if len(each) > 1:
        for url, one in each:
            if _answers(url, one, "/readyz"):
                return url, one
    return each[0]


def _answers(url: str, options: ServerOptions, path: str) -> bool:
    """Whether a new connection gets an answer; of `/readyz` one that says it is ready."""
    import httpx

    from retrieval.index.server.transport import grpc_answers, http_client

    try:
        with http_client(url, options, httpx.Timeout(PROBE_S)) as http:
            status = http.get(path).status_code
    except httpx.HTTPError:
        return False
    if status in (502, 503, 504):
        return False
    return not options.grpc or grpc_answers(url, options, PROBE_S)
