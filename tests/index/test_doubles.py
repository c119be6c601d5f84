"""The doubles of a Qdrant server hold to what a real one does: answers, refusals, faults."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from doubles.qdrant_grpc import qdrant_server
from doubles.qdrant_http import QdrantHttp, qdrant_http
from doubles.tcp_proxy import tcp_proxy
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

Clients = Callable[..., QdrantClient]

WIRES = ["rest", "grpc"]
QUICK = {"grpc.initial_reconnect_backoff_ms": 50, "grpc.max_reconnect_backoff_ms": 50}
"""gRPC waits a second before it tries a broken connection again; these tests need not."""


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantHttp]:
    with qdrant_server(grpc=True) as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Clients]:
    """Factory: a client of a double by a wire, closed after the test."""
    with ExitStack() as stack:

        def make(server: QdrantHttp, wire: str = "rest", **options: Any) -> QdrantClient:
            if wire == "grpc":
                options["prefer_grpc"] = True
                options["grpc_port"] = options.get("grpc_port") or server.grpc_port
                # a new one each time: the client writes into it
                options["grpc_options"] = QUICK | options.get("grpc_options", {})
            else:
                options.pop("grpc_options", None)
            # no certificates are read where there is no TLS: that takes longer than most tests
            options = {"verify": server.url.startswith("https")} | options
            options = {"url": server.url, "check_compatibility": False, "timeout": 5} | options
            client = QdrantClient(**options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def name(server: QdrantHttp) -> Iterator[str]:
    """A collection name of the test's own."""
    server.requests.clear()
    yield f"docs-{uuid.uuid4().hex[:8]}@v1"
    assert not server.faults._rules


VECTORS = {
    "dense": models.VectorParams(
        size=4,
        distance=models.Distance.COSINE,
        on_disk=True,
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, quantile=0.75, always_ram=True
            )
        ),
    ),
    "tokens": models.VectorParams(
        size=3,
        distance=models.Distance.COSINE,
        hnsw_config=models.HnswConfigDiff(m=0),
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
    ),
}
SPARSE = {
    "bm25": models.SparseVectorParams(modifier=models.Modifier.IDF),
    "lexical": models.SparseVectorParams(),
}


def make_collection(client: QdrantClient, name: str, **options: Any) -> None:
    client.create_collection(
        name, vectors_config=VECTORS, sparse_vectors_config=SPARSE, metadata={"a": {"b": None}}
    )


def points(count: int, start: int = 0, seed: int = 0) -> list[models.PointStruct]:
    rng = random.Random(seed)
    made = []
    for i in range(start, start + count):
        sparse = models.SparseVector(
            indices=sorted(rng.sample(range(30), 4)), values=[rng.random() for _ in range(4)]
        )
        made.append(
            models.PointStruct(
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"p{i}")) if i % 2 else i,
                vector={
                    "dense": [rng.gauss(0, 1) for _ in range(4)],
                    "tokens": [[rng.gauss(0, 1) for _ in range(3)] for _ in range(1 + i % 3)],
                    "bm25": sparse,
                    "lexical": sparse,
                },
                payload={
                    "n": i,
                    "x": rng.random(),
                    "tags": rng.sample(["a", "b", "c"], rng.randrange(3)),
                    "nothing": None,
                    "nested": {"city": rng.choice(["Ulm", "Rom", "東京"])},
                    **({"some": "v"} if i % 3 == 0 else {}),
                },
            )
        )
    return made


