"""The native API over the whole service: real models, a real store, real HTTP."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from service_help import Service, make_settings, running, small_service

from app.backend.backend import Backend
from app.batching.deadline import Cancelled
from app.jobs.jobs import Jobs
from app.jobs.storage import JobSpec
from app.protocols.native import jobs as native_jobs
from app.protocols.native import responses as answers
from app.types import Caller, Job, JobSource
from retrieval import IngestReport

SEARCH = "/v1/search"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("native")
    roots = folder / "readable"
    roots.mkdir()
    (roots / "note.md").write_text("# Note\n\nThe lift is out of order.")
    with small_service(folder, ingest_roots=(roots,)) as made:
        yield made


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as made:
        yield made


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    return found


def events(client: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = list(stream.iter_lines())
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_a_search_carries_everything(client: httpx.Client) -> None:
    response = client.post(
        SEARCH, json={"query": "when are expenses repaid?", "include_candidates": True}
    )
    assert response.status_code == 200
    found = response.json()
    answers.SearchAnswer.model_validate(found, strict=True)
    best = found["hits"][0]
    assert best["passage"]["document_id"] == "expenses"
    assert best["passage"]["metadata"]["team"] == "finance"
    assert best["passage"]["text"].startswith("Travel costs")
    assert (best["passage"]["start"], best["rank"], best["stage2_rank"]) == (0, 1, 1)
    assert 0 <= best["relevance"] <= 1
    assert found["timings_ms"]["total"] > 0
    assert found["models"]["reranker"]
    assert len(found["candidates"]) == 4
    assert found["request_id"] == response.headers["x-request-id"]
    assert found["collection"] == "docs"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"top_k": 1}, ["passwords"]),
        ({"where": {"team": "it"}, "rerank": False}, ["passwords", "backups"]),
        ({"where": {"or": [{"year": {"gte": 2025}}, {"tags": "travel"}]}}, {"backups", "expenses"}),
        ({"mode": "dense", "exact": True, "rerank": False, "top_k": 1}, ["passwords"]),
        ({"mode": "sparse", "rerank": False, "top_k": 1}, ["passwords"]),
        ({"fusion": {"method": "rrf", "k": 2, "weights": [1, 1, 0]}, "top_k": 1}, ["passwords"]),
        ({"blend": "rrf", "candidates": 2, "top_k": 1}, ["passwords"]),
        ({"budget_ms": 1000, "diversity": 0.5, "per_document": 1, "top_k": 1}, ["passwords"]),
        ({"timeout_ms": 30_000, "on_timeout": "first_stage", "top_k": 1}, ["passwords"]),
        ({"offset": 1, "rerank": False, "where": {"team": "it"}}, ["backups"]),
        ({"neighbours": 1, "top_k": 1}, ["passwords"]),
        ({"mode": "dense", "min_score": 0.99}, []),
        ({"min_relevance": 1.0}, []),
        ({"collection": "docs", "tenant": None, "refine": None, "top_k": 1}, ["passwords"]),
    ],
)
def test_every_option_reaches_the_search(
    client: httpx.Client, options: dict[str, Any], ids: list[str] | set[str]
) -> None:
    response = client.post(SEARCH, json={"query": "lost password sign-in", **options})
    assert response.status_code == 200, response.text
    found = [hit["passage"]["document_id"] for hit in response.json()["hits"]]
    assert (set(found) if isinstance(ids, set) else found) == ids


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "a\0b"}, "query"),
        ({"query": "a", "topk": 3}, "topk"),
        ({"query": "a", "top_k": 0}, "top_k"),
        ({"query": "a", "top_k": True}, "top_k"),
        ({"query": "a", "top_k": "3"}, "top_k"),
        ({"query": "a", "top_k": 10**30}, "top_k"),
        ({"query": "a", "diversity": 2}, "diversity"),
        ({"query": "a", "mode": "magic"}, "mode"),
        ({"query": "a", "where": []}, "where"),
        ({"query": "a", "where": {"a": 10**30}}, "where"),
        ({"query": "a", "where": {"a": "\0"}}, "where"),
        ({"query": "a", "fusion": {"weights": [1]}}, "fusion.weights"),
        ({"query": "a", "timeout_ms": -1}, "timeout_ms"),
    ],
)
def test_what_a_search_refuses(client: httpx.Client, body: dict[str, Any], param: str) -> None:
    assert problem(client.post(SEARCH, json=body), 422)["param"] == param


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ('{"query": "a", "min_score": NaN}', 422),
        ('{"query": "a", "where": {"x": Infinity}}', 422),
        ('{"query": "a", "where": {"x": "\\ud800"}}', 422),
        ('{"query": "\\ud800"}', 422),
        ('{"query": "a", "where": ' + '{"not": ' * 200 + "{}" + "}" * 201, 422),
        ('{"query": "a", "where": {"x": {"between": 1}}}', 422),
        ('{"query": "   "}', 422),
        ("[" * 50_000, 400),
    ],
)
def test_odd_json_is_refused(client: httpx.Client, content: str, status: int) -> None:
    headers = {"content-type": "application/json"}
    problem(client.post(SEARCH, content=content, headers=headers), status)


def test_a_search_elsewhere_is_not_found(client: httpx.Client) -> None:
    found = problem(client.post(SEARCH, json={"query": "a", "collection": "none"}), 404)
    assert found["code"] == "collection_not_found"
    for name in ("../docs", "docs/../docs", "docs@v1/x", "/etc", "."):
        problem(client.post(SEARCH, json={"query": "a", "collection": name}), 422)


def test_many_questions_at_once(client: httpx.Client) -> None:
    body = {"queries": ["soup on Fridays", "database copies"], "top_k": 1}
    found = client.post(f"{SEARCH}/batch", json=body).json()
    answers.BatchAnswer.model_validate(found, strict=True)
    assert [one["hits"][0]["passage"]["document_id"] for one in found["results"]] == [
        "lunch",
        "backups",
    ]
    problem(client.post(f"{SEARCH}/batch", json={"queries": []}), 422)
    problem(client.post(f"{SEARCH}/batch", json={"queries": ["a"] * 129}), 422)


def test_collections_and_documents_from_beginning_to_end(client: httpx.Client) -> None:
    made = client.post("/v1/collections", json={"name": "made", "fields": {"year": "number"}})
    assert made.status_code == 201, made.text
    answers.CollectionBody.model_validate(made.json(), strict=True)
    assert made.json()["passages"] == 0
    assert problem(client.post("/v1/collections", json={"name": "made"}), 409)["fix"]
    home = "/v1/collections/made/documents"
    document = {
        "id": "guide/a b.md#1",
        "text": "The gate closes at ten. Nobody is let in later.",
        "title": "Gate",
        "metadata": {"year": 2020, "deep": {"list": [1, None, "ü"]}},
        "source": "guide.md",
    }
    written = client.put(home, json={"documents": [document]})
    assert written.status_code == 200, written.text
    assert written.json()["documents"]["new"] == 1
    assert client.post(home, json={"documents": [document]}).json()["documents"]["unchanged"] == 1

    path = f"{home}/guide%2Fa%20b.md%231"
    stored = client.get(path).json()
    answers.DocumentBody.model_validate(stored, strict=True)
    assert {name: stored[name] for name in document} == document
    assert stored["complete"] is True
    hits = client.post(
        SEARCH, json={"query": "gate", "collection": "made", "where": {"year": 2020}}
    ).json()["hits"]
    assert [hit["passage"]["document_id"] for hit in hits] == [document["id"]]

    gone = client.post(f"{home}/delete", json={"ids": [document["id"], "other"]})
    assert gone.json() == {"deleted": [document["id"]], "missing": ["other"]}
    assert problem(client.get(path), 404)["code"] == "document_not_found"
    assert problem(client.delete(path), 404)["code"] == "document_not_found"
    names = [one["name"] for one in client.get("/v1/collections").json()["collections"]]
    assert names == ["docs", "made"]
    assert client.delete("/v1/collections/made").json()["deleted"] == ["made"]
    problem(client.get("/v1/collections/made"), 404)


def test_a_collection_is_made_with_the_services_models_only(
    client: httpx.Client, tmp_path: Path
) -> None:
    for name in (str(tmp_path), "somebody/model"):
        body = {"name": "odd", "encoder": name}
        assert problem(client.post("/v1/collections", json=body), 404)["code"] == "model_not_found"


def test_documents_of_the_default_collection(client: httpx.Client) -> None:
    body = {"documents": [{"id": "extra", "text": "An extra page."}]}
    assert client.post("/v1/documents", json=body).status_code == 200
    assert client.get("/v1/documents/extra").json()["text"] == "An extra page."
    assert client.delete("/v1/documents/extra").json() == {"deleted": ["extra"], "missing": []}


@pytest.mark.parametrize(
    "document",
    [
        {"id": "", "text": "a"},
        {"id": "a"},
        {"id": "a", "text": "a", "metadata": {"x": "\0"}},
        {"id": "a", "text": "a", "metadata": None},
        {"id": "a", "text": "a", "other": 1},
        {"id": 7, "text": "a"},
    ],
)
def test_documents_that_cannot_be_written(client: httpx.Client, document: Any) -> None:
    good = {"id": "good", "text": "good"}
    problem(client.post("/v1/documents", json={"documents": [good, document]}), 422)
    problem(client.get("/v1/documents/good"), 404)  # nothing of it was written


def test_files_are_ingested_in_the_background(client: httpx.Client) -> None:
    files = [
        ("files", ("../../parking.md", b"# Parking\n\nThere are forty places for cars.")),
        ("files", ("broken.pdf", b"%PDF-1.7 broken")),
    ]
    response = client.post("/v1/ingest", files=files, data={"collection": "uploads"})
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    seen = events(client, job["id"])
    for one in seen:
        answers.JobBody.model_validate(one, strict=True)
    last = seen[-1]
    assert last["state"] == "done", last
    assert [one["source"] for one in last["report"]["problems"]] == ["broken.pdf"]
    assert client.get(f"/v1/jobs/{job['id']}").json() == last
    assert last in client.get("/v1/jobs").json()["jobs"]
    hits = client.post(SEARCH, json={"query": "cars", "collection": "uploads"}).json()["hits"]
    assert hits[0]["passage"]["source"] == "parking.md"
    assert problem(client.delete(f"/v1/jobs/{job['id']}"), 409)["code"] == "conflict"


def test_documents_and_paths_are_ingested_in_the_background(
    client: httpx.Client, service: Service
) -> None:
    path = str(service.settings.ingest_roots[0])
    body: dict[str, Any]
    for body in (
        {"documents": [{"id": "one", "text": "One more page."}], "collection": "jobs"},
        {"path": path, "collection": "jobs"},
    ):
        response = client.post("/v1/ingest", json=body)
        assert response.status_code == 202, response.text
        assert events(client, response.json()["id"])[-1]["state"] == "done"
    passages = client.get("/v1/collections/jobs").json()["passages"]
    assert passages == 2


def test_what_ingest_refuses(client: httpx.Client) -> None:
    assert problem(client.post("/v1/ingest", json={}), 422)["code"] == "invalid_input"
    assert problem(client.post("/v1/ingest", json={"pth": "x"}), 422)["param"] == "pth"
    both = {"path": "/x", "documents": [{"id": "a", "text": "b"}]}
    problem(client.post("/v1/ingest", json=both), 422)
    problem(client.post("/v1/ingest", json={"path": "/etc"}), 403)
    problem(client.post("/v1/ingest", content=b"x", headers={"content-type": "text/csv"}), 415)
    problem(
        client.post("/v1/ingest", content=b"{", headers={"content-type": "application/json"}), 400
    )
    broken = {"content-type": "multipart/form-data; boundary=x"}
    problem(client.post("/v1/ingest", content=b"--y\r\nno form", headers=broken), 400)
    problem(client.post("/v1/ingest", data={"collection": "x"}, files={"other": b"x"}), 422)
    odd = client.post("/v1/ingest", data={"prune": "maybe"}, files={"files": ("a.txt", b"x")})
    assert problem(odd, 422)["param"] == "prune"
    for address in ("/v1/jobs/none", "/v1/jobs/none/events"):
        assert problem(client.get(address), 404)["code"] == "job_not_found"


class OfJobs:
    """What the routes of jobs need of a backend, over real jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = self
        self._jobs = jobs

    def get(self, caller: Caller, job_id: str) -> Job:
        return self._jobs.get(job_id)

    def watch(self, caller: Caller, job_id: str) -> AsyncGenerator[Job, None]:
        return self._jobs.watch(job_id)


