"""What the nodes of a cluster's double hold: collections, their shards, the copies of these.

Every copy of a shard is a `Backend` of its own with the points of that shard alone. Writes and
reads reach the copies as those of a real cluster do, through `write` and `read`; `Cluster` knows
which nodes live, and brings copies up to date that were marked dead.
"""

from __future__ import annotations

import copy
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from qdrant_client import models
from qdrant_client.local.qdrant_local import QdrantLocal

from .backend import Backend
from .rejected import Rejected

Health = Literal["up", "frozen", "down"]
ACTIVE, DEAD = models.ReplicaState.ACTIVE, models.ReplicaState.DEAD
INITIALIZING = models.ReplicaState.INITIALIZING

T = TypeVar("T")


@dataclass
class Copy:
    """One copy of one shard."""

    points: Backend
    state: models.ReplicaState = ACTIVE


@dataclass
class Spread:
    """One collection over the nodes: for each shard its copies, by the number of their node."""

    shards: list[dict[int, Copy]]
    factor: int
    """`write_consistency_factor`."""

    def shard_of(self, point: models.ExtendedPointId) -> int:
        """The shard of a point, by a hash of its id."""
        return zlib.crc32(plain(point).encode()) % len(self.shards)


class Cluster:
    """The state of all nodes; `engine` keeps what they agree on: collections and aliases."""

    def __init__(self, nodes: int) -> None:
        self.lock = threading.RLock()
        self.engine = QdrantLocal(":memory:")
        self.health: list[Health] = ["up"] * nodes
        self.spreads: dict[str, Spread] = {}
        self.fuse: tuple[int, int] | None = None
        """A node, and how many copies it still writes before it dies."""
        self.on_fuse: Callable[[int], None] = lambda node: None

    def peer(self, node: int) -> int:
        """The id of a node among its peers."""
        return 1001 + node

    def place(self, name: str, given: models.CreateCollection) -> None:
        """Spread a new collection: each shard on the next nodes, as many as there are copies."""
        nodes = len(self.health)
        copies = min(given.replication_factor or 1, nodes)
        self.spreads[name] = Spread(
            [
                {
                    node: Copy(
                        _empty(name, given),
                        INITIALIZING if self.health[node] == "down" else ACTIVE,
                    )
                    for node in ((shard + copy) % nodes for copy in range(copies))
                }
                for shard in range(given.shard_number or nodes)
            ],
            given.write_consistency_factor or 1,
        )

    def agree(self) -> None:
        """Refuse what more than half of the nodes must agree on, where they do not live."""
        if 2 * self.health.count("up") <= len(self.health):
            raise Rejected(
                500,
                "Service internal error: Waiting for consensus operation commit failed. Timeout "
                "set at: 10 seconds",
            )

    def write(self, node: int, name: str, parts: dict[int, Callable[[Backend], object]]) -> None:
        """Apply to each shard its part; what some copies kept of a failed write stays there."""
        spread, failures = self.spreads[name], []
        for shard, apply in parts.items():
            try:
                self._write_shard(node, spread, spread.shards[shard], apply)
            except Rejected as error:
                if self.health[node] == "down":  # it has just died: nothing goes on
                    raise
                failures.append(error)
        if not failures:
            return
        first = failures[0]
        if len(failures) == len(parts):
            raise first
        kind = {408: "Timeout", 500: "Service internal error"}.get(first.status, "Wrong input")
        raise Rejected(
            first.status,
            f"{kind}: {len(failures)} out of {len(parts)} shards failed to apply operation. "
            f"First error captured: {first.message}",
        )

    def _write_shard(
        self,
        node: int,
        spread: Spread,
        copies: dict[int, Copy],
        apply: Callable[[Backend], object],
    ) -> None:
        missed: list[int] = []
        wanted = [n for n in self._from(node, copies) if copies[n].state != DEAD]
        for at in wanted:
            if self.health[at] != "up":
                missed.append(at)
                continue
            self._burn(node)
            apply(copies[at].points)
        if not missed:
            return
        if len(wanted) - len(missed) < max(1, min(spread.factor, len(wanted))):
            raise self.unreachable(missed[0])
        for at in missed:
            copies[at].state = DEAD

    def _burn(self, node: int) -> None:
        if self.fuse is None or self.fuse[0] != node:
            return
        left = self.fuse[1]
        if left:
            self.fuse = (node, left - 1)
            return
        self.fuse = None
        self.on_fuse(node)
        raise self.unreachable(node)

    def read(
        self, node: int, name: str, shard: int, consistency: str | None, ask: Callable[[Backend], T]
    ) -> list[T]:
        """The answers of as many copies as `consistency` asks for, the node's own first."""
        copies = self.spreads[name].shards[shard]
        active = [n for n in self._from(node, copies) if copies[n].state == ACTIVE]
        needed = {
            None: 1,
            "all": len(copies),
            "majority": len(copies),
            "quorum": len(copies) // 2 + 1,
        }.get(consistency)
        if needed is None:
            needed = min(max(1, int(consistency or 1)), len(copies))
        if len(active) < needed:
            raise Rejected(
                500,
                f"Service internal error: The replica set for shard {shard} on peer "
                f"{self.peer(node)} does not have enough active replicas",
            )
        answers: list[T] = []
        away: list[int] = []
        for at in active:
            if len(answers) == needed:
                break
            if self.health[at] == "up":
                answers.append(ask(copies[at].points))
            else:
                away.append(at)
        if len(answers) < needed:
            raise self.unreachable(away[0])
        return answers

    def _from(self, node: int, copies: dict[int, Copy]) -> list[int]:
        """The nodes of the copies, the asked one first."""
        return sorted(copies, key=lambda n: (n - node) % len(self.health))

    def unreachable(self, node: int) -> Rejected:
        """What a node says of another that is away, or does not answer."""
        if self.health[node] == "frozen":
            return Rejected(408, "Timeout: Healthcheck timeout 2000ms exceeded")
        return Rejected(
            500,
            f"Service internal error: Failed to connect to peer {self.peer(node)}, error: "
            "transport error",
        )

    def recover(self) -> None:
        """Bring copies on living nodes up to date that were marked dead, from active ones.

        Copies that only lack a write nobody acknowledged are active: they stay as they are.
        """
        for name, spread in self.spreads.items():
            for copies in spread.shards:
                for at, stale in copies.items():
                    if self.health[at] != "up" or stale.state == ACTIVE:
                        continue
                    if stale.state == INITIALIZING:
                        stale.state = ACTIVE
                        continue
                    source = next(
                        (
                            one
                            for node, one in copies.items()
                            if one.state == ACTIVE and self.health[node] == "up"
                        ),
                        None,
                    )
                    if source is not None:
                        held = copy.deepcopy(source.points.engine.collections[name])
                        stale.points.engine.collections[name] = held
                        stale.state = ACTIVE


