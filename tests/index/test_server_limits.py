"""A collection in strict mode is lived with: what a server refuses is asked for in smaller parts,
or the error says which setting of whom is in the way."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.qdrant_grpc import qdrant_server
from doubles.qdrant_http import QdrantHttp
from hashing_encoder import HashingEncoder
from qdrant_client import models

import retrieval
from retrieval import Document
from retrieval.errors import DiskFull, InvalidFilter, InvalidInput, LimitExceeded, StoreFault
from retrieval.index.server.index import ServerIndex, ServerOptions
from retrieval.maintenance.doctor import examine
from retrieval.maintenance.export_import import export_collection
from retrieval.types import IndexQuery, Layout, Manifest, Passage, Storage

Manifests = Callable[..., Manifest]
Vectors = Callable[..., Any]

STORAGE = Storage(quantization="int8", fields={"lang": "keyword", "year": "number"})
LAYOUT = Layout(token_dimension=4)


@pytest.fixture(scope="module")
def running() -> Iterator[QdrantHttp]:
    with qdrant_server() as double:
        yield double


@pytest.fixture
def double(running: QdrantHttp) -> Iterator[QdrantHttp]:
    yield running
    running.faults.clear()
    running.backend.resources.max_disk_usage_percent = None
    running.backend.strict_default = None
    for name in running.backend.collections():
        running.backend.delete_collection(name)
    running.requests.clear()


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def options(request: pytest.FixtureRequest, running: QdrantHttp) -> ServerOptions:
    return ServerOptions(grpc=request.param, grpc_port=running.grpc_port, retry_s=0.5)


def _limit(double: QdrantHttp, **limits: Any) -> None:
    change = models.UpdateCollection(
        strict_mode_config=models.StrictModeConfig(enabled=True, **limits)
    )
    double.backend.update_collection("docs@v1", change)


def _passages(count: int) -> list[Passage]:
    return [
        Passage(
            id=str(uuid.UUID(int=number)),
            document_id=f"d{number // 2}",
            position=number % 2,
            text=f"a cat number{number % 7} sits",
            start=0,
            end=9,
            document_hash="sha256:a",
            document_passages=2,
            metadata={"lang": ["en", "de"][number % 2], "site": "x", "year": number},
        )
        for number in range(count)
    ]


class Filled:
    """A collection, the vectors in it, and what it gives without limits."""

    def __init__(self, index: ServerIndex, vectors: Any) -> None:
        self.index = index
        self.vectors = vectors

    def queries(self, count: int) -> list[IndexQuery]:
        tokens = np.eye(4, dtype=np.float32)
        return [
            IndexQuery(vector=self.vectors[row], text=f"number{row % 7}", token_vectors=tokens)
            for row in range(count)
        ]

    def search(self, count: int = 1, mode: str = "dense", limit: int = 10, **more: Any) -> Any:
        found = self.index.search_batch(self.queries(count), mode=mode, limit=limit, **more)  # type: ignore[arg-type]
        return [[(one.passage.id, one.score) for one in own] for own in found]


@pytest.fixture(params=["known", "learned"])
def filled(
    request: pytest.FixtureRequest,
    double: QdrantHttp,
    options: ServerOptions,
    manifest: Manifests,
    vectors: Vectors,
) -> Iterator[Callable[..., Filled]]:
    """Fills a collection and limits it: before it is opened, or while it is open."""
    opened: list[ServerIndex] = []

    def fill(count: int, **limits: Any) -> Filled:
        made = ServerIndex.create(
            double.url, "docs", manifest(storage=STORAGE, layout=LAYOUT), options=options
        )
        opened.append(made)
        if count:
            tokens = [vectors(3, 4, seed) for seed in range(count)]
            made.upsert(_passages(count), vectors(count), token_vectors=tokens)
        if request.param == "known":
            _limit(double, **limits)
            opened.append(ServerIndex.open(double.url, "docs", options=options))
        else:
            _limit(double, **limits)
        return Filled(opened[-1], vectors(max(count, 1)))

    yield fill
    for one in opened:
        one.close()


def test_results_of_a_search(filled: Callable[..., Filled], double: QdrantHttp) -> None:
    open_ = filled(150, max_query_limit=100)
    for mode in ("dense", "sparse", "hybrid"):
        (limited,) = open_.search(mode=mode, limit=10)
        assert len(limited) == 10
        (whole,) = open_.search(mode=mode, limit=100)
        assert len(whole) >= (1 if mode == "sparse" else 100)
    (refined,) = open_.search(limit=10, refine=50)
    assert len(refined) == 10
    with pytest.raises(LimitExceeded, match=r"limit is 500 .*at most 100 .*max_query_limit"):
        open_.search(limit=500)
    with pytest.raises(LimitExceeded, match="refine is 120"):
        open_.search(limit=10, refine=120)


def test_pages_of_reading(filled: Callable[..., Filled]) -> None:
    index = filled(150, max_query_limit=40).index
    assert len(list(index.passages())) == 150
    assert len(list(index.points())) == 150
    assert len(index.document_states()) == 75
    assert len(index.document_passages([f"d{n}" for n in range(75)])) == 75


def test_writes(filled: Callable[..., Filled], double: QdrantHttp, vectors: Vectors) -> None:
    open_ = filled(0, upsert_max_batchsize=100)
    tokens = [vectors(3, 4, seed) for seed in range(256)]
    open_.index.upsert(_passages(256), vectors(256), token_vectors=tokens)
    assert open_.index.count() == 256
    assert not any(request.status == 500 for request in double.requests)


def test_parameters_of_a_search_and_what_status_says_of_them(
    filled: Callable[..., Filled], double: QdrantHttp
) -> None:
    open_ = filled(
        20, search_max_hnsw_ef=128, search_max_oversampling=1.5, max_query_limit=60
    )  # fmt: skip
    (found,) = open_.search()
    assert len(found) == 10
    notes = " ".join(open_.index.status().notes)
    assert "128 nodes of the graph instead of 256" in notes
    assert "re-score 1.5 times as many instead of 2" in notes
    assert "at most 60 results" in notes


def test_batches_of_searches(filled: Callable[..., Filled]) -> None:
    open_ = filled(40, search_max_batchsize=10)
    together = open_.search(20, mode="hybrid")
    alone = [
        open_.index.search_batch([query], mode="hybrid", limit=10) for query in open_.queries(20)
    ]
    assert together == [
        [(one.passage.id, one.score) for one in own] for found in alone for own in found
    ]


def test_long_lists_in_filters(filled: Callable[..., Filled]) -> None:
    open_ = filled(60, condition_max_size=10)
    index, documents = open_.index, [f"d{n}" for n in range(30)]
    assert len(index.document_states(documents)) == 30
    years = {"lang": [f"x{n}" for n in range(40)] + ["en"]}
    assert index.count(years) == 30
    assert len(open_.search(limit=40, where=years)[0]) == 30
    assert len(open_.search(limit=40, refine=40)[0]) == 40
    assert len(index.vectors([str(uuid.UUID(int=n)) for n in range(60)])) == 60
    index.delete_documents(documents)
    assert index.count() == 0


def test_many_conditions(filled: Callable[..., Filled]) -> None:
    open_ = filled(60, filter_max_conditions=9)
    passages = list(open_.index.passages())
    around = open_.index.neighbours(passages, 1)
    assert all(len(before) + len(after) == 1 for before, after in around.values())
    assert open_.index.delete_where({"lang": "en"}) == 30
    with pytest.raises(InvalidFilter, match=r"allows 9 in one request.*filter_max_conditions"):
        open_.search(where={"or": [{"year": n} for n in range(12)]})


def test_no_exact_search(filled: Callable[..., Filled]) -> None:
    open_ = filled(30, search_allow_exact=False)
    assert open_.index.count() == 30
    assert open_.index.count({"lang": "en"}) == 15
    assert open_.index.status().points == 30
    assert len(open_.search(limit=10, refine=20)[0]) == 10
    with pytest.raises(InvalidInput, match=r"exact is true.*search_allow_exact"):
        open_.search(exact=True)


def test_refining_gives_the_same_without_exact_search(
    filled: Callable[..., Filled], double: QdrantHttp
) -> None:
    open_ = filled(30)
    before = open_.search(3, limit=10, refine=20)
    _limit(double, search_allow_exact=False)
    assert open_.search(3, limit=10, refine=20) == before


def test_a_filter_on_a_field_without_index(filled: Callable[..., Filled]) -> None:
    open_ = filled(10, unindexed_filtering_retrieve=False, unindexed_filtering_update=False)
    words = r"retrieval reindex PATH --field site:keyword"
    for call in (
        lambda where: open_.search(where=where),
        open_.index.count,
        open_.index.delete_where,
    ):
        with pytest.raises(InvalidFilter, match=words):
            call({"site": "x"})
    with pytest.raises(InvalidFilter, match="--field age:number"):
        open_.index.count({"age": {"gte": 3}})
    assert open_.index.count({"lang": "en"}) == 5
    assert open_.index.count({"year": {"gte": 5}}) == 5
    assert open_.index.count({"document_id": "d0"}) == 2


def test_filters_that_no_index_answers_by_itself(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests, vectors: Vectors
) -> None:
    langs: list[Any] = [
        "en", "de", ["en"], ["en", "de"], [], None, 5, True, [True, "en"], ["de", 5], "fr",
    ]  # fmt: skip
    numbers: list[Any] = [2**53, 2**53 + 1, 2**53 + 2, float(2**53), [1, 2**53 + 1], -(2**53) - 1]
    made = [
        dataclasses.replace(
            one, metadata={"lang": langs[n % len(langs)], "year": numbers[n % len(numbers)]}
        )
        for n, one in enumerate(_passages(33))
    ]

    def on(key: str, match: Any) -> models.Filter:
        return models.Filter(must=[models.FieldCondition(key=f"metadata.{key}", match=match)])

    asked: list[Any] = [on("lang", models.MatchExcept(**{"except": ["en"]}))]
    asked += [on("lang", models.MatchExcept(**{"except": ["en", "fr"]}))]
    asked += [{"year": one} for one in (2**53, 2**53 + 1, -(2**53) - 1, 2**53 + 3)]
    asked += [{"not": {"year": 2**53 + 1}}, {"or": [{"year": 2**53 + 2}, {"lang": "fr"}]}]
    plain = manifest(storage=STORAGE)
    with ServerIndex.create(double.url, "docs", plain, options=options) as index:
        index.upsert(made, vectors(33))
        free = [index.count(where) for where in asked]
    assert free[3] == 11
    _limit(double, unindexed_filtering_retrieve=False)
    with ServerIndex.open(double.url, "docs", options=options) as index:
        assert [index.count(where) for where in asked] == free


def test_no_room_on_the_node(
    filled: Callable[..., Filled], double: QdrantHttp, vectors: Vectors
) -> None:
    open_ = filled(4, max_resident_memory_percent=99)

    def write() -> None:
        tokens = [vectors(3, 4, seed) for seed in range(4)]
        open_.index.upsert(_passages(4), vectors(4), token_vectors=tokens)

    write()
    double.backend.resources.max_disk_usage_percent = 1
    with pytest.raises(DiskFull, match=r"disk is full.*Disk usage is at 78%"):
        write()
    double.backend.resources.max_disk_usage_percent = None
    _limit(double, max_resident_memory_percent=1)
    with pytest.raises(DiskFull, match=r"memory is full.*Resident memory usage is at 50%"):
        write()
    open_.index.delete_documents(["d0"])
    assert open_.index.count() == 2


def test_the_server_says_when_to_come_again(
    filled: Callable[..., Filled], double: QdrantHttp
) -> None:
    open_ = filled(10, read_rate_limit=3)
    for _ in range(3):
        open_.search()
    with pytest.raises(StoreFault) as refusal:
        open_.search()
    assert refusal.value.retry_after_s == 20
    assert "asks to wait 20 s" in refusal.value.fix


@pytest.fixture
def a_minute_a_call(double: QdrantHttp) -> Iterator[None]:
    """Every call comes a minute after the one before."""
    time, rates = [0.0], double.backend.rates

    def now() -> float:
        time[0] += 60.0
        return time[0]

    before, rates.now = rates.now, now
    yield
    rates.now = before


@pytest.mark.usefixtures("a_minute_a_call")
def test_searches_that_together_cost_more_than_a_minute(filled: Callable[..., Filled]) -> None:
    found = filled(40, read_rate_limit=20).search(30, mode="dense", limit=5)
    assert [len(own) for own in found] == [5] * 30


@pytest.mark.usefixtures("a_minute_a_call")
def test_deletions_and_writes_that_cost_more_than_a_minute(
    filled: Callable[..., Filled], vectors: Vectors
) -> None:
    open_ = filled(60, write_rate_limit=25)
    tokens = [vectors(3, 4, seed) for seed in range(60)]
    open_.index.upsert(_passages(60), vectors(60), token_vectors=tokens)
    open_.index.delete_documents([f"d{n}" for n in range(20)])
    assert open_.index.count() == 20
    open_.index.delete_passages([str(uuid.UUID(int=n)) for n in range(40, 60)])
    assert open_.index.count() == 0


def test_payloads_cost_two_tokens_where_reading_is_rationed(
    filled: Callable[..., Filled], double: QdrantHttp
) -> None:
    open_ = filled(30, read_rate_limit=600)
    open_.index.status()  # from here on it is known
    spent = double.backend.rates.spent
    before = spent["read"]
    (found,) = open_.search(mode="hybrid", limit=10)
    assert len(found) == 10
    assert spent["read"] - before == 2 + 2  # a search in each leg, then all payloads


def test_more_payloads_than_a_minute_has_tokens_for(filled: Callable[..., Filled]) -> None:
    open_ = filled(40, read_rate_limit=20)
    (found,) = open_.search(mode="hybrid", limit=30)
    assert len(found) == 30


def test_threads_that_are_refused_together(filled: Callable[..., Filled]) -> None:
    open_ = filled(60, max_query_limit=50, search_max_hnsw_ef=128, condition_max_size=5)
    where = {"lang": [f"x{n}" for n in range(9)] + ["en"]}
    together = threading.Barrier(8)

    def search(_: int) -> int:
        together.wait(timeout=20)
        return len(open_.search(mode="hybrid", limit=20, where=where)[0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(search, range(8))) == [20] * 8


def test_a_server_with_strict_mode_of_its_own(
    double: QdrantHttp, options: ServerOptions, manifest: Manifests, vectors: Vectors
) -> None:
    double.backend.strict_default = models.StrictModeConfig(
        enabled=True, max_query_limit=100, upsert_max_batchsize=20, search_allow_exact=False,
        search_max_hnsw_ef=128, unindexed_filtering_retrieve=False,
        unindexed_filtering_update=False,
    )  # fmt: skip
    with ServerIndex.create(double.url, "docs", manifest(), options=options) as index:
        index.upsert(_passages(50), vectors(50))
        found = index.search(mode="hybrid", limit=50, vector=vectors(1)[0], text="cat")
        assert len(found) == 50
        index.delete_documents(["d0"])
        assert index.count() == 48
    statuses = {request.status for request in double.requests}
    assert 400 not in statuses  # what the collection says is read when it is opened


def test_a_run_and_the_doctor_on_a_server_with_small_limits(
    double: QdrantHttp, tmp_path: Path
) -> None:
    double.backend.strict_default = models.StrictModeConfig(
        enabled=True, max_query_limit=50, upsert_max_batchsize=20, search_max_batchsize=2,
        search_max_hnsw_ef=64, search_max_oversampling=1.0, condition_max_size=10,
        filter_max_conditions=8, search_allow_exact=False, unindexed_filtering_retrieve=False,
        unindexed_filtering_update=False,
    )  # fmt: skip
    documents = [Document(f"d{n}", f"Text number {n} about cats.") for n in range(120)]
    report = retrieval.ingest(documents, "docs", store=double.url, encoder=HashingEncoder())
    assert report.new == 120
    again = retrieval.ingest(documents[1:], "docs", store=double.url, encoder=HashingEncoder(),
                             prune=True)  # fmt: skip
    assert (again.unchanged, again.pruned) == (119, 1)
    diagnosis = examine("docs", store=double.url)
    assert diagnosis.state == "warning"
    (engine,) = [one for one in diagnosis.findings if one.check == "engine"]
    assert "64 nodes of the graph" in engine.text
    export_collection("docs", tmp_path / "docs.parquet", store=double.url)
    with retrieval.open(
        "docs", store=double.url, encoder=HashingEncoder(), reranker=None
    ) as searching:
        found = searching.search("number 7 cats", top_k=30, neighbours=1, per_document=1)
        assert len(found.hits) == 30
        with pytest.raises(LimitExceeded, match="max_query_limit"):
            searching.search("cats", top_k=60)