@pytest.mark.parametrize("wire", WIRES)
class TestOperations:
    def test_aliases_switch_in_one_call(
        self, server: QdrantHttp, connect: Clients, name: str, wire: str
    ) -> None:
        client = connect(server, wire)
        alias, other = name.removesuffix("@v1"), name.replace("@v1", "@v2")
        for version in (name, other):
            make_collection(client, version)
        client.upsert(name, points(1), wait=True)
        client.update_collection_aliases([_create(alias, name)])
        assert client.count(alias).count == 1
        assert client.get_collection_aliases(name).aliases == [
            models.AliasDescription(alias_name=alias, collection_name=name)
        ]
        client.update_collection_aliases([_delete(alias), _create(alias, other)])
        assert client.count(alias).count == 0
        assert client.get_collection_aliases(name).aliases == []
        found = {a.alias_name: a.collection_name for a in client.get_aliases().aliases}
        assert found[alias] == other
        for operations, problem in [
            ([_create(alias, "nowhere")], "Collection `nowhere` doesn"),
            ([_create(name, other)], f"Collection `{name}` already exists!"),
        ]:
            with pytest.raises(Exception, match=problem):
                client.update_collection_aliases(operations)
        with pytest.raises(Exception, match="Alias with the same name already exists"):
            make_collection(client, alias)
        assert not client.delete_collection(alias)  # an alias is no collection
        client.delete_collection(other)
        assert not client.collection_exists(alias)

    def test_a_snapshot_brings_a_collection_back(
        self, server: QdrantHttp, connect: Clients, name: str, wire: str
    ) -> None:
        client = connect(server, wire)
        make_collection(client, name)
        client.create_payload_index(name, "n", "integer", wait=True)
        client.upsert(name, points(9), wait=True)
        before = client.scroll(name, limit=99, with_vectors=True)[0]
        snapshot = client.create_snapshot(name)
        assert snapshot is not None
        assert client.list_snapshots(name) == [snapshot]
        data = httpx.get(f"{server.url}/collections/{name}/snapshots/{snapshot.name}").content
        assert len(data) == snapshot.size
        client.delete_snapshot(name, snapshot.name)
        assert client.list_snapshots(name) == []
        info = client.get_collection(name)
        client.delete_collection(name)

        upload = f"{server.url}/collections/{name}/snapshots/upload"
        wrong = httpx.post(f"{upload}?checksum=0", files={"snapshot": data})
        assert (wrong.status_code, "checksum mismatch" in wrong.text) == (400, True)
        assert not client.collection_exists(name)
        restored = httpx.post(f"{upload}?priority=snapshot&wait=true", files={"snapshot": data})
        assert restored.json()["result"] is True
        assert client.get_collection(name) == info
        assert client.scroll(name, limit=99, with_vectors=True)[0] == before
        make_other = {"vectors_config": models.VectorParams(size=2, distance="Dot")}
        client.create_collection(other := f"{name}-other", **make_other)
        clash = httpx.post(upload.replace(name, other), files={"snapshot": data})
        assert (clash.status_code, "not compatible" in clash.text) == (400, True)

    def test_what_a_server_refuses(
        self, server: QdrantHttp, connect: Clients, name: str, wire: str
    ) -> None:
        client = connect(server, wire)
        make_collection(client, name)
        point = models.PointStruct
        right = point(id=1, vector={"dense": [1.0, 2, 3, 4]})
        calls: list[tuple[Callable[[], Any], int, str]] = [
            (lambda: client.count("no"), 404, "Not found: Collection `no` doesn't exist!"),
            (lambda: client.get_collection("no"), 404, "Collection `no` doesn't exist!"),
            (lambda: client.upsert("no", [right]), 404, "Collection `no` doesn't exist!"),
            (lambda: make_collection(client, name), 409, f"Collection `{name}` already exists!"),
            (
                lambda: client.upsert(name, [right, point(id=2, vector={"dense": [1.0]})]),
                400,
                "Vector dimension error: expected dim: 4, got 1",
            ),
            (
                lambda: client.upsert(name, [point(id=2, vector={"new": [1.0]})]),
                400,
                "Not existing vector name error: new",
            ),
            (
                lambda: client.upsert(name, [point(id="a", vector={})]),
                400,
                "value a is not a valid point ID",
            ),
            (
                lambda: client.query_points(name, [1.0], using="dense"),
                400,
                "Vector dimension error: expected dim: 4, got 1",
            ),
            (
                lambda: client.query_points(name, [[1.0, 2.0]], using="tokens"),
                400,
                "Vector dimension error: expected dim: 3, got 2",
            ),
            (
                lambda: client.query_points(name, [1.0], using="new"),
                400,
                "Not existing vector name error: new",
            ),
            (
                lambda: client.query_points(name, [1.0, 2, 3, 4], using="dense", limit=0),
                422,
                "limit: value 0 invalid, must be 1 or larger",
            ),
        ]
        for call, status, text in calls:
            with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
                call()
            if isinstance(caught.value, UnexpectedResponse):
                body = httpx.Response(status, content=caught.value.content).json()
                assert (caught.value.status_code, text in body["status"]["error"]) == (status, True)
            else:
                assert isinstance(caught.value, grpc.Call)
                codes = {404: "NOT_FOUND", 409: "ALREADY_EXISTS"}
                assert caught.value.code().name == codes.get(status, "INVALID_ARGUMENT")
                assert text in (caught.value.details() or "")
        assert client.count(name).count == 0  # nothing of the refused batches

    def test_filters_and_queries_answer_as_in_memory(
        self, server: QdrantHttp, connect: Clients, name: str, wire: str
    ) -> None:
        client, direct = connect(server, wire), QdrantClient(":memory:")
        for each in (client, direct):
            make_collection(each, name)
            each.upsert(name, points(60, seed=1), wait=True)
        ids = [point.id for point in points(60)]
        rng = random.Random(2)
        queries = [_random_query(rng, ids) for _ in range(120)]
        answers = client.query_batch_points(name, queries)
        hits = 0
        for query, found in zip(queries, answers, strict=True):
            (expected,) = direct.query_batch_points(name, [query])
            assert [p.id for p in found.points] == [p.id for p in expected.points], query
            assert [p.score for p in found.points] == pytest.approx(
                [p.score for p in expected.points], rel=1e-6
            )
            assert [p.payload or {} for p in found.points] == [
                p.payload or {} for p in expected.points
            ]
            hits += len(found.points)
        assert hits > 300
        for where in (_random_filter(rng, ids) for _ in range(60)):
            page, following = client.scroll(name, where, limit=7, with_vectors=True)
            same, also = direct.scroll(name, where, limit=7, with_vectors=True)
            assert following == also, where
            assert [_rounded(record) for record in page] == [_rounded(r) for r in same], where
            assert client.count(name, where) == direct.count(name, where)


