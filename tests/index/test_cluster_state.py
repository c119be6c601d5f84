"""What is known of a server's cluster: nodes, shards, copies and their states."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from doubles.cluster import qdrant_cluster
from doubles.qdrant_http import qdrant_http
from maintenance_help import fill, make_manifest

from retrieval.cli.main import run
from retrieval.errors import CollectionNotFound
from retrieval.index.server.cluster import Cluster, ShardCopy, Transfer
from retrieval.index.store import Store
from retrieval.maintenance.doctor import examine
from retrieval.maintenance.findings import Finding
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


def test_copies_that_cannot_be_are_said_when_the_collection_is_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with qdrant_http() as server:
        place = Store(server.url)
        place.create(replace(make_manifest(), storage=Storage(replicas=2))).close()
    said = [one.getMessage() for one in caplog.records if "as was asked" in one.getMessage()]
    assert len(said) == 1
    assert "'docs@v1'" in said[0]
    assert "2 copies of each shard were asked for" in said[0]


def test_info_and_doctor_show_the_cluster_and_warn_of_copies_that_do_not_serve(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def info(*options: str) -> str:
        assert run(["info", "docs", "--store", cluster.urls[0], *options]) == 0
        return capsys.readouterr().out

    def finding() -> Finding:
        found = examine("docs", store=cluster.urls[0]).findings
        return next(one for one in found if one.check == "cluster")

    with qdrant_cluster(nodes=3) as cluster:
        storage = Storage(shards=6, replicas=2, write_consistency=1)
        manifest = replace(make_manifest(), storage=storage)
        with Store(cluster.urls[0]).create(manifest) as index:
            fill(index, 30)
        assert not [one for one in caplog.records if "as was asked" in one.getMessage()]
        assert "cluster: 3 nodes, 6 shards, 2 copies of each\n" in info()
        assert "http://node-1:6335: shards " in info()
        told = json.loads(info("--json"))["cluster"]
        assert (told["enabled"], told["shards"], told["warnings"]) == (True, 6, [])
        assert len(told["nodes"]) == 3
        assert {one["state"] for one in told["copies"]} == {"Active"}
        assert finding().state == "ok"

        cluster.kill(2)
        with Store(cluster.urls[0]).open("docs") as index:
            fill(index, 30, seed=1)  # a copy that misses a write is marked dead
        warned = finding()
        assert warned.state == "warning"
        assert "on http://node-2:6335 is Dead" in warned.text
        assert "the node http://node-2:6335 does not answer the others" in warned.text
        assert "warning: the copy of shard" in info()
        told = json.loads(info("--json"))["cluster"]
        assert [one["away"] for one in told["nodes"]].count(True) == 1
        assert told["warnings"]
