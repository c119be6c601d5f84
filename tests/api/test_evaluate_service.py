"""A running service is measured as its clients see it; what stands in the way is a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_help import running, small_service

from app.security import api_keys
from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.evaluate_service import evaluate_service
from retrieval.errors import CollectionNotFound, Fault, InvalidInput, RetrievalError

ROWS = [
    ("how are travel costs paid back", "office/expenses.md"),
    ("I lost my password", "passwords"),
    ("what is for lunch", "lunch.md"),
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("questions") / "own.csv"
    rows = "\n".join(",".join(row) for row in ROWS)
    table.write_text(f"query,relevant\n{rows}\n")
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with small_service(folder) as service:
        yield service.url


def test_a_service_has_the_figures_of_its_own_collection(
    url: str, folder: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import shutil

    copy = tmp_path_factory.mktemp("copy") / "store"  # the service has its own open
    shutil.copytree(folder / "store", copy)
    told: list[tuple[str, int, int]] = []
    served = evaluate_service(
        questions, url, measures=["nDCG@10", "MRR@10"], on_search=lambda *one: told.append(one)
    )
    ours = evaluate_folder(
        questions, collection="docs", store=copy, reranker="maxsim", measures=["nDCG@10", "MRR@10"]
    )
    assert [row.name for row in served.rows] == [row.name for row in ours.rows]
    for one, other in zip(served.rows, ours.rows, strict=True):
        assert one.measures == other.measures
        assert one.blend == other.blend
        assert one.ms_per_query is not None
        assert one.ms_per_query > 0
    assert (served.encoder, served.reranker) == (ours.encoder, ours.reranker)
    assert (served.depth, served.batch_size, served.candidates) == (10, 1, 4)
    assert ("hybrid", 3, 3) in told
    assert served.origin["parameters"]["about"]["name"] == "two-stage-retrieval"
    assert served.origin["parameters"]["service"] == url


def test_options_are_sent_or_refused(url: str, questions: Path) -> None:
    report = evaluate_service(
        questions, url, modes=["dense"], candidates=2, measures=["P@1"], blend="none", limit=1
    )
    assert (report.candidates, report.rows[1].blend, report.queries) == (2, "none", 1)
    with pytest.raises(InvalidInput, match=r"refuses the search: .*candidates"):
        evaluate_service(questions, url, modes=["dense"], candidates=10**6)
    alone = evaluate_service(questions, url, modes=["sparse"], rerank=False)
    assert [row.name for row in alone.rows] == ["sparse"]
    assert alone.depth == 100


def test_names_that_are_never_met_are_told(url: str, tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("query,relevant\nlost password,passwords;gone.md\n")
    report = evaluate_service(table, url, modes=["dense"], rerank=False)
    assert report.rows[0].measures["recall@100"] == 0.5
    assert any("1 of 2 names of relevant documents were never met" in n for n in report.notices)


def test_a_collection_that_is_not_there(url: str, questions: Path) -> None:
    with pytest.raises(CollectionNotFound, match="no collection 'gone'"):
        evaluate_service(questions, url, collection="gone", modes=["dense"])


def test_keys(questions: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    reader = api_keys.create(file, "reader", write=False)[0]
    elsewhere = api_keys.create(file, "elsewhere", collections=["other"])[0]
    with small_service(tmp_path, keys=api_keys.KeyRing.load(file)) as service:
        for wrong in (None, "x" * 32):
            with pytest.raises(InvalidInput, match="refuses the key"):
                evaluate_service(questions, service.url, api_key=wrong, modes=["dense"])
        with pytest.raises(CollectionNotFound, match="no collection"):
            evaluate_service(
                questions, service.url, api_key=elsewhere, collection="docs", modes=["dense"]
            )
        report = evaluate_service(questions, service.url, api_key=reader, modes=["dense"], limit=1)
        assert report.queries == 1
        assert reader not in str(report.as_dict())


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:9", "no service answers at http://127.0.0.1:9"),
        ("127.0.0.1:7860", "expected its address"),
        ("http://me:secret@127.0.0.1:7860", "holds a name or a password"),
        ("http://", "no service answers|cannot be called"),
    ],
)
def test_a_service_that_is_not_there(questions: Path, address: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        evaluate_service(questions, address, modes=["dense"])


class Scripted:
    """Another service: answers as it is told, whatever it is asked."""

    def __init__(self, *answers: tuple[int, bytes, dict[str, str]]) -> None:
        self.answers = list(answers)

    async def __call__(self, scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
        if scope["type"] == "lifespan":
            return
        status, body, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        found = [(k.encode(), v.encode()) for k, v in headers.items()]
        start = {"type": "http.response.start", "status": status, "headers": found}
        await send(start)  # type: ignore[operator]
        await send({"type": "http.response.body", "body": body})  # type: ignore[operator]


HTML = {"content-type": "text/html; charset=utf-8"}
JSON = {"content-type": "application/json"}
BUSY = b'{"error": {"problem": "too many requests", "fix": "Wait.", "code": "rate_limited"}}'
FAULT = b'{"error": {"problem": "the disk is gone", "fix": "Mount it.", "code": "internal"}}'


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ((404, b"<h1>nothing</h1>", HTML), InvalidInput, r"not a service .*HTTP 404, text/html"),
        ((200, b"{}", JSON), InvalidInput, r"not a service of this library \(HTTP 200"),
        ((200, b"[1]", JSON), InvalidInput, "not a service"),
        ((200, b'{"hits": ', JSON), InvalidInput, "not a service"),
        ((500, FAULT, JSON), Fault, "failed: the disk is gone. Mount it"),
        ((503, b"", {}), InvalidInput, "HTTP 503, no content type"),
    ],
)
def test_other_answers_are_sentences(
    questions: Path,
    answer: tuple[int, bytes, dict[str, str]],
    kind: type[RetrievalError],
    told: str,
) -> None:
    with running(Scripted(answer)) as url, pytest.raises(kind, match=told):
        evaluate_service(questions, url, modes=["dense"])


def test_a_busy_service_is_waited_for_and_the_wait_is_no_time_of_the_search(
    questions: Path, url: str
) -> None:
    real = httpx.post(f"{url}/v1/search", json={"query": "lunch", "mode": "dense"}).content
    about = httpx.get(f"{url}/v1/service").content
    busy = (429, BUSY, {**JSON, "retry-after": "0.4"})
    with running(Scripted(busy, (200, real, JSON), (200, about, JSON))) as other:
        report = evaluate_service(questions, other, modes=["dense"], rerank=False, limit=1)
    assert report.rows[0].ms_per_query is not None
    assert report.rows[0].ms_per_query < 350
    with (
        running(Scripted((429, BUSY, {**JSON, "retry-after": "0"}))) as other,
        pytest.raises(Fault, match="too many requests"),
    ):
        evaluate_service(questions, other, modes=["dense"], limit=1)
