"""Collections that somebody else deletes and makes anew while the service has them open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from backend_help import ANYONE, Made, ids, run
from doubles.qdrant_http import QdrantHttp, qdrant_http
from hashing_encoder import HashingEncoder

import retrieval
from app.errors import error_code, http_status, retry_after
from retrieval import Document, Store
from retrieval.errors import CollectionReplaced, ModelNotFound

OLD = [Document("oak", "Oaks are trees."), Document("bee", "Bees dance for flowers.")]
NEW = [Document("fox", "Foxes are clever."), Document("owl", "Owls fly at night.")]


@dataclass
class Service:
    """A service that has a collection open, and the store where others change it."""

    made: Made
    store: Store
    double: QdrantHttp

    def made_anew(self, encoder: object = None) -> None:
        self.store.delete("docs")
        retrieval.ingest(NEW, "docs", store=self.store, encoder=encoder or HashingEncoder())  # type: ignore[arg-type]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with qdrant_http() as double:
        store = Store(double.url)
        retrieval.ingest(OLD, "docs", store=store, encoder=HashingEncoder())
        made = Made(tmp_path, store=double.url, state=str(tmp_path / "state"))
        made.backend.open()
        made.backend._opened._check_seconds = 3600.0
        yield Service(made, store, double)
        made.backend.close()


def test_searches_and_reads_are_of_the_new_one(service: Service) -> None:
    backend = service.made.backend
    assert sorted(ids(run(backend.search(ANYONE, ["oaks"])))) == ["bee", "oak"]
    service.made_anew()
    assert sorted(ids(run(backend.search(ANYONE, ["foxes"])))) == ["fox", "owl"]
    service.made_anew()
    assert run(backend.documents.get(ANYONE, "owl")).text == "Owls fly at night."
    service.made_anew()
    assert run(backend.collections.get(ANYONE, "docs")).passages == 2
    service.made_anew()
    assert run(backend.ready()).ready


def test_writes_and_deletions_reach_the_new_one(service: Service) -> None:
    backend = service.made.backend
    service.made_anew()
    report = run(backend.documents.upsert(ANYONE, [*NEW, Document("ant", "Ants work.")]))
    assert (report.new, report.unchanged) == (1, 2)
    service.made_anew()
    assert run(backend.documents.delete(ANYONE, ["fox", "oak"])) == ("fox",)
    with service.store.open("docs") as index:
        assert set(index.document_states()) == {"owl"}


def test_the_encoder_that_built_the_new_one_is_loaded(service: Service) -> None:
    backend = service.made.backend
    run(backend.search(ANYONE, ["oaks"]))
    service.made_anew("all-MiniLM-L6-v2")  # of another dimension, too
    [result] = run(backend.search(ANYONE, ["a bird that is awake at night"]))
    assert result.hits[0].passage.document_id == "owl"
    assert result.encoder != "hashing"


def test_an_encoder_that_is_not_here_is_refused(service: Service) -> None:
    backend = service.made.backend
    run(backend.search(ANYONE, ["oaks"]))
    service.made_anew(HashingEncoder("no-such/model"))
    for _ in range(2):
        with pytest.raises(ModelNotFound, match="no-such/model"):
            run(backend.search(ANYONE, ["oaks"]))
    service.made_anew()
    assert sorted(ids(run(backend.search(ANYONE, ["foxes"])))) == ["fox", "owl"]


def test_one_that_is_replaced_again_and_again_is_said_to_be(service: Service) -> None:
    backend = service.made.backend
    run(backend.search(ANYONE, ["oaks"]))
    service.double.fail(
        method="POST",
        path_contains="/points/query",
        status=400,
        message="Wrong input: Not existing vector name error: dense-0",
        times=None,
    )
    with pytest.raises(CollectionReplaced, match="'docs' was deleted or made anew") as caught:
        run(backend.search(ANYONE, ["oaks"]))
    assert service.double.url not in str(caught.value)
    assert (http_status(caught.value), retry_after(caught.value)) == (503, 1.0)
    assert error_code(caught.value) == "collection_replaced"
    service.double.faults.clear()
    assert run(backend.search(ANYONE, ["oaks"]))[0].hits