def _empty(name: str, given: models.CreateCollection) -> Backend:
    """A copy without points; limits are the node's to enforce."""
    held = Backend()
    held.create_collection(name, given.model_copy(update={"strict_mode_config": None}))
    return held


def plain(point: Any) -> str:
    """A point's id in one form, whichever a client wrote it in."""
    return str(point).lower().replace("-", "")


def agreed(answers: list[list[Any]], consistency: str | None) -> list[Any]:
    """The points that the asked copies give alike: all of them, or for "majority" most."""
    if len(answers) == 1:
        return answers[0]
    needed = len(answers) // 2 + 1 if consistency == "majority" else len(answers)
    found: dict[Any, list[tuple[Any, int]]] = {}
    for answer in answers:
        for point in answer:
            variants = found.setdefault(point.id, [])
            for at, (other, votes) in enumerate(variants):
                if _alike(point, other):
                    variants[at] = (other, votes + 1)
                    break
            else:
                variants.append((point, 1))
    return [point for variants in found.values() for point, votes in variants if votes >= needed]


def _alike(one: Any, other: Any) -> bool:
    """Whether two copies of a point are equal, as far as they were asked for."""
    return bool(
        one.payload == other.payload
        and one.vector == other.vector
        and abs(getattr(one, "score", 0.0) - getattr(other, "score", 0.0)) < 1e-5
    )
