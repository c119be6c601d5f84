"""The backend over real stores: who may do what, deadlines, writes, shared models, outages."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from doubles.qdrant_http import qdrant_http
from doubles.tcp_proxy import tcp_proxy
from hashing_encoder import HashingEncoder

import retrieval
from app.backend.backend import Backend
from app.errors import (
    Conflict,
    DeadlinePassed,
    Forbidden,
    NotHere,
    Overloaded,
    Stopping,
    http_status,
)
from app.settings.settings import Settings
from app.types import Caller, JobSource, Observer
from retrieval import Document
from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    InvalidQuery,
    ModelFault,
    ModelNotFound,
    RetrievalError,
    StoreFault,
)
from retrieval.types import ModelSpec, RerankerInfo, Scores

T = TypeVar("T")
ANYONE = Caller()
DOCUMENTS = [
    Document("oak", "Oaks are trees. They bear acorns.", "Oak", {"kind": "tree"}, "oak.txt"),
    Document("bee", "Bees dance to tell where the flowers are.", "Bee", {"kind": "insect"}),
    Document("ant", "Ants follow a scent to where the food is.", "Ant", {"kind": "insect"}),
]


class WordReranker:
    """Scores by shared words; can be held, made to fail, or slow."""

    def __init__(self) -> None:
        self.info = RerankerInfo("words", "sha256:words", "cross-encoder", 64)
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.seconds_a_pair = 0.0
        self.fault: RetrievalError | None = None

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.begun.set()
        assert self.go.wait(20)
        time.sleep(self.seconds_a_pair * len(pairs))
        if self.fault is not None:
            raise self.fault
        values = [len(set(q.lower().split()) & set(p.lower().split())) for q, p in pairs]
        return Scores(np.array(values, np.float64), np.zeros(len(pairs), np.bool_))

    def relevance(self, scores: Any) -> Any:
        return 1 / (1 + np.exp(-scores))


class Counting(Observer):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.refused: list[str] = []

    def stage(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(name)

    def shed(self, reason: str) -> None:
        self.refused.append(reason)


class Made:
    """A backend with what it was made of."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.encoder = HashingEncoder()
        self.reranker = WordReranker()
        self.observer = Counting()
        self.settings = Settings(
            **{"store": str(folder / "store"), "reranker": "none", "grace_s": 5, **options}
        )
        self.backend = Backend(
            self.settings, observer=self.observer, encoder=self.encoder, reranker=self.reranker
        )


