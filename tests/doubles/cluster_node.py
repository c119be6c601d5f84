"""One node's view of a cluster: a `Backend` whose points lie in shards on all nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from .backend import Backend, Rejected, asked_consistency
from .cluster_state import Cluster, agreed, plain

T = TypeVar("T")


class NodeBackend(Backend):
    """What one node of a cluster answers; `nodes` are all of them, this one too."""

    def __init__(self, cluster: Cluster, number: int, nodes: list[NodeBackend]) -> None:
        super().__init__()
        self.lock = cluster.lock
        self.engine = cluster.engine
        self._cluster = cluster
        self._number = number
        self._nodes = nodes
        nodes.append(self)

    # -- what all nodes agree on --

    def create_collection(self, name: str, given: models.CreateCollection) -> bool:
        with self._calls():
            self._cluster.agree()
            super().create_collection(name, given)
            own = self.kept[name]
            own.config.shard_number = given.shard_number or len(self._nodes)
            self._cluster.place(name, own.config)
            for node in self._nodes:
                node.kept[name] = dataclasses.replace(own)
        return True

    def delete_collection(self, name: str) -> bool:
        with self._calls():
            self._cluster.agree()
            for node in self._nodes:
                node.kept.pop(name, None)
            self._cluster.spreads.pop(name, None)
            return super().delete_collection(name)

    def update_collection(self, name: str, change: models.UpdateCollection) -> bool:
        with self._calls():
            self._cluster.agree()
            return super().update_collection(name, change)

    def change_aliases(self, actions: Any) -> bool:
        with self._calls():
            self._cluster.agree()
            return super().change_aliases(actions)

    def create_index(self, name: str, index: models.CreateFieldIndex) -> models.UpdateResult:
        """Known to all, and made on every copy, on those of nodes that are away when they come
        back; that it failed there is said, and the index is kept."""
        with self._calls():
            self._cluster.agree()
            done = super().create_index(name, index)
            self._on_every_copy(name, lambda held, at: held.create_index(at, index))
            return done

    def delete_index(self, name: str, field_name: str) -> models.UpdateResult:
        with self._calls():
            self._cluster.agree()
            done = super().delete_index(name, field_name)
            self._on_every_copy(name, lambda held, at: held.delete_index(at, field_name))
            return done

    def _on_every_copy(self, name: str, change: Callable[[Backend, str], object]) -> None:
        name, _ = self.find(name)
        shards = self._cluster.spreads[name].shards
        for copies in shards:
            for copy in copies.values():
                change(copy.points, name)
        self._cluster.write(
            self._number, name, {shard: lambda held: None for shard in range(len(shards))}
        )

    def collection(self, name: str) -> models.CollectionInfo:
        with self._calls():
            info = super().collection(name)
            name, _ = self.find(name)
            parts = [one for [one] in self._each(name, lambda held: held.collection(name), None)]
            info.points_count = sum(part.points_count or 0 for part in parts)
            for path, index in info.payload_schema.items():
                index.points = sum(part.payload_schema[path].points for part in parts)
            return info

    # -- where things lie --

    def cluster(self, name: str) -> models.CollectionClusterInfo:
        with self._calls():
            name, _ = self.find(name)
            local, remote = [], []
            for shard, copies in enumerate(self._cluster.spreads[name].shards):
                for node, copy in copies.items():
                    if node == self._number:
                        points = copy.points.engine.count(name).count
                        local.append(
                            models.LocalShardInfo(
                                shard_id=shard, points_count=points, state=copy.state
                            )
                        )
                    else:
                        peer = self._cluster.peer(node)
                        remote.append(
                            models.RemoteShardInfo(shard_id=shard, peer_id=peer, state=copy.state)
                        )
            return models.CollectionClusterInfo(
                peer_id=self._cluster.peer(self._number),
                shard_count=len(self._cluster.spreads[name].shards),
                local_shards=local,
                remote_shards=remote,
                shard_transfers=[],
            )

    def peers(self) -> dict[str, Any]:
        health = self._cluster.health
        peers = {self._cluster.peer(n): f"http://node-{n}:6335/" for n in range(len(health))}
        leader = next((n for n, state in enumerate(health) if state == "up"), self._number)
        return {
            "status": "enabled",
            "peer_id": self._cluster.peer(self._number),
            "peers": {str(peer): {"uri": uri} for peer, uri in peers.items()},
            "raft_info": {
                "term": 1,
                "commit": 1,
                "pending_operations": 0,
                "leader": self._cluster.peer(leader),
                "role": "Leader" if leader == self._number else "Follower",
                "is_voter": True,
            },
            "consensus_thread_status": {
                "consensus_thread_status": "working",
                "last_update": "2026-01-01T00:00:00Z",
            },
            "message_send_failures": {
                uri: {"count": 1, "latest_error": "transport error"}
                for n, uri in enumerate(peers.values())
                if health[n] != "up"
            },
        }

    def parts(self, name: str) -> list[Backend]:
        return [
            copies[self._number].points
            for copies in self._cluster.spreads[name].shards
            if self._number in copies
        ]

    def parts_of(self, name: str, ids: list[models.ExtendedPointId]) -> list[list[Backend]]:
        """All copies of those shards that lie on this node; no copy of the others."""
        spread = self._cluster.spreads[name]
        return [
            [copy.points for copy in copies.values()] if self._number in copies else []
            for copies in (spread.shards[spread.shard_of(point)] for point in ids)
        ]

    # -- points --

    def _upsert(self, name: str, given: models.PointInsertOperations) -> None:
        if not isinstance(given, models.PointsList):
            raise Rejected(501, "This double of a cluster takes points as a list, not as a batch")
        by_shard: dict[int, list[models.PointStruct]] = {}
        for point in given.points:
            by_shard.setdefault(self._shard(name, point.id), []).append(point)
        self._write(
            name,
            {
                shard: models.PointsList(
                    points=points,
                    update_filter=given.update_filter,
                    update_mode=given.update_mode,
                )
                for shard, points in by_shard.items()
            },
            lambda held, part: held.upsert(name, part),
        )

    def _delete(self, name: str, selector: models.PointsSelector) -> None:
        parts: dict[int, Any]
        if isinstance(selector, models.PointIdsList):
            ids: dict[int, list[models.ExtendedPointId]] = {}
            for point in selector.points:
                ids.setdefault(self._shard(name, point), []).append(point)
            parts = {shard: models.PointIdsList(points=found) for shard, found in ids.items()}
        else:
            parts = dict.fromkeys(range(len(self._cluster.spreads[name].shards)), selector)
        self._write(name, parts, lambda held, part: held.delete(name, part))

    def _scroll(self, name: str, asked: models.ScrollRequest) -> models.ScrollResult:
        """Each copy gives one point more than asked for; those that agree make the page. Where
        some do not, fewer than that are left, and the scroll ends early, as on a real cluster."""
        limit = 10 if asked.limit is None else asked.limit
        more = asked.model_copy(update={"limit": limit + 1})
        found = self._points(name, lambda held: held.scroll(name, more).points)
        found = sorted(found, key=lambda point: _order(point.id))[: limit + 1]
        following = found.pop().id if len(found) > limit else None
        return models.ScrollResult(points=found, next_page_offset=following)

    def _retrieve(self, name: str, asked: models.PointRequest) -> list[models.Record]:
        wanted: dict[int, list[models.ExtendedPointId]] = {}
        for point in asked.ids:
            wanted.setdefault(self._shard(name, point), []).append(point)
        consistency = asked_consistency.get()
        found: dict[Any, models.Record] = {}
        for shard, ids in wanted.items():
            part = asked.model_copy(update={"ids": ids})
            ask = partial(Backend.retrieve, name=name, asked=part)
            answers = self._cluster.read(self._number, name, shard, consistency, ask)
            found |= {plain(record.id): record for record in agreed(answers, consistency)}
        return [found[plain(point)] for point in asked.ids if plain(point) in found]

    def _count(self, name: str, asked: models.CountRequest) -> models.CountResult:
        consistency = asked_consistency.get()
        total = 0
        for answers in self._each(name, lambda held: held.count(name, asked).count, consistency):
            counts = sorted(answers)
            total += counts[len(counts) // 2 if consistency == "majority" else 0]
        return models.CountResult(count=total)

    def _found(self, name: str, asked: Any) -> QueryResponse:
        name, _ = self.find(name)
        limit, offset = 10 if asked.limit is None else asked.limit, asked.offset or 0
        part = asked.model_copy(update={"limit": limit + offset, "offset": None})
        found = self._points(name, lambda held: held.query(name, part).points)
        found.sort(key=lambda point: -point.score)
        return QueryResponse(points=found[offset : offset + limit])

    def _points(self, name: str, ask: Callable[[Backend], list[Any]]) -> list[Any]:
        consistency = asked_consistency.get()
        answers = self._each(name, ask, consistency)
        return [point for one in answers for point in agreed(one, consistency)]

    def _each(
        self, name: str, ask: Callable[[Backend], T], consistency: str | None
    ) -> list[list[T]]:
        """For each shard what its copies answer."""
        return [
            self._cluster.read(self._number, name, shard, consistency, ask)
            for shard in range(len(self._cluster.spreads[name].shards))
        ]

    def _write(
        self, name: str, parts: dict[int, Any], apply: Callable[[Backend, Any], object]
    ) -> None:
        def one(part: Any) -> Callable[[Backend], object]:
            return lambda held: apply(held, part)

        self._cluster.write(self._number, name, {shard: one(part) for shard, part in parts.items()})

    def _shard(self, name: str, point: models.ExtendedPointId) -> int:
        return self._cluster.spreads[name].shard_of(point)


def _order(point: models.ExtendedPointId) -> tuple[str, int]:
    return ("", point) if isinstance(point, int) else (str(point), 0)
