"""What the entry points make of a filter, a store and the models' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.ingest import ingest
from retrieval.api.open import open
from retrieval.errors import (
    InvalidFilter,
    InvalidInput,
    ManifestMismatch,
    StoreFault,
    StoreLocked,
)
from retrieval.index.filter_syntax import parse_where
from retrieval.index.store import Store
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.types import Document


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("year=2020,lang=en", {"year": 2020, "lang": "en"}),
        ("draft=false, author=null", {"draft": False, "author": None}),
        ('tags=["x","y"],lang=en', {"tags": ["x", "y"], "lang": "en"}),
        ('year={"gte": 1, "lt": 3}', {"year": {"gte": 1, "lt": 3}}),
        ('title="a, b",lang=en', {"title": "a, b", "lang": "en"}),
        ("day=2020-01-31,n=1", {"day": "2020-01-31", "n": 1}),
        ("a=b=c", {"a": "b=c"}),
        ("a=,b=1", {"a": "", "b": 1}),
        ('{"a": {"exists": true}}', {"a": {"exists": True}}),
    ],
)
def test_filters_as_text(text: str, where: dict[str, Any]) -> None:
    assert parse_where(text) == where


@pytest.mark.parametrize(
    "text",
    ["", "a", "=1", "a=1,", "a=1,b", "a,b=1", '["a"]', "{", '{"a": %s}' % ("[" * 100_000), "{'a'"],
)
def test_text_that_is_no_filter(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_where(text)


@pytest.mark.parametrize("store", ["", "  ", "ftp://host", "HTTP://host:6333", "qdrant://host"])
def test_a_mistyped_address_is_not_taken_for_a_folder(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="expected a folder or the http"):
        Store(store).names()
    with pytest.raises(InvalidInput, match="expected a folder or the http"):
        ingest([Document("a", "text")], store=store, encoder="all-MiniLM-L6-v2")
    assert list(tmp_path.iterdir()) == []


def test_a_store_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreFault, match="A part of that path is a file"):
        ingest(
            [Document("a", "text")], store=tmp_path / "file" / "store", encoder="all-MiniLM-L6-v2"
        )
    assert (tmp_path / "file").read_text() == "mine"


# --- how the models are run ------------------------------------------------------------------

LONG = "The oak is a tree. " * 60 + "Its fruit is the acorn. " + "It grows slowly. " * 60


@pytest.fixture(scope="module")
def built(tiny_bert_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two documents, one of them one long passage, by the tiny encoder."""
    store = tmp_path_factory.mktemp("built") / "store"
    documents = [Document("oak", LONG, "Oaks"), Document("bee", "Bees dance.")]
    ingest(documents, store=store, encoder=str(tiny_bert_encoder), max_tokens=None)
    return store


def test_options_reach_both_models(built: Path, tiny_bert_reranker: Path) -> None:
    options = {"device": "cpu", "engine": "transformers", "dtype": "fp32", "threads": 1}
    with open(
        store=built,
        reranker=str(tiny_bert_reranker),
        long_passages="windows",
        window_overlap=8,
        deterministic=None,  # left out
        **options,
    ) as retriever:
        result = retriever.search("acorn")
        assert isinstance(retriever.encoder, BiEncoder)
        assert retriever.encoder.engine == "transformers fp32 on cpu"
        assert getattr(retriever.reranker, "engine", "") == "transformers fp32 on cpu"
    spans = {hit.passage.document_id: hit.best_span for hit in result.hits}
    assert spans["bee"] == (0, len("Bees dance."))
    assert spans["oak"] is not None
    start, end = spans["oak"]
    assert 0 < end - start < len(LONG)
    assert result.reranked == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"devise": "cpu"}, "there is no option 'devise'; expected one of .*device.*truncate_dim"),
        ({"long_passages": "windows", "reranker": None}, "long_passages='windows' .* a reranker"),
        ({"long_passages": "windows", "reranker": "none"}, "long_passages='windows' .* a reranker"),
        (
            {"window_overlap": 9, "reranker": "maxsim"},
            "window_overlap=9 was given for the reranker maxsim, which is not a cross-encoder",
        ),
        ({"device": "cpu", "devices": ["cpu", "cpu"]}, "both given"),
        ({"long_passages": "fold", "reranker": "TINY"}, "long_passages='fold'"),
    ],
)
def test_options_that_cannot_be_used(
    options: dict[str, Any], told: str, built: Path, tiny_bert_reranker: Path
) -> None:
    if options.get("reranker") == "TINY":
        options = {**options, "reranker": str(tiny_bert_reranker)}
    with pytest.raises(InvalidInput, match=told):
        open(store=built, **options)
    with open(store=built, reranker=None):
        pass  # the store was left free


