"""A calibrated collection behind the service: probabilities and promised thresholds everywhere."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_help import Service, make_settings, small_service

import retrieval
from app.backend.backend import Backend
from retrieval.api.calibrate import calibrate
from retrieval.cli.main import run
from retrieval.errors import InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.index.store import Store

THINGS = re.findall(
    r"\w+",
    """
anchor apron axe bag ball barrel basin basket bed bell belt bench bicycle boat book boot bottle
bowl box bridge broom brush bucket button cabin cable candle car carpet cart chain chair chest
clock coat comb cup curtain desk door drawer drum fan fence flag flute fork frame gate glass glove
guitar hammer hat helmet kettle key kite knife ladder lamp lantern lock
""",
)
BATCH = "/v1/search/batch"
QUESTION = "who made the kettle?"
OFF_TOPIC = "what does photosynthesis need?"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("calibrated")
    store = Store(folder / "store")
    documents = [
        retrieval.Document(f"{name}.txt", f"The {name} was made by workshop number {number}.")
        for number, name in enumerate(THINGS)
    ]
    retrieval.ingest(documents, "docs", store=store, encoder="all-MiniLM-L6-v2")
    queries = {name: f"who made the {name}?" for name in THINGS}
    judged = JudgedQueries("things", "test", queries, {n: {f"{n}.txt": 1} for n in THINGS})
    calibrate(judged, store=store, reranker="maxsim", names={"strict": "precision:0.8"})
    log = folder / "logs" / "searches.jsonl"
    with small_service(folder, search_log=log, search_log_texts=True) as running:
        yield running


def asked(service: Service, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize("least", ["recall:0.9", "strict", 0.5])
def test_v1_search_takes_promises_and_names(service: Service, least: Any) -> None:
    found = asked(service, "/v1/search", {"query": QUESTION, "min_relevance": least}).json()
    result = found
    assert result["relevance_is"] == "probability"
    assert [hit["passage"]["document_id"] for hit in result["hits"]] == ["kettle.txt"]
    nothing = asked(service, "/v1/search", {"query": OFF_TOPIC, "min_relevance": least}).json()
    result = nothing
    assert result["hits"] == []


@pytest.mark.parametrize(
    ("least", "words"),
    [("recal:0.9", "recall:LEVEL"), (1.5, "1"), ("recall:0.9999", "give thresholds up to")],
)
def test_a_threshold_that_is_none_is_refused(service: Service, least: Any, words: str) -> None:
    answer = asked(service, "/v1/search", {"query": QUESTION, "min_relevance": least})
    assert answer.status_code in (400, 422)
    assert words in answer.text


def test_an_answer_without_sources_asks_no_model(service: Service) -> None:
    body = {"question": OFF_TOPIC, "min_relevance": "recall:0.9", "generate": False}
    assert asked(service, "/v1/answer", body).json()["found"] is False
    body["question"] = QUESTION
    assert asked(service, "/v1/answer", body).json()["found"] is True


def test_score_thresholds_of_other_formats_are_probabilities(service: Service) -> None:
    def dify(query: str) -> list[str]:
        setting = {"top_k": 5, "score_threshold": 0.5}
        body = {"knowledge_id": "docs", "query": query, "retrieval_setting": setting}
        records = asked(service, "/retrieval", body).json()["records"]
        return [one["metadata"]["document_id"] for one in records]

    def vector_store(query: str) -> list[str]:
        body = {"query": query, "ranking_options": {"score_threshold": 0.5}}
        page = asked(service, "/v1/vector_stores/docs/search", body).json()
        return [one["file_id"] for one in page["data"]]

    for search in (dify, vector_store):
        assert search(QUESTION) == ["kettle.txt"]
        assert search(OFF_TOPIC) == []


def test_a_running_service_notices_what_is_decided(service: Service) -> None:
    store = Store(service.settings.store)
    kept = store.manifest("docs").tuning.calibration

    def becomes(wanted: str) -> None:
        until = time.monotonic() + 20
        while True:
            found = asked(service, "/v1/search", {"query": QUESTION}).json()
            result = found
            if result["relevance_is"] == wanted:
                return
            assert time.monotonic() < until
            time.sleep(0.2)

    store.set_calibration("docs", None)
    becomes("cosine")
    store.set_calibration("docs", kept)
    becomes("probability")


def metric(service: Service, name: str) -> dict[str, float]:
    lines = httpx.get(f"{service.url}/metrics", timeout=60).text.splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith(f"retrieval_{name}")]
    return {labels: float(value) for labels, _, value in found}


def test_searches_are_logged_counted_and_compared(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [f"who made the {name}?" for name in THINGS]
    for _ in range(2):
        assert asked(service, BATCH, {"queries": queries, "min_relevance": 0.3}).is_success
    log = service.settings.search_log
    assert log is not None
    assert log.stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last = lines[-1]
    assert (last["collection"], last["query"], last["hits"]) == ("docs", queries[-1], 1)
    assert last["characters"] == len(queries[-1])
    assert last["relevance_is"] == "probability"
    assert last["best_relevance"] > 0.5
    psi = metric(service, "search_drift_psi")
    assert psi['retrieval_search_drift_psi{collection="docs",of="relevance"}'] < 0.25
    command = ["drift", "docs", "--store", service.settings.store, "--log", str(log)]
    since = lines[-2 * len(queries)]["time"]
    assert run([*command, "--since", since, "--check"]) == 0
    assert "The calibration still fits" in capsys.readouterr().out
    off = [f"what does {name} need for photosynthesis and growth in spring?" for name in THINGS]
    for _ in range(4):
        assert asked(service, BATCH, {"queries": off, "min_relevance": 0.3}).is_success
    assert sum(metric(service, "search_unanswered_share").values()) > 0.3
    assert run([*command, "--since", since, "--check"]) == 3
    assert "Label again" in capsys.readouterr().out


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"search_log .* cannot be written"):
        Backend(make_settings(tmp_path, search_log=tmp_path / "file" / "log.jsonl"))
    silent = Backend(make_settings(tmp_path, search_log=tmp_path / "log.jsonl"))
    silent.close()
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == ""
