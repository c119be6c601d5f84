"""One call, made on the first node of a server that answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from retrieval.errors import RetrievalError
from retrieval.index.server.errors import Failure, KnownFailure, failure_of, hidden
from retrieval.index.server.nodes import Node
from retrieval.index.server.watch import Watch

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

SILENT_S = 3.0
"""How long the only node must say nothing at all before a read is given up."""

_SILENT_S = 0.3
"""A call that fails later failed because nothing was heard; a refused one fails at once."""

_SILENT = "it says nothing, not even whether it is alive"

logger = logging.getLogger("retrieval.index.server.index")
_T = TypeVar("_T")


class Failover:
    """Asks nodes in their order, and leaves those that are away.

    Args:
        nodes: one or more.
    """

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self.nodes = nodes
        self._watch = Watch()

    def ask(self, call: Callable[[QdrantClient], _T], waiting: bool) -> _T:
        """The answer of the first node that gives one."""
        last: Exception | None = None
        for node in self.nodes:
            left = node.left
            if left is not None:
                if len(self.nodes) > 1:  # it is looked at in the background
                    last = last or KnownFailure(left.failure)
                    continue
                if waiting and left.silent and not node.is_alive():
                    raise KnownFailure(left.failure)
            began = time.monotonic()
            try:
                answer = self._of(node, call, waiting)
            except RetrievalError:
                raise
            except Exception as error:
                silent = time.monotonic() - began > _SILENT_S
                if not self._leaves(node, failure_of(error), waiting, silent):
                    raise
                last = error
            else:
                node.heard()
                return answer
        assert last is not None
        raise last

    def _of(self, node: Node, call: Callable[[QdrantClient], _T], waiting: bool) -> _T:
        client = node.client
        if not waiting and len(self.nodes) == 1:
            return call(client)
        silent_since: float | None = None

        def look() -> None:
            nonlocal silent_since
            if len(self.nodes) > 1 and (left := node.left) is not None:
                raise KnownFailure(left.failure)  # another thread found out
            if node.is_alive():
                silent_since = None
                return
            now = time.monotonic()
            silent_since = now if silent_since is None else silent_since
            others = any(one.left is None for one in self.nodes if one is not node)
            if others or (waiting and now - silent_since >= SILENT_S):
                raise KnownFailure(Failure("away", _SILENT, grpc=node.options.grpc))

        try:
            return self._watch.call(lambda: call(client), look)
        except Exception as error:
            if client is not node.client:  # it came back to another thread meanwhile
                raise KnownFailure(Failure("cut", str(error))) from error
            raise

    def _leaves(self, node: Node, failure: Failure, waiting: bool, silent: bool) -> bool:
        """Whether what a node could not do may be asked of the others; one away is left.

        Args:
            node, failure: which, and how the call failed.
            waiting: whether somebody waits for the answer.
            silent: whether it took long to fail.
        """
        several = len(self.nodes) > 1
        if several and node.left is not None:
            return True
        if failure.kind == "busy":
            # a node that is cut off from the others has not all shards; they may
            return several and waiting and not failure.retry_after_s
        gone = failure.kind == "away" or (
            (failure.kind == "slow" or (several and failure.kind == "cut")) and not node.is_alive()
        )
        if gone and node.leave(failure, silent) and several:
            rest = ", ".join(one.name for one in self.nodes if one.left is None)
            logger.warning(
                "the Qdrant node %s is left (%s); there are: %s",
                node.name, hidden(failure, node.options.api_key).text, rest or "no others",
            )  # fmt: skip
        return gone

    def known_s(self) -> float:
        """For how many seconds it has been known that no node answers; 0 where one may."""
        left = [node.left for node in self.nodes]
        since = [one.since for one in left if one is not None]
        if not since or len(since) < len(left):
            return 0.0
        return time.monotonic() - max(since)

    def close(self) -> None:
        """Close the clients."""
        self._watch.close()
        for node in self.nodes:
            node.close()