def test_options_for_models_that_the_caller_made(built: Path, tiny_bert_encoder: Path) -> None:
    encoder = BiEncoder(tiny_bert_encoder)
    for options in ({"truncate_dim": 8}, {"device": "cpu"}):
        with pytest.raises(InvalidInput, match="none is loaded here"):
            open(store=built, encoder=encoder, reranker=None, **options)
    with open(store=built, encoder=encoder, reranker=None, device=None) as retriever:
        assert retriever.search("acorn").hits
    encoder.encode_queries(["still open"])


def test_indexing_takes_no_options_of_a_reranker(tmp_path: Path) -> None:
    for options in ({"long_passages": "windows"}, {"devise": "cpu"}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            ingest([Document("a", "text")], store=tmp_path, encoder="all-MiniLM-L6-v2", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_automatic_reranker_without_windows_is_told(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.models.defaults import Choice

    monkeypatch.setattr(
        "retrieval.api.models.choose_models", lambda *_, **__: Choice("x", "maxsim", ("Chosen.",))
    )
    with open(store=built, long_passages="windows") as retriever:
        assert retriever.notices[-1].startswith("The reranker maxsim, chosen automatically")
        assert "long_passages" in retriever.notices[-1]
        assert retriever.search("acorn").reranked == 2


def test_a_truncated_dimension_is_remembered(tmp_path: Path, tiny_bert_encoder: Path) -> None:
    documents = [Document("oak", "Oaks bear acorns."), Document("bee", "Bees dance.")]
    name = str(tiny_bert_encoder)
    cut: dict[str, Any] = {"truncate_dim": 16, "allow_untrained_truncation": True}
    ingest(documents, store=tmp_path, encoder=name, **cut)
    assert Store(tmp_path).manifest("docs").encoder.dimension == 16
    assert ingest(documents, store=tmp_path).unchanged == 2
    for encoder in (None, name):
        with open(store=tmp_path, encoder=encoder, reranker=None) as retriever:
            assert retriever.encoder.info.dimension == 16
            assert len(retriever.search("acorns", mode="dense").hits) == 2
    with pytest.raises(ManifestMismatch, match="dimension is 16, asked for 8"):
        open(store=tmp_path, reranker=None, **{**cut, "truncate_dim": 8})


def test_a_collection_of_whole_vectors_is_not_cut(built: Path) -> None:
    with open(store=built, reranker=None) as retriever:
        assert retriever.encoder.info.dimension == 64


# --- documents that a program made -----------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (Document("a", None), "document 2 .id 'a'. has the text None, expected text"),  # type: ignore[arg-type]
        (Document(7, "text"), "document 2 .id 7. has the id 7"),  # type: ignore[arg-type]
        (Document("a", "text", title=None), "the title None"),  # type: ignore[arg-type]
        (Document("a", "text", metadata=["x"]), "the metadata .'x'., expected a mapping"),  # type: ignore[arg-type]
        ("text", "document 2 is a str, expected a Document"),
    ],
)
@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_what_is_no_document(
    document: Any, told: str, on_error: Any, tmp_path: Path, starter_encoder: BiEncoder
) -> None:
    documents = [Document("first", "Oaks bear acorns."), document]
    with pytest.raises(InvalidInput, match=told):
        ingest(documents, store=tmp_path, encoder=starter_encoder, on_error=on_error)


@pytest.mark.parametrize("source", ["python-docs", [Document("a", "text")]])
def test_an_encoding_of_what_is_text_already(source: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="encoding='latin-1' was given"):
        ingest(source, store=tmp_path, encoding="latin-1", encoder="all-MiniLM-L6-v2")
    assert list(tmp_path.iterdir()) == []


# --- evaluating ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    texts = ["Oaks bear acorns.", "Bees dance for acorns.", "Acorns feed cats.", "Acorn soup."]
    rows = [json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    queries = [json.dumps({"_id": f"q{i}", "text": f"acorns {i}"}) for i in range(3)]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\t0\t1\nq1\t1\t1\nq2\t2\t1\n"
    )
    return folder


def test_a_budget_is_for_each_query_and_told_once(beir: Path) -> None:
    report = evaluate_folder(
        beir, encoder="all-MiniLM-L6-v2", reranker="maxsim", modes=["dense"], budget_ms=1e-6
    )
    (told,) = [notice for notice in report.notices if "budget" in notice]
    assert told == (
        "The time budget of 1e-06 ms a query re-ranked 1.0 of 4.0 candidates on average, and at "
        "least 1."
    )
    ample = evaluate_folder(
        beir, encoder="all-MiniLM-L6-v2", reranker="maxsim", modes=["dense"], budget_ms=1e6
    )
    assert not any("budget" in notice for notice in ample.notices)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"modes": ["dense", "magic"]}, "the mode is 'magic', expected one of dense, sparse"),
        ({"budget_ms": 0}, "budget_ms is 0"),
        ({"devise": "cpu"}, "there is no option 'devise'"),
        ({"long_passages": "windows", "rerank": False}, "long_passages='windows' was given"),
        ({"long_passages": "windows", "reranker": "maxsim"}, "not a cross-encoder"),
    ],
)
def test_evaluating_refuses_before_it_indexes(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        evaluate_folder("no-such-folder", **options)


def test_evaluating_with_options_of_both_models(
    beir: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    report = evaluate_folder(
        beir,
        encoder=str(tiny_bert_encoder),
        reranker=str(tiny_bert_reranker),
        modes=["dense"],
        device="cpu",
        long_passages="windows",
        truncate_dim=32,
        allow_untrained_truncation=True,
    )
    assert [row.reranked for row in report.rows] == [False, True]


# --- writing to what is open -------------------------------------------------------------------


def test_a_retriever_that_is_open_is_written_to(tmp_path: Path) -> None:
    store, encoder = tmp_path / "store", HashingEncoder()
    ingest([Document("oak", "Oaks bear acorns.")], store=store, encoder=encoder)
    more = [Document("bee", "Bees dance."), Document("oak", "Oaks bear acorns.")]
    with open(store=store, encoder=encoder, reranker=None) as retriever:
        with pytest.raises(StoreLocked):
            ingest(more, store=store, encoder=encoder)
        report = ingest(more, retriever)
        assert (report.new, report.unchanged, report.collection) == (1, 1, "docs")
        assert retriever.search("dance").hits[0].passage.document_id == "bee"
        pruned = ingest(more[:1], retriever, prune=True)
        assert pruned.pruned == 1
        assert retriever.count() == 1
    with open(store=store, encoder=encoder, reranker=None) as retriever:
        assert [p.document_id for p in retriever.index.passages()] == ["bee"]


def test_an_open_retriever_is_as_good_as_its_name(tmp_path: Path) -> None:
    """The same passages and vectors, whether a collection is opened for writing or is open."""
    first, rest = (
        [Document("a", LONG, "Oaks")],
        [Document("b", f"{LONG} More."), Document("c", "x")],
    )
    stored: list[Any] = []
    for way in ("open", "closed"):
        encoder = HashingEncoder()
        ingest(first, store=tmp_path / way, encoder=encoder, max_tokens=40)
        if way == "open":
            with open(store=tmp_path / way, encoder=encoder, reranker=None) as retriever:
                ingest(rest, retriever)
        else:
            ingest(rest, store=tmp_path / way, encoder=encoder)
        with Store(tmp_path / way).open("docs") as index:
            stored.append([(one.id, one.dense.tolist(), one.payload) for one in index.points()])
    assert len(stored[0]) > 20
    assert stored[0] == stored[1]


def test_what_an_open_retriever_has_already_is_refused(tmp_path: Path) -> None:
    store, encoder, more = tmp_path / "store", HashingEncoder(), [Document("bee", "Bees dance.")]
    ingest([Document("oak", "Oaks bear acorns.")], store=store, encoder=encoder)
    with open(store=store, encoder=encoder, reranker=None) as retriever:
        for options in (
            {"store": store},
            {"encoder": encoder},
            {"encoder": "all-MiniLM-L6-v2"},
            {"version": "docs@v2"},
            {"pooling": "cls"},
            {"query_instruction": ""},
            {"passage_instruction": "p: "},
            {"max_length": 12},
            {"device": "cpu"},
            {"api_key": "s3cret"},
        ):
            with pytest.raises(InvalidInput, match=f"{next(iter(options))} was given") as caught:
                ingest(more, retriever, **options)  # type: ignore[arg-type]
            assert "s3cret" not in str(caught.value)
        for options in ({"max_tokens": 20}, {"overlap_tokens": 3}, {"language": "german"}):
            with pytest.raises(ManifestMismatch, match="built with other settings"):
                ingest(more, retriever, **options)  # type: ignore[arg-type]
        with pytest.raises(ManifestMismatch, match="tenants is False, asked for True"):
            ingest(more, retriever, tenant="a")
        assert retriever.count() == 1
        ingest(more, retriever, max_tokens=128, language="english", fields={})  # its own
        assert retriever.count() == 2


def test_an_open_retriever_writes_as_its_own_tenant(tmp_path: Path) -> None:
    store, encoder = tmp_path / "store", HashingEncoder()
    ingest([Document("oak", "Oaks.")], store=store, encoder=encoder, tenant="a")
    with open(store=store, encoder=encoder, reranker=None, tenant="a") as retriever:
        ingest([Document("bee", "Bees.")], retriever)
        ingest([Document("ant", "Ants.")], retriever, tenant="b")
        assert retriever.count() == 2
        assert retriever.count(tenant="b") == 1