def test_a_quiet_stream_is_kept_alive_and_ends_with_its_client(tmp_path: Path) -> None:
    def run(spec: JobSpec, home: Path, progress: Any, cancelled: threading.Event) -> IngestReport:
        cancelled.wait(60)
        raise Cancelled

    jobs = Jobs(tmp_path, run)
    app = FastAPI()
    backend = cast(Backend, OfJobs(jobs))
    app.include_router(native_jobs.router(backend, make_settings(tmp_path), heartbeat_s=0.05))
    job = jobs.start(JobSource(documents=[]), key_id="k", collection="docs")
    try:
        with running(app) as url, httpx.Client(base_url=url, timeout=20) as client:
            with client.stream("GET", f"/v1/jobs/{job.id}/events") as stream:
                lines = stream.iter_lines()
                comments = [line for line in itertools.islice(lines, 12) if line.startswith(":")]
                assert comments
                assert jobs.watching == 1
            deadline = time.monotonic() + 10
            while jobs.watching and time.monotonic() < deadline:
                time.sleep(0.02)
            assert jobs.watching == 0
            assert jobs.get(job.id).state == "running"  # which its watcher does not end
    finally:
        jobs.close(10)


def test_models_and_the_service_itself(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()
    answers.ModelsBody.model_validate(models, strict=True)
    assert [one["kind"] for one in models["data"]] == ["encoder", "reranker"]
    for one in models["data"]:
        assert client.get(f"/v1/models/{one['id']}").json() == one
    assert problem(client.get("/v1/models/gpt-9"), 404)["code"] == "model_not_found"
    about = client.get("/v1/service").json()
    answers.ServiceBody.model_validate(about)
    assert about["default_collection"] == "docs"
    assert all(math.isfinite(value) for value in about["limits"].values())


def test_the_document_is_complete(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    native = {
        path: operations
        for path, operations in document["paths"].items()
        if path.startswith(("/v1/search", "/v1/collections", "/v1/documents", "/v1/ingest"))
    }
    assert len(native) == 11
    for operations in native.values():
        for operation in operations.values():
            assert {"400", "401", "403", "422", "429", "503", "504"} <= operation[
                "responses"
            ].keys()
            assert operation["summary"]
    schemas = document["components"]["schemas"]
    for name in ("SearchRequest", "BatchRequest", "UpsertRequest", "CreateCollection"):
        assert schemas[name]["examples"]
        assert schemas[name]["additionalProperties"] is False
    assert schemas["SearchRequest"]["properties"]["where"]["examples"]
