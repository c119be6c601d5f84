"""The double of a Qdrant cluster: several nodes, each with a port, REST and optionally gRPC.

    with qdrant_cluster(nodes=3) as cluster:
        client = QdrantClient(url=cluster.urls[0])
        cluster.kill(2)      # refuses connections; `start(2)` brings it back with its points
        cluster.freeze(1)    # accepts connections and never answers, until `thaw(1)`
        cluster.copies("docs")  # {shard: {node: {id: Record}}}, past all requests

Each node is a `QdrantHttp` of its own (`cluster.nodes[0].fail(...)`), over one state:

- Shards lie on the nodes in turn, `replication_factor` copies of each (no more than there are
  nodes); points belong to shards by a hash of their ids.
- A write goes to every copy. Where fewer than `write_consistency_factor` have it, it fails (500;
  408 where a node is frozen), those that have it keep it, and nothing makes up for it later.
  Where enough have it, a copy that missed it is marked dead, and follows when its node is back.
- A read is answered by one copy, the asked node's own if it has one; with `consistency` by several,
  and only what they agree on counts.
- Collections, aliases, payload indexes and metadata are one for all nodes, and change only while
  more than half of them live.
- BM25's statistics are those of a shard, as on a server.
- A snapshot holds the shards of its node, and restores these.

Where it differs from a real cluster: a copy is brought up to date at once, so that no transfer is
ever seen under way; nodes reach each other without sockets, so that a node is never cut off from
the others while it answers clients; what waits for a frozen node fails at once instead of after
two seconds; a query with prefetches is answered by each shard for itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qdrant_client import models

from .cluster_node import NodeBackend
from .cluster_state import Cluster
from .faults import Faults
from .qdrant_http import QdrantHttp


class QdrantCluster:
    """The nodes, by number from 0; `options` are those of each one (`qdrant_http`)."""

    def __init__(self, nodes: int, **options: Any) -> None:
        self._state = Cluster(nodes)
        self._state.on_fuse = self._burnt
        members: list[NodeBackend] = []
        self.nodes = [
            QdrantHttp(backend=NodeBackend(self._state, number, members), **options)
            for number in range(nodes)
        ]
        self._dying: list[threading.Thread] = []

    @property
    def urls(self) -> list[str]:
        """The addresses of the nodes."""
        return [node.url for node in self.nodes]

    def faults(self, node: int) -> Faults:
        """The fault rules and the log of one node; `nodes[n].fail(...)` makes a rule."""
        return self.nodes[node].faults

    def kill(self, node: int) -> None:
        """End a node at once: what it is doing is lost or done, and its port refuses."""
        with self._state.lock:
            self._state.health[node] = "down"
        self.nodes[node].stop()
        self.nodes[node].faults.frozen = None

    def kill_in_write(self, node: int, copies: int) -> None:
        """Let the node die within what it writes next, after so many copies of shards have it."""
        with self._state.lock:
            self._state.fuse = (node, copies)

    def unfuse(self) -> None:
        """Take back what `kill_in_write` asked for, if no write has come."""
        with self._state.lock:
            self._state.fuse = None

    def down(self) -> set[int]:
        """The nodes that are not there now."""
        with self._state.lock:
            return {n for n, health in enumerate(self._state.health) if health == "down"}

    def start(self, node: int, *, recover: bool = True) -> None:
        """Bring a killed node back, with what it had."""
        for thread in self._dying:
            thread.join(30)
        self.nodes[node].start()
        self._back(node, recover)

    def freeze(self, node: int) -> None:
        """Let a node stand still: it takes requests and does nothing with them."""
        with self._state.lock:
            self._state.health[node] = "frozen"
        self.nodes[node].faults.freeze()

    def thaw(self, node: int, *, recover: bool = True) -> None:
        """Let it go on; returns when all is done that has come in: also what its clients gave
        up."""
        self._back(node, recover)
        faults = self.nodes[node].faults
        faults.thaw()
        end = time.monotonic() + 10
        while faults.held and time.monotonic() < end:
            time.sleep(0.002)

    def recover(self) -> None:
        """Bring dead copies on living nodes up to date, as `start` does unless told otherwise."""
        with self._state.lock:
            self._state.recover()

    def copies(
        self, name: str
    ) -> dict[int, dict[int, dict[models.ExtendedPointId, models.Record]]]:
        """By shard and node the points of a collection (or alias) as they lie there."""
        with self._state.lock:
            name = self._state.engine.aliases.get(name, name)
            return {
                shard: {node: _records(copy.points.engine, name) for node, copy in copies.items()}
                for shard, copies in enumerate(self._state.spreads[name].shards)
            }

    def close(self) -> None:
        """End all nodes."""
        for thread in self._dying:
            thread.join(30)
        for node in self.nodes:
            node.close()

    def _back(self, node: int, recover: bool) -> None:
        with self._state.lock:
            self._state.health[node] = "up"
            if recover:
                self._state.recover()

    def _burnt(self, node: int) -> None:
        # its own thread is in the middle of a request, and cannot wait for the node to end
        self._state.health[node] = "down"
        self._dying.append(threading.Thread(target=self.nodes[node].stop))
        self._dying[-1].start()


@contextmanager
def qdrant_cluster(nodes: int = 3, **options: Any) -> Iterator[QdrantCluster]:
    """A running cluster, closed at the end of the block.

    `options` are those of `qdrant_http` (`api_key`, `grpc`, `version` …), for each node.
    """
    cluster = QdrantCluster(nodes, **options)
    try:
        for node in cluster.nodes:
            node.start()
        yield cluster
    finally:
        cluster.close()


def _records(engine: Any, name: str) -> dict[models.ExtendedPointId, models.Record]:
    if not (total := engine.count(name).count):
        return {}
    points, _ = engine.scroll(name, limit=total, with_payload=True, with_vectors=True)
    return {point.id: point for point in points}