Make = Callable[..., Made]
Held = tuple[threading.Event, threading.Event]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Factory: `make(max_requests=…)`, a backend over an empty store; closed at the end."""
    made: list[Made] = []

    def factory(**options: Any) -> Made:
        one = Made(tmp_path, **options)
        made.append(one)
        return one

    yield factory
    for one in made:
        one.reranker.go.set()
        one.backend.close()


@pytest.fixture
def filled(make: Make) -> Made:
    one = make()
    run(one.backend.documents.upsert(ANYONE, DOCUMENTS))
    return one


CALLS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "search": lambda on, caller, **where: on.search(caller, ["where"], **where),
    "get": lambda on, caller, **where: on.documents.get(caller, "bee", **where),
    "upsert": lambda on, caller, **where: on.documents.upsert(caller, DOCUMENTS, **where),
    "delete": lambda on, caller, **where: on.documents.delete(caller, ["bee"], **where),
    "look at": lambda on, caller, collection: on.collections.get(caller, collection),
    "create": lambda on, caller, collection: on.collections.create(caller, collection),
    "drop": lambda on, caller, collection: on.collections.delete(caller, collection),
}
"""What a caller may do with a collection: the backend, the caller → the call."""
WRITES = ("upsert", "delete", "create", "drop")


def refused(
    error: type[RetrievalError], names: Iterable[str], *who: Any, **where: Any
) -> list[str]:
    """What those of `CALLS` say that all raise this error."""
    said = []
    for name in names:
        with pytest.raises(error) as caught:
            run(CALLS[name](*who, **where))
        said.append(str(caught.value))
    return said


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 30)

    return asyncio.run(bounded())


def ids(results: Any) -> list[str]:
    return [hit.passage.document_id for hit in results[0].hits]


# --- documents and searches -----------------------------------------------------------------


def test_what_is_written_is_found_changed_and_deleted(make: Make) -> None:
    backend = make().backend
    report = run(backend.documents.upsert(ANYONE, DOCUMENTS))
    assert (report.new, report.passages, report.collection) == (3, 3, "docs")
    assert ids(run(backend.search(ANYONE, ["where do bees dance"])))[0] == "bee"
    changed = Document("bee", "Bees sleep at night.", "Bee")
    report = run(backend.documents.upsert(ANYONE, [changed, DOCUMENTS[0]]))
    assert (report.new, report.changed, report.unchanged) == (0, 1, 1)
    found = run(backend.search(ANYONE, ["bees sleep"], top_k=1))
    assert found[0].hits[0].passage.text == "Bees sleep at night."
    assert run(backend.documents.delete(ANYONE, ["bee", "wasp", "bee"])) == ("bee",)
    assert "bee" not in ids(run(backend.search(ANYONE, ["bees sleep"])))
    with pytest.raises(NotHere, match="no document 'bee'") as caught:
        run(backend.documents.get(ANYONE, "bee"))
    assert caught.value.code == "document_not_found"
    info = run(backend.collections.get(ANYONE, None))
    assert (info.name, info.passages, info.version, info.default) == ("docs", 2, "docs@v1", True)


def test_a_document_comes_back_as_it_was(make: Make) -> None:
    backend = make().backend
    text = "\n\n".join(f"Paragraph {n} says: {'word ' * 30}ends." for n in range(12))
    given = Document("long", text, "A title", {"n": 1, "tags": ["a"]}, "long.txt")
    run(backend.documents.upsert(ANYONE, [given]))
    stored = run(backend.documents.get(ANYONE, "long"))
    assert len(stored.passages) > 3
    assert stored.text.split() == text.split()
    assert stored.complete
    assert (stored.title, stored.source, stored.metadata) == ("A title", "long.txt", given.metadata)
    passages = [p.id for p in stored.passages]
    with backend._opened.using("docs") as retriever:
        retriever.index.delete_passages(passages[1:2])
    assert not run(backend.documents.get(ANYONE, "long")).complete


def test_every_option_of_the_library_is_reachable(filled: Made) -> None:
    search = filled.backend.search
    only = run(search(ANYONE, ["where"], where={"kind": "tree"}, mode="dense"))
    assert ids(only) == ["oak"]
    first, second = run(search(ANYONE, ["oak", "bee"], top_k=1, neighbours=1, rerank=False))
    assert (first.hits[0].passage.document_id, first.reranker) == ("oak", None)
    assert second.hits[0].passage.document_id == "bee"
    with pytest.raises(InvalidInput, match=r"no search option 'topk'; expected one of .*top_k"):
        run(search(ANYONE, ["oak"], topk=3))
    with pytest.raises(InvalidQuery):
        run(search(ANYONE, ["  "]))
    assert run(search(ANYONE, [])) == []
    assert filled.observer.stages[:4] == ["encode", "retrieve", "rerank", "search"]


def test_many_requests_at_once_are_answered_as_one_by_one(filled: Made) -> None:
    queries = [f"{word} {n}" for n in range(20) for word in ("oak", "bee", "ant")]
    alone = [ids(run(filled.backend.search(ANYONE, [query]))) for query in queries]

    async def together() -> list[Any]:
        return await asyncio.gather(*(filled.backend.search(ANYONE, [q]) for q in queries))

    assert [ids(results) for results in run(together())] == alone


def test_a_large_upsert_makes_a_new_collection_in_two_steps(make: Make) -> None:
    backend = make().backend
    many = [Document(f"d{n}", f"The number {n} is green.", metadata={"n": n}) for n in range(450)]
    report = run(backend.documents.upsert(ANYONE, [*many, many[0]], collection="new"))
    assert (report.read, report.new, report.unchanged) == (451, 450, 0)
    assert report.passages == 450
    assert len(report.failed) == 1  # the repeated id
    info = run(backend.collections.get(ANYONE, "new"))
    assert info.passages == 450
    assert info.manifest.storage.fields == {"n": "number"}


def test_an_empty_upsert_makes_nothing(make: Make) -> None:
    one = make()
    with pytest.raises(InvalidInput, match="no document to make it with"):
        run(one.backend.documents.upsert(ANYONE, []))
    assert run(one.backend.collections.list(ANYONE)) == []


# --- collections ----------------------------------------------------------------------------


def test_collections_are_made_listed_and_deleted(make: Make) -> None:
    backend = make(collection="b").backend
    made = run(backend.collections.create(ANYONE, "b", max_tokens=40, fields={"n": "number"}))
    assert made.manifest.splitter.max_tokens == 40
    assert (made.passages, made.default) == (0, True)
    run(backend.documents.upsert(ANYONE, DOCUMENTS, collection="a"))
    listed = run(backend.collections.list(ANYONE))
    assert [(one.name, one.passages) for one in listed] == [("a", 3), ("b", 0)]
    with pytest.raises(CollectionExists):
        run(backend.collections.create(ANYONE, "b"))
    with pytest.raises(InvalidInput, match="no option 'dimension'; it has encoder"):
        run(backend.collections.create(ANYONE, "c", dimension=3))
    run(backend.collections.delete(ANYONE, "a"))
    for call in (backend.collections.get, backend.collections.delete):
        with pytest.raises(CollectionNotFound, match="no collection 'a'; there are 'b'"):
            run(call(ANYONE, "a"))
    run(backend.documents.upsert(ANYONE, DOCUMENTS[:1], collection="a"))  # the name is free again
    assert run(backend.collections.get(ANYONE, "a")).passages == 1


@pytest.mark.parametrize(
    "name", ["../x", "..", "/etc", "a/b", "", "docs@v1", "a\0b", "\ud800", "x" * 65, ".hidden", "%"]
)
def test_no_name_leaves_the_store(make: Make, name: str, tmp_path: Path) -> None:
    backend = make().backend
    before = sorted(tmp_path.rglob("*"))
    said = refused(InvalidInput, CALLS, backend, ANYONE, collection=name)
    assert all("collection name" in one for one in said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_version_that_is_switched_to_is_followed(filled: Made) -> None:
    store = retrieval.Store(filled.settings.store)
    retrieval.ingest(
        [Document("new", "A new world.")], store=store, encoder=filled.encoder, version="docs@v2"
    )
    store.switch("docs", "docs@v2")
    end = time.monotonic() + 20
    while ids(run(filled.backend.search(ANYONE, ["world"]))) != ["new"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert run(filled.backend.collections.get(ANYONE, "docs")).version == "docs@v2"
    run(filled.backend.documents.upsert(ANYONE, DOCUMENTS[:1]))
    assert run(filled.backend.collections.get(ANYONE, "docs")).passages == 2


# --- who may do what ------------------------------------------------------------------------


def test_only_who_may_write_writes(filled: Made, make: Make) -> None:
    reader = Caller("reader", write=False)
    sealed = make(read_only=True)  # another process would have the store; here nothing is opened
    for backend, caller in ((filled.backend, reader), (sealed.backend, ANYONE)):
        refused(Forbidden, WRITES, backend, caller, collection="docs")
    assert len(ids(run(filled.backend.search(reader, ["where"])))) == 3


def test_what_a_caller_may_not_use_looks_as_if_not_there(make: Make) -> None:
    backend = make().backend
    for name in ("docs", "mine", "secret"):
        run(backend.documents.upsert(ANYONE, DOCUMENTS, collection=name))
    limited = Caller("k", collections=("mine", "coming"))
    there, missing = (
        refused(CollectionNotFound, CALLS, backend, limited, collection=name)
        for name in ("secret", "nothing")
    )
    assert there == [said.replace("nothing", "secret") for said in missing]
    assert "'coming', 'mine'" in there[0]
    assert "docs" not in there[0]
    assert [one.name for one in run(backend.collections.list(limited))] == ["mine"]
    with pytest.raises(InvalidInput, match="names no collection"):
        run(backend.search(limited, ["x"]))
    run(backend.collections.create(limited, "coming"))
    only = Caller("k", collections=("mine",))
    assert backend.collections.default(only) == "mine"
    assert ids(run(backend.search(only, ["bees dance"])))[0] == "bee"
    with pytest.raises(CollectionNotFound, match="there is no collection 'gone'") as caught2:
        run(backend.search(Caller("k", collections=("gone",)), ["x"]))
    assert "secret" not in str(caught2.value)


def test_a_caller_with_a_tenant_is_that_tenant(make: Make) -> None:
    backend = make().backend
    a, b = Caller("a", tenant="a"), Caller("b", tenant="b")
    run(backend.documents.upsert(a, DOCUMENTS[:2]))  # makes a collection with tenants
    run(backend.documents.upsert(b, DOCUMENTS[1:]))
    assert run(backend.collections.get(a, "docs")).manifest.layout.tenants
    assert sorted(ids(run(backend.search(a, ["where"])))) == ["bee", "oak"]
    assert sorted(ids(run(backend.search(b, ["where"])))) == ["ant", "bee"]
    assert run(backend.collections.get(a, "docs")).passages == 2
    assert run(backend.collections.get(ANYONE, "docs")).passages == 4
    with pytest.raises(NotHere):
        run(backend.documents.get(a, "ant"))
    assert run(backend.documents.delete(a, ["ant", "bee"])) == ("bee",)
    assert run(backend.documents.get(b, "bee")).id == "bee"
    assert ids(run(backend.search(ANYONE, ["where"], tenant="a"))) == ["oak"]
    assert ids(run(backend.search(a, ["where"], tenant="a"))) == ["oak"]
    refused(Forbidden, ("search", "get", "upsert", "delete"), backend, a, tenant="b")
    refused(Forbidden, ("drop",), backend, a, collection="docs")
    with pytest.raises(InvalidInput, match="names none"):
        run(backend.search(ANYONE, ["where"]))
    run(backend.documents.upsert(ANYONE, DOCUMENTS, collection="open"))
    hidden = ("search", "get", "upsert", "delete", "look at")
    refused(CollectionNotFound, hidden, backend, a, collection="open")
    assert [one.name for one in run(backend.collections.list(a))] == ["docs"]
    assert run(backend.collections.create(a, "more")).manifest.layout.tenants
    with pytest.raises(InvalidInput, match="without tenants"):
        run(backend.documents.upsert(ANYONE, DOCUMENTS, collection="open", tenant="a"))


# --- texts alone ----------------------------------------------------------------------------


def test_vectors_are_the_encoders_own(filled: Made) -> None:
    texts = ["one text", "another", "one text"]
    found = run(filled.backend.texts.embed(ANYONE, texts, kind="passage"))
    expected = filled.encoder.encode_passages(texts)
    assert np.array_equal(found.vectors, expected.vectors)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.model == "hashing"
    queries = run(filled.backend.texts.embed(ANYONE, texts, kind="query", dimensions=64))
    assert np.allclose(queries.vectors, filled.encoder.encode_queries(texts))
    with pytest.raises(InvalidInput, match="dimensions is 32, and hashing gives vectors of 64"):
        run(filled.backend.texts.embed(ANYONE, texts, kind="query", dimensions=32))


def test_vectors_are_cut_only_where_the_model_was_trained_for_it(
    filled: Made, monkeypatch: Any
) -> None:
    embed = filled.backend.texts.embed
    spec = ModelSpec("hashing", "encoder", dimension=64, matryoshka=(16, 32))
    monkeypatch.setattr("retrieval.models.registry.find", lambda *_: spec)
    whole = run(embed(ANYONE, ["one text", "another"], kind="query")).vectors
    cut = run(embed(ANYONE, ["one text", "another"], kind="query", dimensions=16)).vectors
    assert cut.shape == (2, 16)
    assert cut.dtype == np.float32
    for short, long in zip(cut, whole, strict=True):
        length = np.linalg.norm(long[:16])
        assert np.allclose(short, long[:16] / length if length else 0)
    for wrong in (15, 0, -1, 65, True):
        with pytest.raises(InvalidInput, match="gives vectors of 64 or 16 or 32"):
            run(embed(ANYONE, ["one text"], kind="query", dimensions=wrong))


def test_texts_are_scored_in_their_order(filled: Made) -> None:
    texts = ["nothing here", "bees dance", "dance dance", ""]
    found = run(filled.backend.texts.rerank(ANYONE, "bees dance", texts))
    assert found.scores.tolist() == [0.0, 2.0, 1.0, 0.0]
    assert (np.argsort(found.relevance) == np.argsort(found.scores)).all()
    assert (len(found.tokens), len(found.truncated), found.model) == (4, 4, "words")


@pytest.mark.parametrize("texts", [[], "text", ["a", ""], ["a", "  "], ["\ud800"], ["a", 3]])
def test_what_is_no_text_is_refused(filled: Made, texts: Any) -> None:
    with pytest.raises(InvalidInput):
        run(filled.backend.texts.embed(ANYONE, texts, kind="query"))
    if texts not in (["a", ""], ["a", "  "]):
        with pytest.raises(InvalidInput):
            run(filled.backend.texts.rerank(ANYONE, "a", texts))
    with pytest.raises(InvalidInput):
        run(filled.backend.texts.rerank(ANYONE, " ", ["a"]))


def test_an_encoder_without_term_weights_says_which_has(filled: Made) -> None:
    with pytest.raises(InvalidInput, match="bge-m3"):
        run(filled.backend.texts.embed_sparse(ANYONE, ["a"], kind="query"))


def test_models_go_by_their_names_and_aliases(make: Make) -> None:
    aliases = {"text-embedding-3-small": "encoder", "rerank-v3.5": "words", "h": "hashing"}
    backend = make(model_aliases=aliases).backend
    for name in (None, "hashing", "encoder", "default", "text-embedding-3-small", "h"):
        assert run(backend.texts.embed(ANYONE, ["a"], kind="query", model=name)).model == "hashing"
    for name in (None, "words", "reranker", "default", "rerank-v3.5"):
        assert run(backend.texts.rerank(ANYONE, "a", ["a"], model=name)).model == "words"
    with pytest.raises(NotHere, match="no encoder 'words'; it has 'hashing'") as caught:
        run(backend.texts.embed(ANYONE, ["a"], kind="query", model="words"))
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotHere, match="no reranker 'h'"):
        run(backend.texts.rerank(ANYONE, "a", ["a"], model="h"))
    encoder, reranker = backend.models.infos()
    assert encoder.names == ("hashing", "encoder", "default", "text-embedding-3-small", "h")
    assert (encoder.kind, encoder.dimension, encoder.default) == ("encoder", 64, True)
    assert reranker.names == ("words", "reranker", "default", "rerank-v3.5")


def test_collections_of_one_encoder_share_it(tmp_path: Path, tiny_bert_encoder: Path) -> None:
    store = tmp_path / "store"
    for name in ("docs", "more"):
        retrieval.ingest(DOCUMENTS, name, store=store, encoder=str(tiny_bert_encoder))
    backend = Backend(Settings(store=str(store), reranker="none", threads=1))
    with closing(backend):
        for name in ("docs", "more"):
            assert run(backend.search(ANYONE, ["bees"], collection=name))[0].hits
        one, two = (backend._opened.opened(name) for name in ("docs", "more"))
        assert one is not None
        assert two is not None
        assert one.encoder is two.encoder
        assert len(backend.models.infos()) == 1
        names = backend.models.infos()[0].names
        assert tiny_bert_encoder.name in names
        named = run(backend.texts.embed(ANYONE, ["a"], kind="query", model=names[1]))
        assert named.vectors.shape[1]


# --- time and load --------------------------------------------------------------------------


def test_a_deadline_is_an_error_or_the_first_stages_order(filled: Made) -> None:
    backend, reranker = filled.backend, filled.reranker
    expected = ids(run(backend.search(ANYONE, ["where bees"], rerank=False)))
    reranker.go.clear()
    started = time.monotonic()
    with pytest.raises(DeadlinePassed) as caught:
        run(backend.search(ANYONE, ["where ants"], timeout_ms=150))
    assert time.monotonic() - started < 2
    assert http_status(caught.value) == 504
    assert filled.observer.refused == ["deadline"]
    found = run(
        backend.search(ANYONE, ["where bees"], timeout_ms=150, on_timeout="first_stage",
                       min_relevance=0.9)
    )  # fmt: skip
    assert time.monotonic() - started < 4
    assert ids(found) == expected
    assert found[0].reranker is None
    assert "first stage's: its time passed while it waited" in found[0].notices[-1]
    assert "min_relevance was not applied" in found[0].notices[-1]
    reranker.go.set()
    assert run(backend.search(ANYONE, ["where bees"], timeout_ms=5000))[0].reranker == "words"
    for wrong in (0, -1, float("nan"), float("inf"), True, "5"):
        with pytest.raises(InvalidInput, match="timeout_ms"):
            run(backend.search(ANYONE, ["x"], timeout_ms=wrong))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="on_timeout"):
        run(backend.search(ANYONE, ["x"], on_timeout="never"))  # type: ignore[arg-type]


def test_re_ranking_goes_as_far_as_time_allows(make: Make) -> None:
    one = make()
    many = [Document(f"d{n}", f"number {n} of the bees") for n in range(40)]
    run(one.backend.documents.upsert(ANYONE, many))
    one.reranker.seconds_a_pair = 0.02
    for query in ("bees a", "bees b"):  # how fast the reranker is, is learned
        run(one.backend.search(ANYONE, [query], candidates=5, top_k=5, budget_ms=10_000))
    found = run(
        one.backend.search(
            ANYONE, ["bees c"], timeout_ms=400, on_timeout="first_stage", candidates=40, top_k=10
        )
    )[0]
    assert 0 < found.reranked < 40
    assert len(found.hits) == 10
    assert any("time budget" in notice for notice in found.notices)


def test_a_reranker_that_fails_leaves_the_first_stages_order(filled: Made) -> None:
    filled.reranker.fault = ModelFault("the device is gone", fix="Restart.")
    with pytest.raises(ModelFault):
        run(filled.backend.search(ANYONE, ["bees"]))
    found = run(filled.backend.search(ANYONE, ["bees"], timeout_ms=5_000, on_timeout="first_stage"))
    assert found[0].hits
    assert "re-ranking failed (the device is gone)" in found[0].notices[-1]


def test_a_cancelled_search_frees_its_place_and_its_thread(filled: Made) -> None:
    backend = filled.backend
    filled.reranker.go.clear()

    async def leave() -> None:
        tasks = [asyncio.create_task(backend.search(ANYONE, [f"bees {n}"])) for n in range(80)]
        assert await asyncio.to_thread(filled.reranker.begun.wait, 20)
        assert backend._calls.admission.inside == 80
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in done)
        assert backend._calls.admission.inside == 0
        # threads are free again while the model is still held
        found = await backend.search(ANYONE, ["oak"], rerank=False, timeout_ms=5000)
        assert found[0].hits

    run(leave())
    filled.reranker.go.set()
    assert run(backend.search(ANYONE, ["bees"]))[0].reranked


def test_more_than_fits_is_refused_and_nothing_accepted_is_lost(make: Make) -> None:
    one = make(max_requests=4)
    run(one.backend.documents.upsert(ANYONE, DOCUMENTS))
    one.reranker.go.clear()

    async def flood() -> list[Any]:
        tasks = [asyncio.create_task(one.backend.search(ANYONE, [f"q {n}"])) for n in range(10)]
        assert await asyncio.to_thread(one.reranker.begun.wait, 20)
        one.reranker.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(flood())
    overloaded = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(overloaded) == 6
    assert all(answer.retry_after_s > 0 for answer in overloaded)
    assert sum(isinstance(answer, list) for answer in answers) == 4
    assert one.observer.refused == ["overloaded"] * 6


def test_the_page_searches_as_one_caller(filled: Made) -> None:
    found = filled.backend.search_now("bees dance", top_k=1)
    assert found.hits[0].passage.document_id == "bee"
    with pytest.raises(CollectionNotFound):
        filled.backend.search_now("bees", collection="nothing")
    facts = filled.backend.facts()
    assert (facts.collection, facts.passages, facts.encoder) == ("docs", 3, "hashing")
    assert facts.reranker == "words"


def test_closing_lets_what_runs_end_and_takes_nothing_new(filled: Made) -> None:
    backend = filled.backend
    filled.reranker.go.clear()

    async def stop() -> Any:
        running = asyncio.create_task(backend.search(ANYONE, ["bees"]))
        assert await asyncio.to_thread(filled.reranker.begun.wait, 20)
        closing = asyncio.create_task(asyncio.to_thread(backend.close))
        while not backend._closed:
            await asyncio.sleep(0.01)
        assert not (await backend.ready()).ready
        with pytest.raises(Stopping):
            await backend.search(ANYONE, ["ants"])
        filled.reranker.go.set()
        result = await running
        await closing
        return result

    assert run(stop())[0].reranked == 3
    backend.close()  # a second time does nothing
    with retrieval.Store(filled.settings.store).open("docs") as index:
        assert index.count() == 3


# --- readiness and outages ------------------------------------------------------------------


def test_it_is_ready_when_it_can_search_and_write(make: Make, monkeypatch: Any) -> None:
    one = make()
    one.backend.open()
    assert run(one.backend.ready()).ready  # the first document makes the collection
    run(one.backend.documents.upsert(ANYONE, DOCUMENTS))
    assert run(one.backend.ready()).problems == {}
    real = shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
        ready = run(one.backend.ready())
    assert not ready.ready
    assert "are free" in ready.problems["writes"]
    sealed = make(read_only=True, collection="none")
    assert "read-only" in run(sealed.backend.ready()).problems["index"]


def test_a_server_that_is_away_is_told_and_comes_back(tmp_path: Path) -> None:
    with qdrant_http() as qdrant, tcp_proxy(qdrant.url) as proxy:
        encoder = HashingEncoder()
        retrieval.ingest(DOCUMENTS, store=qdrant.url, encoder=encoder)
        proxy.cut()
        url = f"{proxy.url}?timeout_s=1&retry_s=0.2"
        backend = Backend(Settings(store=url, reranker="none"), encoder=encoder)
        with closing(backend):
            with pytest.raises(StoreFault):
                backend.open()
            with pytest.raises(StoreFault) as caught:
                run(backend.search(ANYONE, ["bees"]))
            assert http_status(caught.value) == 503
            assert "index" in run(backend.ready()).problems
            assert run(backend.texts.embed(ANYONE, ["a"], kind="query")).model == "hashing"
            proxy.restore()
            deadline = time.monotonic() + 20
            while not run(backend.ready()).ready:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert ids(run(backend.search(ANYONE, ["bees dance"])))[0] == "bee"
            run(backend.documents.upsert(ANYONE, [Document("wasp", "Wasps sting.")]))
            assert ids(run(backend.search(ANYONE, ["wasps sting"])))[0] == "wasp"
            run(backend.collections.create(ANYONE, "other"))
            assert [one.name for one in run(backend.collections.list(ANYONE))] == ["docs", "other"]
            run(backend.collections.delete(ANYONE, "other"))


def test_a_collection_that_another_process_deleted_is_missed(tmp_path: Path) -> None:
    with qdrant_http() as qdrant:
        encoder = HashingEncoder()
        retrieval.ingest(DOCUMENTS, store=qdrant.url, encoder=encoder)
        settings = Settings(store=qdrant.url, reranker="none")
        backend = Backend(settings, encoder=encoder)
        with closing(backend):
            assert run(backend.search(ANYONE, ["bees"]))[0].hits
            retrieval.Store(qdrant.url).delete("docs")
            with pytest.raises(CollectionNotFound):
                run(backend.search(ANYONE, ["bees"]))
            run(backend.documents.upsert(ANYONE, DOCUMENTS[:1]))
            assert ids(run(backend.search(ANYONE, ["bees"]))) == ["oak"]
            retrieval.Store(qdrant.url).delete("docs")
            assert run(backend.documents.upsert(ANYONE, DOCUMENTS[1:])).new == 2
            assert sorted(ids(run(backend.search(ANYONE, ["bees"])))) == ["ant", "bee"]


def test_a_model_that_is_missing_is_told_and_comes_back(
    tmp_path: Path, tiny_bert_encoder: Path, monkeypatch: Any
) -> None:
    for module in ("loaded_models", "open_collections"):
        monkeypatch.setattr(f"app.backend.{module}.RETRY_SECONDS", 0.0)
    model = shutil.copytree(tiny_bert_encoder, tmp_path / "model")
    retrieval.ingest(DOCUMENTS, store=tmp_path / "store", encoder=str(model))
    weights = next(model.glob("*.safetensors"))
    weights.rename(tmp_path / "away")
    settings = Settings(store=str(tmp_path / "store"), reranker="none", threads=1)
    backend = Backend(settings)
    with closing(backend):
        with pytest.raises(ModelNotFound):
            backend.open()
        with pytest.raises(ModelNotFound) as caught:
            run(backend.search(ANYONE, ["bees"]))
        assert http_status(caught.value) == 503
        assert str(model) in run(backend.ready()).problems["models"]
        (tmp_path / "away").rename(weights)
        assert run(backend.search(ANYONE, ["bees"]))[0].hits
        assert run(backend.ready()).ready


# --- jobs -----------------------------------------------------------------------------------


async def ended(backend: Backend, caller: Caller, job_id: str) -> Any:
    async for job in backend.jobs.watch(caller, job_id):
        last = job
    return last


def test_a_job_writes_documents_and_a_folder(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("Wasps sting.")
    (root / "b.md").write_text("# Moths\n\nMoths fly at night.")
    backend = make(ingest_roots=(root,)).backend

    async def job(source: JobSource, **options: Any) -> Any:
        started = await backend.jobs.start(ANYONE, source, **options)
        done = await ended(backend, ANYONE, started.id)
        assert (done.state, done.problem) == ("done", None)
        return done.report

    async def go() -> None:
        assert (await job(JobSource(documents=DOCUMENTS))).new == 3
        assert ids(await backend.search(ANYONE, ["bees dance"]))[0] == "bee"
        folder = JobSource(path=str(root))
        report = await job(folder, prune=True)
        assert (report.new, report.pruned) == (2, 0)
        (root / "a.txt").unlink()
        report = await job(folder, prune=True)
        assert (report.unchanged, report.pruned) == (1, 1)
        report = await job(folder, collection="fresh")
        assert (report.new, report.read) == (1, 1)
        assert [one.name for one in await backend.collections.list(ANYONE)] == ["docs", "fresh"]

    run(go())


def test_jobs_read_only_what_they_may_and_are_their_callers_own(make: Make, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        (folder / "a.txt").write_text("text")
    (root / "link").symlink_to(outside)
    backend = make(ingest_roots=(root,)).backend
    for path in (outside, root / "link", root / ".." / "outside", "/etc", "a\0b", f"{root}2"):
        with pytest.raises(Forbidden, match="under none of the folders"):
            run(backend.jobs.start(ANYONE, JobSource(path=str(path))))
    with pytest.raises(Forbidden):
        run(backend.jobs.start(Caller("r", write=False), JobSource(documents=DOCUMENTS)))
    one, other = Caller("one", collections=("docs",)), Caller("other", collections=("docs",))
    job = run(backend.jobs.start(one, JobSource(documents=DOCUMENTS)))
    assert [known.id for known in backend.jobs.list(one)] == [job.id]
    assert backend.jobs.list(other) == []
    assert [known.id for known in backend.jobs.list(ANYONE)] == [job.id]
    for call in (backend.jobs.get, backend.jobs.watch):
        with pytest.raises(NotHere, match="no job"):
            call(other, job.id)
    with pytest.raises(NotHere):
        run(backend.jobs.cancel(other, job.id))
    assert run(ended(backend, one, job.id)).state == "done"


@pytest.fixture
def held(filled: Made) -> Iterator[Held]:
    """Two events: the encoder of `filled` has begun, and may go on."""
    begun, go_on = threading.Event(), threading.Event()
    encode = filled.encoder.encode_passages

    def wait(passages: Sequence[str], **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return encode(passages, **options)

    filled.encoder.encode_passages = wait  # type: ignore[method-assign]
    yield begun, go_on
    go_on.set()


def test_a_job_that_a_stop_cut_off_goes_on(make: Make, filled: Made, held: Held) -> None:
    begun, go_on = held
    many = [Document(f"d{n}", f"A text, number {n}.") for n in range(300)]
    job = run(filled.backend.jobs.start(ANYONE, JobSource(documents=many)))
    assert begun.wait(20)
    closing = threading.Thread(target=filled.backend.close)
    closing.start()
    while not filled.backend.jobs.all._closing:
        time.sleep(0.01)
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()
    after = make().backend
    assert run(after.ready()).ready  # which opens it, and takes the job up again
    done = run(ended(after, ANYONE, job.id))
    assert (done.state, done.report.read) == ("done", 300)
    assert run(after.collections.get(ANYONE, None)).passages == 303


def test_writers_take_turns_and_a_cancelled_job_ends(
    filled: Made, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.backend.writes.PATIENCE_SECONDS", 0.2)
    backend = filled.backend
    begun, go_on = held

    async def go() -> None:
        many = [Document(f"d{n}", f"A text, number {n}.") for n in range(1200)]
        job = await backend.jobs.start(ANYONE, JobSource(documents=many))
        assert await asyncio.to_thread(begun.wait, 20)
        found = await backend.search(ANYONE, ["bees dance"], mode="sparse")
        assert ids(found)[0] == "bee"  # meanwhile
        with pytest.raises(Conflict, match=f"is being written to .the job {job.id} runs"):
            await backend.documents.delete(ANYONE, ["bee"])
        await backend.jobs.cancel(ANYONE, job.id)
        go_on.set()
        assert (await ended(backend, ANYONE, job.id)).state == "cancelled"
        assert await backend.documents.delete(ANYONE, ["bee"]) == ("bee",)

    run(go())