def _rounded(record: models.Record) -> Any:
    """A record with the values of its sparse vectors in float32, as a server has them."""
    assert isinstance(record.vector, dict)
    vectors = {
        key: (vector.indices, [float(np.float32(v)) for v in vector.values])
        if isinstance(vector, models.SparseVector)
        else vector
        for key, vector in record.vector.items()
    }
    return record.id, record.payload, vectors


def _create(alias: str, collection: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(alias_name=alias, collection_name=collection)
    )


def _delete(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def _random_condition(rng: random.Random, ids: list[Any]) -> Any:
    field, match = models.FieldCondition, models.MatchValue
    return rng.choice(
        [
            lambda: field(key="n", match=match(value=rng.randrange(60))),
            lambda: field(key="n", range=models.Range(gte=rng.randrange(60), lt=50)),
            lambda: field(key="x", range=models.Range(gt=rng.random())),
            lambda: field(key="tags", match=match(value=rng.choice("abc"))),
            lambda: field(key="tags", match=models.MatchAny(any=["a", rng.choice("bc")])),
            lambda: field(key="nested.city", match=models.MatchExcept(**{"except": ["Ulm"]})),
            lambda: field(key="nested.city", match=match(value="東京")),
            lambda: field(key="tags", values_count=models.ValuesCount(gte=1)),
            lambda: models.IsEmptyCondition(is_empty=models.PayloadField(key="some")),
            lambda: models.IsNullCondition(is_null=models.PayloadField(key="nothing")),
            lambda: models.HasIdCondition(has_id=rng.sample(ids, 20)),
        ]
    )()


def _random_filter(rng: random.Random, ids: list[Any], depth: int = 0) -> models.Filter:
    def clause() -> list[Any] | None:
        made = [_random_condition(rng, ids) for _ in range(rng.randrange(3))]
        if depth == 0 and rng.random() < 0.3:
            made.append(_random_filter(rng, ids, 1))
        return made or None

    return models.Filter(must=clause(), should=clause(), must_not=clause())


def _random_query(rng: random.Random, ids: list[Any]) -> models.QueryRequest:
    where = _random_filter(rng, ids) if rng.random() < 0.6 else None

    def vector(using: str) -> Any:
        if using == "dense":
            return [rng.gauss(0, 1) for _ in range(4)]
        if using == "tokens":
            return [[rng.gauss(0, 1) for _ in range(3)] for _ in range(2)]
        indices = sorted(rng.sample(range(30), 5))
        return models.SparseVector(indices=indices, values=[rng.random() for _ in indices])

    using = rng.choice(["dense", "tokens", "bm25", "lexical", "fused"])
    if using == "fused":
        return models.QueryRequest(
            prefetch=[
                models.Prefetch(query=vector(leg), using=leg, filter=where, limit=20)
                for leg in ("dense", "bm25")
            ],
            query=models.FusionQuery(fusion=rng.choice(list(models.Fusion))),
            limit=10,
            with_payload=["n"],
        )
    return models.QueryRequest(
        query=vector(using),
        using=using,
        filter=where,
        limit=rng.randrange(1, 12),
        offset=rng.choice([None, 0, 3]),
        with_payload=rng.choice([True, False]),
    )


def test_what_it_says_of_itself(server: QdrantHttp, connect: Clients) -> None:
    for wire in WIRES:
        assert "qdrant" in connect(server, wire).info().title
    assert httpx.get(f"{server.url}/healthz").text == "healthz check passed"
    unknown = httpx.get(f"{server.url}/telemetry")
    assert (unknown.status_code, unknown.content) == (404, b"")
    for query in ("ordering=odd", "wait=maybe", "timeout=-1"):
        answer = httpx.post(
            f"{server.url}/collections/x/points/delete?{query}", json={"points": []}
        )
        assert answer.status_code == 400
        assert "query parameters" in answer.json()["status"]["error"]
    zero = httpx.post(f"{server.url}/collections/x/points/delete?timeout=0", json={"points": []})
    assert (zero.status_code, "must be 1 or larger" in zero.text) == (422, True)
    broken = httpx.put(f"{server.url}/collections/x", content=b'{"vectors": 7}')
    assert broken.status_code == 400
    assert broken.json()["status"]["error"].startswith("Format error in JSON body")


@pytest.mark.parametrize("wire", WIRES)
class TestFaults:
    def test_too_many_requests_tells_when_to_come_back(
        self, server: QdrantHttp, connect: Clients, name: str, wire: str
    ) -> None:
        server.fail(status=429, retry_after=7, message="Write rate limit exceeded")
        with pytest.raises(ResourceExhaustedResponse, match="Write rate limit") as caught:
            connect(server, wire).collection_exists(name)
        assert caught.value.retry_after_s == 7

    def test_after_applying_is_ambiguous(
        self, server: QdrantHttp, connect: Clients, name: str, wire: str
    ) -> None:
        client = connect(server, wire)
        make_collection(client, name)
        rules: list[dict[str, Any]] = [{"status": 500}, {"drop": "reset"}, {"drop": "close"}]
        for applied, (rule, after) in enumerate(itertools.product(rules, (False, True)), start=0):
            server.fail(method="PUT", after=after, **rule)
            with pytest.raises(
                (UnexpectedResponse, ResponseHandlingException, grpc.RpcError)
            ) as caught:
                client.upsert(name, points(1, start=applied), wait=True)
            if wire == "rest" and rule != {"status": 500}:
                assert isinstance(caught.value, ResponseHandlingException)
                source = type(caught.value.source)
                dropped = httpx.ReadError if rule["drop"] == "reset" else httpx.RemoteProtocolError
                assert source is dropped
            assert client.count(name).count == (applied + 1) // 2


def test_body_limits(connect: Clients) -> None:
    with qdrant_server(grpc=True, body_limit=5000, grpc_message_limit=5000) as server:
        client = connect(server)
        make_collection(client, "docs")
        client.upsert("docs", points(3), wait=True)
        with pytest.raises(UnexpectedResponse, match="larger than allowed") as caught:
            client.upsert("docs", points(60), wait=True)
        assert caught.value.status_code == 400  # as a server answers; 413 comes from proxies
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            connect(server, "grpc").upsert("docs", points(60), wait=True)
        assert client.count("docs").count == 3
    with qdrant_http(body_limit=5000, body_limit_status=413) as proxied:
        client = connect(proxied)
        make_collection(client, "docs")
        with pytest.raises(UnexpectedResponse, match="413"):
            client.upsert("docs", points(60), wait=True)


def test_nothing_is_left_behind(connect: Clients) -> None:
    before = set(threading.enumerate())
    with qdrant_server(grpc=True) as server, tcp_proxy(server.url) as proxy:
        client = connect(server, url=proxy.url, limits=httpx.Limits(max_keepalive_connections=5))
        make_collection(client, "docs")
        kept = connect(server, "grpc")
        assert kept.count("docs").count == 0
        url, port = server.url, server.grpc_port
    ours = ("qdrant-double", "tcp-proxy")
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith(ours)]
    # the worker threads of the web framework are told to end, and end by themselves
    _until(lambda: not [t for t in set(threading.enumerate()) - before if "AnyIO" in t.name])
    for address in (url, f"http://127.0.0.1:{port}", proxy.url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


def _until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
