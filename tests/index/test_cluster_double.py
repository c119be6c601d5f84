"""The double of a cluster does what a real one was seen to do: statuses, words, what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from doubles.cluster import QdrantCluster, qdrant_cluster
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

NAME = "docs@v1"
ALL = models.ReadConsistencyType.ALL


class Nodes:
    """A cluster of three with a client to each node, and one collection of two copies."""

    def __init__(self, cluster: QdrantCluster, stack: ExitStack, wire: str = "rest") -> None:
        self.cluster = cluster
        self.clients: list[QdrantClient] = []
        for node in cluster.nodes:
            options: dict[str, Any] = {"verify": False}
            if wire == "grpc":
                options = {"prefer_grpc": True, "grpc_port": node.grpc_port}
            client = QdrantClient(url=node.url, check_compatibility=False, timeout=2, **options)
            stack.callback(client.close)
            self.clients.append(client)

    def create(self, **options: Any) -> None:
        settings = {"replication_factor": 2, "write_consistency_factor": 2, **options}
        self.clients[0].create_collection(
            NAME,
            vectors_config={"dense": models.VectorParams(size=2, distance=models.Distance.COSINE)},
            **settings,
        )

    def write(self, ids: range, text: str = "new", node: int = 0) -> None:
        self.clients[node].upsert(NAME, points(ids, text), wait=True)

    def counts(self, **options: Any) -> list[int]:
        return [client.count(NAME, **options).count for client in self.clients]

    def texts(self, node: int, **options: Any) -> list[str]:
        found = self.clients[node].retrieve(NAME, list(range(500)), **options)
        return [f"{one.id} {(one.payload or {})['text']}" for one in found]

    def states(self, node: int = 0) -> list[str]:
        answer = httpx.get(f"{self.cluster.urls[node]}/collections/{NAME}/cluster")
        result = answer.json()["result"]
        return [one["state"] for one in result["local_shards"] + result["remote_shards"]]


def points(ids: range, text: str = "new") -> list[models.PointStruct]:
    return [
        models.PointStruct(id=i, vector={"dense": [1.0, i / 10]}, payload={"text": text})
        for i in ids
    ]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with qdrant_cluster(3) as cluster, ExitStack() as stack:
        yield Nodes(cluster, stack)


def refused(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(UnexpectedResponse) as caught:
        call()
    return caught.value.status_code or 0, caught.value.content.decode()


def test_shards_and_copies_are_spread_and_every_node_answers_for_all(nodes: Nodes) -> None:
    nodes.create(shard_number=6)
    nodes.write(range(60))
    held = nodes.cluster.copies(NAME)
    assert len(held) == 6
    assert all(len(copies) == 2 for copies in held.values())
    assert all(first == second for first, second in (c.values() for c in held.values()))
    assert sum(len(next(iter(copies.values()))) for copies in held.values()) == 60
    assert nodes.counts() == [60, 60, 60]
    assert nodes.counts(count_filter=models.Filter(must=[models.HasIdCondition(has_id=[3, 99])])) \
        == [1, 1, 1]  # fmt: skip
    for client in nodes.clients:
        assert client.get_collection(NAME).points_count == 60
        assert [one.id for one in client.retrieve(NAME, [7, 3, 99, 41])] == [7, 3, 41]
        seen, following = [], None
        while True:
            page, following = client.scroll(NAME, limit=7, offset=following)
            seen += [one.id for one in page]
            if following is None:
                break
        assert seen == list(range(60))
        found = client.query_points(NAME, [1.0, 0.0], using="dense", limit=5, offset=2)
        assert [one.id for one in found.points] == [2, 3, 4, 5, 6]


def test_more_copies_than_nodes_are_accepted_and_fewer_made(nodes: Nodes) -> None:
    nodes.create(replication_factor=5)
    assert nodes.clients[1].get_collection(NAME).config.params.replication_factor == 5
    assert [len(copies) for copies in nodes.cluster.copies(NAME).values()] == [3, 3, 3]


def test_a_failed_write_stays_on_the_living_copies_and_nothing_makes_up_for_it(
    nodes: Nodes,
) -> None:
    nodes.create(shard_number=6)
    nodes.write(range(100), "old")
    nodes.cluster.kill(2)
    status, words = refused(lambda: nodes.write(range(50, 150)))
    assert status == 500
    assert "4 out of 6 shards failed to apply operation. First error captured: " in words
    assert set(nodes.states()) == {"Active"}
    nodes.cluster.start(2)
    assert set(nodes.states()) == {"Active"}
    counts = nodes.counts()
    assert len(set(counts)) > 1
    assert max(counts) <= 150
    assert len({len(nodes.texts(node)) for node in range(3)}) > 1
    # what all agree on: neither what one lacks, nor what is old on one and new on the other
    alike = [set(nodes.texts(node, consistency=ALL)) for node in range(3)]
    assert alike[0] == alike[1] == alike[2]
    assert {f"{i} old" for i in range(50)} < alike[0]
    assert len(alike[0]) < 100
    every = httpx.post(
        f"{nodes.cluster.urls[0]}/collections/{NAME}/points/count?consistency=all", json={}
    )
    assert every.json()["result"]["count"] == 100 + sum(
        min(len([i for i in held if i >= 100]) for held in copies.values())
        for copies in nodes.cluster.copies(NAME).values()
    )
    # one writer that repeats until it is acknowledged makes all equal
    nodes.write(range(50, 150))
    assert nodes.counts() == [150, 150, 150]
    assert len(nodes.texts(1, consistency=ALL)) == 150


def test_a_failed_deletion_is_done_on_the_living_copies_alone(nodes: Nodes) -> None:
    nodes.create(shard_number=6)
    nodes.write(range(100))
    nodes.cluster.kill(2)
    status, words = refused(
        lambda: nodes.clients[0].delete(NAME, models.PointIdsList(points=list(range(100))))
    )
    assert (status, "4 out of 6 shards failed" in words) == (500, True)
    nodes.cluster.start(2)
    held = nodes.cluster.copies(NAME)
    assert {len(copies) for shards in held.values() for n, copies in shards.items() if n != 2} == {
        0
    }
    assert sum(len(copies[2]) for copies in held.values() if 2 in copies) > 0


def test_a_scroll_by_consistency_ends_early_where_copies_differ(nodes: Nodes) -> None:
    nodes.create(shard_number=1, replication_factor=3, write_consistency_factor=3)
    nodes.write(range(40))
    nodes.cluster.kill(2)
    refused(lambda: nodes.write(range(5, 10), "changed"))
    nodes.cluster.start(2)
    page, following = nodes.clients[0].scroll(NAME, limit=10, consistency=ALL)
    assert [one.id for one in page] == [0, 1, 2, 3, 4, 10]
    assert following is None, "there are thirty more points"
    assert len(nodes.clients[0].scroll(NAME, limit=10)[0]) == 10
    most, _ = nodes.clients[2].scroll(
        NAME, limit=40, consistency=models.ReadConsistencyType.MAJORITY
    )
    assert [one.payload["text"] for one in most[4:11]] == ["new", *["changed"] * 5, "new"]  # type: ignore[index]
    found = nodes.clients[0].query_points(
        NAME, [1.0, 0.0], using="dense", limit=8, with_payload=True, consistency=ALL
    )
    assert [one.id for one in found.points] == [0, 1, 2, 3, 4]


def test_a_copy_that_missed_an_acknowledged_write_is_dead_until_its_node_is_back(
    nodes: Nodes,
) -> None:
    nodes.create(write_consistency_factor=1)
    nodes.cluster.kill(2)
    nodes.write(range(100))
    assert sorted(nodes.states()) == ["Active"] * 4 + ["Dead"] * 2
    status, words = refused(lambda: nodes.texts(0, consistency=ALL))
    assert status == 500
    assert "The replica set for shard " in words
    assert " on peer 1001 does not have enough active replicas" in words
    assert len(nodes.texts(0, consistency=1)) == 100
    nodes.cluster.start(2, recover=False)
    assert "Dead" in nodes.states(2)
    assert nodes.counts() == [100, 100, 100], "a dead copy is not read"
    nodes.cluster.recover()
    assert set(nodes.states(2)) == {"Active"}
    assert len(nodes.texts(2, consistency=ALL)) == 100
    assert all(a == b for a, b in (c.values() for c in nodes.cluster.copies(NAME).values()))


def test_a_read_that_needs_a_killed_copy_fails_and_another_copy_serves_the_rest(
    nodes: Nodes,
) -> None:
    nodes.create()
    nodes.write(range(50))
    nodes.cluster.kill(1)
    assert len(nodes.texts(0)) == len(nodes.texts(2)) == 50
    status, words = refused(lambda: nodes.texts(0, consistency=ALL))
    assert (status, "transport error" in words) == (500, True)
    with pytest.raises(ResponseHandlingException, match="refused"):
        nodes.texts(1)
    nodes.cluster.start(1)
    assert len(nodes.texts(1, consistency=ALL)) == 50


def test_a_frozen_node_lets_writes_time_out_and_does_not_answer(nodes: Nodes) -> None:
    nodes.create(shard_number=6)
    nodes.cluster.freeze(2)
    status, words = refused(lambda: nodes.write(range(100)))
    assert status == 408
    assert "Timeout: 4 out of 6 shards failed" in words
    assert "Healthcheck timeout 2000ms exceeded" in words
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(nodes.cluster.urls[2], timeout=0.2)
    body = {"points": [one.model_dump() for one in points(range(200, 210))]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.put(
            f"{nodes.cluster.urls[2]}/collections/{NAME}/points?wait=true", json=body, timeout=0.2
        )
    nodes.cluster.thaw(2)
    # what was sent to the frozen node is done late, though nobody waits for it any more
    assert nodes.clients[2].count(NAME, models.Filter(must=[
        models.HasIdCondition(has_id=list(range(200, 210)))])).count == 10  # fmt: skip
    nodes.write(range(100))
    assert len(nodes.texts(0, consistency=ALL)) == 110


def test_a_node_that_dies_within_a_write_leaves_it_on_some_copies(nodes: Nodes) -> None:
    nodes.create(shard_number=6)
    nodes.cluster.kill_in_write(0, copies=3)
    with pytest.raises((ResponseHandlingException, UnexpectedResponse)):
        nodes.write(range(100))
    held = nodes.cluster.copies(NAME)
    assert sum(bool(one) for copies in held.values() for one in copies.values()) == 3
    nodes.cluster.start(0)
    assert set(nodes.states()) == {"Active"}
    nodes.write(range(100))
    assert len(nodes.texts(1, consistency=ALL)) == 100


def test_making_a_collection_while_a_node_is_away_fails_at_the_first_index(nodes: Nodes) -> None:
    nodes.cluster.kill(1)
    nodes.create()

    def index() -> object:
        return nodes.clients[0].create_payload_index(
            NAME, "text", models.PayloadSchemaType.KEYWORD, wait=True
        )

    status, words = refused(index)
    assert (status, "shards failed to apply operation" in words) == (500, True)
    nodes.cluster.start(1)
    index()
    nodes.write(range(30), node=1)
    assert nodes.clients[2].get_collection(NAME).payload_schema["text"].points == 30


def test_aliases_and_metadata_are_one_for_all_and_need_most_of_the_nodes(nodes: Nodes) -> None:
    nodes.create()
    nodes.clients[0].update_collection(NAME, metadata={"a": 1, "b": 2})
    nodes.clients[1].update_collection(NAME, metadata={"b": None, "c": 3})
    assert nodes.clients[2].get_collection(NAME).config.metadata == {"a": 1, "c": 3}
    alias = models.CreateAlias(collection_name=NAME, alias_name="docs")
    move = [models.CreateAliasOperation(create_alias=alias)]
    for client in nodes.clients[:2]:  # nobody asks whether it is there, or where it points
        client.update_collection_aliases(move)
    nodes.clients[2].upsert("docs", points(range(3)))
    assert nodes.clients[1].count("docs").count == 3
    nodes.cluster.kill(0)
    nodes.clients[1].update_collection_aliases(move)
    nodes.cluster.freeze(2)
    status, words = refused(lambda: nodes.clients[1].update_collection_aliases(move))
    assert (status, "Waiting for consensus operation commit failed" in words) == (500, True)
    assert nodes.clients[1].collection_exists("docs") is True


def test_a_snapshot_holds_the_shards_of_its_node_and_restores_these_alone(nodes: Nodes) -> None:
    nodes.create(shard_number=6, replication_factor=1, write_consistency_factor=1)
    nodes.write(range(300))
    made = nodes.clients[0].create_snapshot(NAME)
    assert made is not None
    assert nodes.clients[1].list_snapshots(NAME) == []
    file = httpx.get(f"{nodes.cluster.urls[0]}/collections/{NAME}/snapshots/{made.name}")
    assert httpx.get(
        f"{nodes.cluster.urls[1]}/collections/{NAME}/snapshots/{made.name}"
    ).status_code == 404  # fmt: skip
    answer = httpx.post(
        f"{nodes.cluster.urls[0]}/collections/restored@v1/snapshots/upload",
        files={"snapshot": ("a.snapshot", file.content)},
    )
    assert answer.status_code == 200
    before = nodes.cluster.copies(NAME)
    own = sum(len(copies[0]) for copies in before.values() if 0 in copies)
    assert 0 < own < 300
    assert nodes.clients[1].count("restored@v1").count == own
    assert nodes.clients[0].count(NAME).count == 300


def test_the_cluster_tells_its_nodes_and_where_the_copies_are(nodes: Nodes) -> None:
    nodes.create()
    told = httpx.get(f"{nodes.cluster.urls[1]}/cluster").json()["result"]
    assert told["status"] == "enabled"
    assert (told["peer_id"], set(told["peers"])) == (1002, {"1001", "1002", "1003"})
    assert told["raft_info"]["role"] == "Follower"
    where = httpx.get(f"{nodes.cluster.urls[1]}/collections/{NAME}/cluster").json()["result"]
    assert where["shard_count"] == 3
    assert [one["shard_id"] for one in where["local_shards"]] == [0, 1]
    assert {one["peer_id"] for one in where["remote_shards"]} == {1001, 1003}


def test_grpc_answers_for_the_cluster_too() -> None:
    with qdrant_cluster(3, grpc=True) as cluster, ExitStack() as stack:
        nodes = Nodes(cluster, stack, "grpc")
        nodes.create()
        nodes.write(range(40))
        cluster.kill(2)
        with pytest.raises(Exception, match="shards failed to apply operation"):
            nodes.write(range(20, 60), "changed")
        cluster.start(2)
        assert len(nodes.texts(0, consistency=ALL)) < 60
        nodes.write(range(20, 60), "changed")
        assert len(nodes.texts(1, consistency=ALL)) == 60
