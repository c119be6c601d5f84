"""What is known of a server's cluster: nodes, shards, copies and their states."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doubles.qdrant_http import qdrant_http
from maintenance_help import make_manifest

from retrieval.errors import CollectionNotFound
from retrieval.index.server.cluster import Cluster, ShardCopy, Transfer
from retrieval.index.store import Store
from retrieval.types import Storage

NODES = {"1": "http://a:6335", "2": "http://b:6335", "3": "http://c:6335"}


def spread(*copies: tuple[int, str, str], away: tuple[str, ...] = ()) -> Cluster:
    shards = {shard for shard, _, _ in copies}
    moves = (Transfer(0, "1", "2"),)
    return Cluster(True, NODES, away, len(shards), tuple(ShardCopy(*c) for c in copies), moves)


def test_a_single_server_keeps_one_copy_whatever_was_asked(tmp_path: object) -> None:
    with qdrant_http(grpc=True) as server:
        place = Store(f"{server.url}?grpc=true&grpc_port={server.grpc_port}")
        storage = Storage(shards=2, replicas=2)
        place.create(replace(make_manifest(), storage=storage)).close()
        found = place.cluster("docs")
        assert found is not None
        assert not found.enabled
        assert found.is_one_node
        assert found.copies == (ShardCopy(0, "1", "Active"), ShardCopy(1, "1", "Active"))
        assert found.missing(Storage()) == found.unwell() == ()
        (said,) = found.missing(storage)
        assert said == (
            "2 copies of each shard were asked for; the server is a single node and keeps 1"
        )
        with pytest.raises(CollectionNotFound, match="there is no collection 'nope'"):
            place.cluster("nope")


def test_a_folder_has_no_cluster(tmp_path: object) -> None:
    assert Store(str(tmp_path)).cluster("docs") is None


def test_copies_that_are_missing_or_do_not_serve_are_named() -> None:
    whole = spread((0, "1", "Active"), (0, "2", "Active"), (1, "2", "Active"), (1, "3", "Active"))
    assert not whole.is_one_node
    assert whole.missing(Storage(shards=2, replicas=2)) == whole.unwell() == ()
    half = spread((0, "1", "Active"), (0, "2", "Dead"), (1, "9", "Recovery"), away=(NODES["3"],))
    assert half.missing(Storage(shards=3, replicas=2)) == (
        "3 shards were asked for, the server has 2",
        "2 copies of each shard were asked for; the server has 3 nodes and keeps 1",
    )
    assert half.unwell() == (
        "the copy of shard 0 on http://b:6335 is Dead",
        "the copy of shard 1 on node 9 is Recovery",
        "the node http://c:6335 does not answer the others",
    )
