"""What a server says of its cluster: nodes, and where the copies of a collection's shards are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from retrieval.errors import StoreDenied
from retrieval.types import Storage

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from retrieval.index.server.client import Connection

ACTIVE = "Active"
"""The state of a copy that answers searches and takes writes."""


@dataclass(frozen=True, slots=True)
class ShardCopy:
    """One copy of a shard: on which node (an id), and in which state, in the server's words."""

    shard: int
    node: str
    state: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """A shard on its way from one node to another."""

    shard: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as one of its nodes sees it.

    enabled: whether the server runs as a part of a cluster. nodes: address by node id; empty where
    it does not. away: nodes that the asked one cannot reach, by address. shards: how many shards
    the collection has. copies: of each shard, on every node.
    """

    enabled: bool
    nodes: dict[str, str]
    away: tuple[str, ...]
    shards: int
    copies: tuple[ShardCopy, ...]
    transfers: tuple[Transfer, ...]

    @property
    def is_one_node(self) -> bool:
        """Whether whatever node is asked has everything, since there is only one."""
        return len(self.nodes) <= 1 and len({copy.node for copy in self.copies}) <= 1

    def copies_of(self, shard: int) -> tuple[ShardCopy, ...]:
        """The copies of one shard."""
        return tuple(copy for copy in self.copies if copy.shard == shard)

    def address(self, node: str) -> str:
        """The address of a node, as other nodes know it."""
        return self.nodes.get(node, f"node {node}" if self.enabled else "this server")

    def missing(self, storage: Storage) -> tuple[str, ...]:
        """What was asked for when the collection was made and is not there, in sentences."""
        found = []
        if self.copies and storage.shards is not None and self.shards < storage.shards:
            found.append(f"{storage.shards} shards were asked for, the server has {self.shards}")
        ids = {copy.shard for copy in self.copies}
        least = min((len(self.copies_of(shard)) for shard in ids), default=0)
        if ids and storage.replicas is not None and least < storage.replicas:
            has = "is a single node" if self.is_one_node else f"has {len(self.nodes)} nodes"
            found.append(
                f"{storage.replicas} copies of each shard were asked for; the server {has} and "
                f"keeps {least}"
            )
        return tuple(found)

    def summary(self) -> str:
        """The whole in one line."""
        nodes = f"{len(self.nodes)} nodes" if len(self.nodes) > 1 else "one node"
        each = sorted({len(self.copies_of(copy.shard)) for copy in self.copies})
        copies = " to ".join(str(number) for number in (each[:1] + each[1:][-1:]))
        shards = f"{self.shards} shard{'' if self.shards == 1 else 's'}"
        kept = f"{copies or 0} {'copy' if each == [1] else 'copies'} of each"
        moving = f", {len(self.transfers)} being transferred" if self.transfers else ""
        return f"{nodes}, {shards}, {kept}{moving}"

    def unwell(self) -> tuple[str, ...]:
        """Copies that do not serve, and nodes that are away, in sentences."""
        found = [
            f"the copy of shard {copy.shard} on {self.address(copy.node)} is {copy.state}"
            for copy in self.copies
            if copy.state != ACTIVE
        ]
        found += [f"the node {address} does not answer the others" for address in self.away]
        return tuple(found)


def cluster_of(connection: Connection, physical: str) -> Cluster:
    """The cluster, and where the shards of one collection are.

    Raises:
        CollectionNotFound: there is no such collection.
        StoreDenied: the key may not read it; a key for single collections may not.
        StoreFault: the server does not answer.
    """
    if connection.is_local:
        return Cluster(False, {}, (), 0, (), ())
    server = _server(connection)
    path = f"/collections/{quote(physical, safe='')}/cluster"
    placed = connection.read(
        f"ask where the shards of {physical!r} are", lambda client: _get(client, path)
    )
    own = str(placed["peer_id"])
    copies = [ShardCopy(one["shard_id"], own, str(one["state"])) for one in placed["local_shards"]]
    copies += [
        ShardCopy(one["shard_id"], str(one["peer_id"]), str(one["state"]))
        for one in placed["remote_shards"]
    ]
    return Cluster(
        enabled=server.get("status") == "enabled",
        nodes=_nodes(server),
        away=tuple(map(_address, sorted(server.get("message_send_failures") or {}))),
        shards=placed["shard_count"],
        copies=tuple(sorted(copies, key=lambda copy: (copy.shard, copy.node))),
        transfers=tuple(
            Transfer(one["shard_id"], str(one["from"]), str(one["to"]))
            for one in placed.get("shard_transfers") or ()
        ),
    )


def nodes_of(connection: Connection) -> dict[str, str]:
    """The nodes of the cluster, address by id; none where the server runs alone.

    Raises:
        StoreDenied, StoreFault: as `cluster_of`.
    """
    return {} if connection.is_local else _nodes(_server(connection))


def cluster_if_told(connection: Connection, physical: str) -> Cluster | None:
    """The same, or None where the key may not read it."""
    try:
        return cluster_of(connection, physical)
    except StoreDenied:
        return None


def _server(connection: Connection) -> dict[str, Any]:
    return connection.read("ask for the cluster", lambda client: _get(client, "/cluster"))


def _nodes(server: dict[str, Any]) -> dict[str, str]:
    peers = server.get("peers") or {}
    return {str(node): _address(peer.get("uri", "")) for node, peer in sorted(peers.items())}


def _get(client: QdrantClient, path: str) -> dict[str, Any]:
    # the client's own models refuse a state of a copy that a newer server knows
    answer: dict[str, Any] = client.http.client.request(
        type_=dict[str, Any], method="GET", url=path
    )
    found = answer["result"]
    return found if isinstance(found, dict) else {}


def _address(uri: str) -> str:
    return uri.rstrip("/")
