"""The doubles refuse what strict mode limits, in a server's words, over both wires."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from doubles.qdrant_grpc import qdrant_server
from doubles.qdrant_http import QdrantHttp
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

NAME = "docs"


@pytest.fixture(params=["rest", "grpc"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[QdrantHttp, QdrantClient]]:
    grpc = request.param == "grpc"
    with qdrant_server(grpc=grpc) as server:
        port = {"grpc_port": server.grpc_port} if grpc else {}
        client = QdrantClient(
            url=server.url, prefer_grpc=grpc, check_compatibility=False, **port
        )  # fmt: skip
        client.create_collection(
            NAME, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
        )
        client.create_payload_index(NAME, "lang", models.PayloadSchemaType.KEYWORD)
        client.create_payload_index(NAME, "n", models.PayloadSchemaType.FLOAT)
        client.upsert(NAME, [_point(i) for i in range(5)])
        yield server, client
        client.close()


def _point(number: int) -> models.PointStruct:
    return models.PointStruct(id=number, vector=[1.0, number], payload={"lang": "en", "n": number})


def _on(key: str, value: Any = "en") -> models.Filter:
    match = models.MatchValue(value=value)
    return models.Filter(must=[models.FieldCondition(key=key, match=match)])


def _limit(client: QdrantClient, **limits: Any) -> None:
    client.update_collection(
        NAME, strict_mode_config=models.StrictModeConfig(enabled=True, **limits)
    )


def _search(**changes: Any) -> models.QueryRequest:
    return models.QueryRequest(**{"query": [1.0, 0.0], "limit": 2, **changes})


def _any(count: int) -> models.Filter:
    match = models.MatchAny(any=[f"t{i}" for i in range(count)])
    return models.Filter(must=[models.FieldCondition(key="lang", match=match)])


_EF = models.SearchParams(hnsw_ef=256)
_MORE = models.SearchParams(quantization=models.QuantizationSearchParams(oversampling=2.0))
_REFUSED: list[tuple[dict[str, Any], Any, str]] = [
    ({"max_query_limit": 4}, lambda c: c.scroll(NAME, limit=5), 'Limit exceeded 5 > 4 for "limit"'),
    ({"max_query_limit": 4}, lambda c: c.query_points(NAME, [1.0, 0.0], limit=5),
     'Limit exceeded 5 > 4 for "limit"'),
    ({"upsert_max_batchsize": 2}, lambda c: c.upsert(NAME, [_point(i) for i in range(3)]),
     'Limit exceeded 3 > 2 for "upsert limit"'),
    ({"search_max_hnsw_ef": 128},
     lambda c: c.query_batch_points(NAME, [_search(params=_EF)]),
     'Limit exceeded 256 > 128 for "hnsw_ef"'),
    ({"search_max_oversampling": 1.5},
     lambda c: c.query_batch_points(NAME, [_search(params=_MORE)]),
     'Limit exceeded 2 > 1.5 for "oversampling"'),
    ({"search_max_batchsize": 2}, lambda c: c.query_batch_points(NAME, [_search()] * 3),
     'Limit exceeded 3 > 2 for "search batch size"'),
    ({"condition_max_size": 100}, lambda c: c.count(NAME, _any(150)),
     "Condition size limit reached (150 > 100)"),
    ({"condition_max_size": 3},
     lambda c: c.scroll(NAME, models.Filter(must=[models.HasIdCondition(has_id=[0, 1, 2, 3])])),
     "Condition size limit reached (4 > 3)"),
    ({"filter_max_conditions": 1},
     lambda c: c.scroll(NAME, models.Filter(must=[_on("lang"), _on("lang")])),
     "Filter condition limit reached (2 > 1)"),
    ({"unindexed_filtering_retrieve": False}, lambda c: c.scroll(NAME, _on("site")),
     'Index required but not found for "site" of one of the following types: [keyword]'),
    ({"unindexed_filtering_retrieve": False}, lambda c: c.scroll(NAME, _on("n", 3)),
     'Index required but not found for "n" of one of the following types: [integer]'),
    ({"unindexed_filtering_update": False},
     lambda c: c.delete(NAME, models.FilterSelector(filter=_on("site"))),
     'Index required but not found for "site" of one of the following types: [keyword]'),
    ({"search_allow_exact": False}, lambda c: c.count(NAME, exact=True), "Exact search disabled!"),
    ({"max_resident_memory_percent": 40}, lambda c: c.upsert(NAME, [_point(1)]),
     "Resident memory usage is at 50% of total memory, exceeding the configured limit of 40%"),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "call", "words"), _REFUSED)
def test_a_request_over_a_limit_is_refused_with_400(
    both: tuple[QdrantHttp, QdrantClient], limits: dict[str, Any], call: Any, words: str
) -> None:
    server, client = both
    call(client)
    client.upsert(NAME, [_point(i) for i in range(5)])
    _limit(client, **limits)
    with pytest.raises(Exception) as refusal:  # each wire has its own
        call(client)
    assert words in str(refusal.value).replace("\\", "")
    assert server.requests[-1].status == 400


def test_without_the_switch_nothing_is_limited(both: tuple[QdrantHttp, QdrantClient]) -> None:
    _, client = both
    config = models.StrictModeConfig(enabled=False, max_query_limit=1)
    client.update_collection(NAME, strict_mode_config=config)
    assert len(client.scroll(NAME, limit=5)[0]) == 5


def test_the_disk_of_the_node_stops_writes_and_not_deletions(
    both: tuple[QdrantHttp, QdrantClient],
) -> None:
    server, client = both
    server.backend.resources.max_disk_usage_percent = 1
    with pytest.raises(Exception, match="Disk usage is at 78% of total capacity"):
        client.upsert(NAME, [_point(1)])
    client.delete(NAME, [1])
    assert client.count(NAME).count == 4


def test_a_new_collection_has_the_servers_own_strict_mode(
    both: tuple[QdrantHttp, QdrantClient],
) -> None:
    server, client = both
    server.backend.strict_default = models.StrictModeConfig(enabled=True, max_query_limit=7)
    client.create_collection(
        "new", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    )
    config = client.get_collection("new").config.strict_mode_config
    assert config is not None
    assert config.max_query_limit == 7


def test_calls_cost_tokens_as_a_server_counts_them(both: tuple[QdrantHttp, QdrantClient]) -> None:
    server, client = both
    _limit(client, read_rate_limit=600, write_rate_limit=600)
    ids = models.Filter(must=[models.HasIdCondition(has_id=[0, 1, 2])])
    for call, cost in (
        (lambda: client.retrieve(NAME, [0, 1, 2]), 3),
        (lambda: client.scroll(NAME, ids), 2),
        (lambda: client.scroll(NAME), 1),
        (lambda: client.query_batch_points(NAME, [_search(), _search(filter=_on("lang"))]), 3),
        (lambda: client.count(NAME, _on("lang")), 2),
    ):
        before = server.backend.rates.spent.get("read", 0)
        call()  # type: ignore[no-untyped-call]
        assert server.backend.rates.spent["read"] - before == cost
    before = server.backend.rates.spent["write"]
    client.upsert(NAME, [_point(1), _point(2)])
    assert server.backend.rates.spent["write"] - before == 2


def test_a_bucket_empties_and_fills_with_time(both: tuple[QdrantHttp, QdrantClient]) -> None:
    server, client = both
    time = [0.0]
    server.backend.rates.now = lambda: time[0]
    _limit(client, read_rate_limit=3)
    client.retrieve(NAME, [0, 1, 2])
    with pytest.raises(ResourceExhaustedResponse) as refusal:
        client.scroll(NAME)
    assert refusal.value.retry_after_s == 20
    time[0] = 20.0
    client.scroll(NAME)
    with pytest.raises(Exception, match="larger than rate limiter capacity"):
        client.retrieve(NAME, [0, 1, 2, 3])
