"""Every option of a search, alone and together, on a real index against a plain reference."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import InvalidInput
from retrieval.fusion import dbsf, rrf
from retrieval.index.bm25 import bm25_info
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.search.mmr import diverse
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import (
    Fusion,
    Hit,
    IndexQuery,
    Layout,
    Manifest,
    Mode,
    Passage,
    RerankerInfo,
    Scores,
    SearchResult,
    SplitterInfo,
)

WORDS = [
    "oak", "acorn", "river", "willow", "bark", "bee", "flower", "honey", "cat", "mouse", "sleep",
    "king", "castle", "stone", "sea", "ship", "north", "star", "night", "lamp",
]  # fmt: skip
WEIGHTS = ((2.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
QUERIES = ("oak and acorn", "honey bee", "the king of the castle", "star", "a ship at sea by night")


class Overlap:
    """Reads both texts: shared words less the passage's length, as a logit."""

    info = RerankerInfo("overlap", "sha256:overlap", "cross-encoder", 512)

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        values = [
            3.0 * len(set(query.split()) & set(passage.split())) - 0.25 * len(passage.split())
            for query, passage in pairs
        ]
        return Scores(np.array(values), np.zeros(len(pairs), dtype=bool))

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1.0 / (1.0 + np.exp(-scores))


def document(name: str, texts: Sequence[str], **metadata: Any) -> list[Passage]:
    return [
        Passage(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}#{position}")),
            document_id=name,
            position=position,
            text=text,
            start=0,
            end=len(text),
            metadata=metadata,
            document_hash=f"sha256:{name}",
            document_passages=len(texts),
        )
        for position, text in enumerate(texts)
    ]


def corpus() -> list[Passage]:
    """24 documents of 1 to 12 passages of a few words, some of them word for word the same."""
    random = np.random.default_rng(7)
    passages: list[Passage] = []
    for number in range(24):
        texts = [
            " ".join(random.choice(WORDS, size=random.integers(2, 7)))
            for _ in range(random.integers(1, 13))
        ]
        if number % 5 == 0:
            texts.append("oak acorn bark")
        passages += document(f"d{number:02}", texts, even=number % 2 == 0)
    return passages


def make_manifest(name: str, encoder: Any, layout: Layout = Layout()) -> Manifest:  # noqa: B008
    return Manifest(name, encoder.info, SplitterInfo(64, 0), bm25_info("en"), layout)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectionIndex]:
    encoder, passages = HashingEncoder(), corpus()
    store = tmp_path_factory.mktemp("store")
    with EmbeddedIndex.create(store, "docs", make_manifest("docs", encoder)) as made:
        made.upsert(passages, encoder.encode_passages([p.content for p in passages]).vectors)
        yield made


@pytest.fixture(scope="module")
def retriever(index: CollectionIndex) -> TwoStageRetriever:
    return TwoStageRetriever(HashingEncoder(), index, Overlap(), mode="hybrid", candidates=30)


def ids(result: SearchResult) -> list[str]:
    return [hit.passage.id for hit in result.hits]


# --- a plain reference -----------------------------------------------------------------------


def plain_search(
    index: CollectionIndex,
    query: str,
    *,
    mode: Mode,
    candidates: int,
    top_k: int,
    rerank: bool,
    where: Any = None,
    blend: str = "none",
    min_relevance: float | None = None,
    min_score: float | None = None,
    diversity: float | None = None,
    per_document: int | None = None,
    offset: int = 0,
    fusion: Fusion | None = None,
) -> list[str]:
    """Ids of the hits, one step after the other, each over everything that there is."""
    vector = HashingEncoder().encode_queries([query])[0]
    depth = max(candidates, top_k)
    everything: dict[str, Hit] = {}
    limit = depth
    while True:
        (found,) = index.search_batch(
            [IndexQuery(vector, query)], mode=mode, limit=limit, where=where,
            fusion=fusion or Fusion(),
        )  # fmt: skip
        kept = [one for one in found if min_score is None or one.score >= min_score]
        for one in kept:
            if one.passage.id not in everything:
                relevance = min(max(one.score, 0.0), 1.0) if mode == "dense" else None
                hit = Hit(one.passage, 1, one.score, relevance, 1, one.score)
                everything[one.passage.id] = hit
        if len(kept) < limit:
            break
        limit *= 2
    hits = list(everything.values())
    pool, rest = hits[:depth], hits[depth:]
    if rerank:
        read = Overlap().score([(query, hit.passage.content) for hit in pool]).values
        relevance_ = Overlap().relevance(read)
        pool = [
            replace(hit, score=float(score), relevance=float(r))
            for hit, score, r in zip(pool, read, relevance_, strict=True)
        ]
        first = [hit.passage.id for hit in pool]
        pool.sort(key=lambda hit: (-hit.score, hit.passage.id))
        if blend != "none":
            ranked = [hit.passage.id for hit in pool]
            scored = [[(hit.passage.id, hit.stage1_score) for hit in pool]]
            scored.append([(hit.passage.id, hit.score) for hit in pool])
            weights = (1.0, {"dense": 0.4, "hybrid": 0.75}.get(mode, 8.0))
            fused = dict(rrf([first, ranked]) if blend == "rrf" else dbsf(scored, weights))
            pool = [replace(hit, score=fused[hit.passage.id]) for hit in pool]
            pool.sort(key=lambda hit: (-hit.score, hit.passage.id))
        rest = [replace(hit, relevance=None) for hit in rest]
    if min_relevance:  # 0 leaves nothing out
        pool, rest = (
            [hit for hit in part if hit.relevance is not None and hit.relevance >= min_relevance]
            for part in (pool, rest)
        )
    if diversity:
        vectors = index.vectors([hit.passage.id for hit in pool])
        pool = list(diverse(pool, vectors, diversity))
    seen: Counter[str] = Counter()
    counted = []
    for hit in pool + rest:
        seen[hit.passage.document_id] += 1
        if per_document is None or seen[hit.passage.document_id] <= per_document:
            counted.append(hit.passage.id)
    return counted[offset : offset + top_k]


options_ = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["dense", "sparse", "hybrid"]),
        "candidates": st.sampled_from([1, 5, 20, 60]),
        "rerank": st.booleans(),
    },
    optional={
        "where": st.sampled_from([{"even": True}, {"even": False}]),
        "blend": st.sampled_from(["none", "rrf", "scores"]),
        "min_relevance": st.sampled_from([0.0, 0.3, 0.7]),
        "min_score": st.sampled_from([-1.0, 0.05, 0.3, 2.0]),
        "diversity": st.sampled_from([0.0, 0.3, 1.0]),
        "per_document": st.integers(1, 3),
        "fusion": st.sampled_from(
            [Fusion("rrf"), Fusion("dbsf"), *(Fusion(k=60, weights=w) for w in WEIGHTS)]
        ),
    },
)


def usable(options: dict[str, Any]) -> dict[str, Any]:
    """The options without what cannot be asked for together."""
    if options["mode"] != "hybrid":
        options.pop("fusion", None)
    if not options["rerank"]:
        options.pop("blend", None)
        if options["mode"] != "dense":
            options.pop("min_relevance", None)
    return options


same_index = settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@same_index
@given(
    options=options_.map(usable),
    query=st.sampled_from(QUERIES),
    top_k=st.sampled_from([*range(1, 13), 1_000]),
    offset=st.sampled_from([0, 0, 3, 40, 500]),
)
def test_all_options_together_are_those_of_the_reference(
    index: CollectionIndex,
    retriever: TwoStageRetriever,
    options: dict[str, Any],
    query: str,
    top_k: int,
    offset: int,
) -> None:
    result = retriever.search(query, top_k=top_k, offset=offset, **options)
    expected = plain_search(index, query, top_k=top_k, offset=offset, **options)
    assert ids(result) == expected
    assert [hit.rank for hit in result.hits] == [
        offset + place for place in range(1, len(expected) + 1)
    ]
    assert result.offset == offset


@same_index
@given(
    options=options_.map(usable),
    query=st.sampled_from(QUERIES),
    size=st.integers(1, 9),
    pages=st.integers(2, 5),
)
def test_pages_together_are_one_long_page(
    retriever: TwoStageRetriever, options: dict[str, Any], query: str, size: int, pages: int
) -> None:
    long = size * pages
    options["candidates"] = max(options["candidates"], long)  # a longer page would re-rank more
    parts = [
        retriever.search(query, top_k=size, offset=place * size, **options)
        for place in range(pages)
    ]
    whole = retriever.search(query, top_k=long, **options)
    assert [hit for part in parts for hit in part.hits] == list(whole.hits)


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
@pytest.mark.parametrize("rerank", [True, False])
def test_pages_go_on_to_the_end_and_each_passage_comes_once(
    index: CollectionIndex, retriever: TwoStageRetriever, mode: Mode, rerank: bool
) -> None:
    seen: list[str] = []
    while True:
        page = retriever.search(
            "oak and acorn", top_k=7, offset=len(seen), candidates=10, mode=mode, rerank=rerank
        )
        seen += ids(page)
        if len(page.hits) < 7:
            break
    assert len(seen) == len(set(seen)) == index.count()
    deep = retriever.search("oak", top_k=7, offset=14, candidates=10, mode=mode, rerank=rerank)
    assert any("beyond the 10 candidates" in notice for notice in deep.notices) is rerank
    assert [hit.stage1_rank for hit in deep.hits] == list(range(15, 22))


# --- one by one ------------------------------------------------------------------------------


class Spy:
    """The index, with a list of the calls it gets."""

    def __init__(self, index: CollectionIndex) -> None:
        self._index = index
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._index, name)
        if not callable(value):
            return value

        def call(*given: Any, **options: Any) -> Any:
            self.calls.append((name, options.get("limit")))
            return value(*given, **options)

        return call


@pytest.fixture
def spied(index: CollectionIndex) -> tuple[TwoStageRetriever, Spy]:
    spy = Spy(index)
    return TwoStageRetriever(HashingEncoder(), spy, Overlap(), candidates=30), spy  # type: ignore[arg-type]


def test_a_batch_is_one_call_of_each_kind(spied: tuple[TwoStageRetriever, Spy]) -> None:
    made, spy = spied
    together = made.search_batch(QUERIES, top_k=3, diversity=0.3, neighbours=1)
    assert spy.calls == [("search_batch", 30), ("vectors", None), ("neighbours", None)]
    alone = [made.search(query, top_k=3, diversity=0.3, neighbours=1) for query in QUERIES]
    assert [one.hits for one in together] == [one.hits for one in alone]
    assert [one.candidates for one in together] == [one.candidates for one in alone]


def test_a_plain_search_asks_for_nothing_else(spied: tuple[TwoStageRetriever, Spy]) -> None:
    made, spy = spied
    made.search("oak", top_k=3)
    made.search("oak", top_k=3, min_relevance=0.99, mode="dense")
    made.search("oak", top_k=3, min_relevance=0.99, mode="dense", rerank=False)
    assert spy.calls == [("search_batch", 30)] * 3


def test_only_queries_that_need_it_are_searched_deeper(
    spied: tuple[TwoStageRetriever, Spy],
) -> None:
    made, spy = spied
    results = made.search_batch(
        ["oak", "oak and acorn"], top_k=5, candidates=5, per_document=1, mode="dense"
    )
    limits = [limit for _, limit in spy.calls]
    assert limits[0] == 5
    assert limits == [5 * 2**place for place in range(len(limits))]
    assert [len({h.passage.document_id for h in one.hits}) for one in results] == [5, 5]
    for one in results:
        assert len(one.candidates) in limits
        assert [c.rank for c in one.candidates] == list(range(1, len(one.candidates) + 1))


def test_no_deeper_than_a_threshold_lets_through(
    spied: tuple[TwoStageRetriever, Spy],
) -> None:
    made, spy = spied
    options: dict[str, Any] = {"mode": "dense", "candidates": 5, "rerank": False}
    scores = {
        query: [hit.score for hit in made.search(query, top_k=10, **options).hits]
        for query in ("oak acorn bark", "king of a castle by the sea", "honey bee flower oak")
    }
    query = next(query for query, own in scores.items() if own[4] > own[9])
    lowest = scores[query][4]
    spy.calls.clear()
    result = made.search(query, top_k=5, per_document=1, offset=9, min_relevance=lowest, **options)
    assert result.hits == ()
    assert spy.calls == [("search_batch", 5), ("search_batch", 10)]
    spy.calls.clear()
    read = made.search("oak", mode="dense", candidates=5, top_k=5, offset=5, min_relevance=1e-9)
    assert read.hits == ()
    assert spy.calls == [("search_batch", 5)]


def test_neighbours_are_those_of_the_document(
    index: CollectionIndex, retriever: TwoStageRetriever
) -> None:
    by_document: dict[str, list[Passage]] = {}
    for passage in index.passages():
        by_document.setdefault(passage.document_id, []).append(passage)
    for own in by_document.values():
        own.sort(key=lambda passage: passage.position)
    result = retriever.search("oak and acorn", top_k=20, neighbours=2)
    assert any(hit.before for hit in result.hits)
    assert any(hit.after for hit in result.hits)
    for hit in result.hits:
        own, place = by_document[hit.passage.document_id], hit.passage.position
        assert hit.before == tuple(own[max(place - 2, 0) : place])
        assert hit.after == tuple(own[place + 1 : place + 3])
    without = retriever.search("oak and acorn", top_k=20)
    assert [replace(hit, before=(), after=()) for hit in result.hits] == list(without.hits)


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_a_lowest_score_is_on_the_modes_own_scale(retriever: TwoStageRetriever, mode: Mode) -> None:
    everything = retriever.search("oak and acorn", mode=mode, candidates=30)
    scores = sorted(candidate.score for candidate in everything.candidates)
    middle = scores[len(scores) // 2]
    result = retriever.search("oak and acorn", mode=mode, candidates=30, min_score=middle)
    assert [c.passage.id for c in result.candidates] == [
        c.passage.id for c in everything.candidates if c.score >= middle
    ]
    assert 0 < len(result.candidates) < len(everything.candidates)
    assert result.reranked == len(result.candidates)
    assert retriever.search("oak", mode=mode, min_score=1e9).hits == ()


def test_diversity_brings_other_passages_up(
    index: CollectionIndex, retriever: TwoStageRetriever
) -> None:
    def likeness(result: SearchResult) -> float:
        vectors = index.vectors(ids(result))
        rows = np.stack([vectors[name] for name in ids(result)])
        cosines = rows @ rows.T
        return float(cosines[np.triu_indices(len(rows), 1)].mean())

    plain, some, most = (
        retriever.search("oak acorn bark", top_k=6, diversity=value) for value in (0.0, 0.5, 1.0)
    )
    assert plain.hits == retriever.search("oak acorn bark", top_k=6).hits
    assert likeness(plain) > likeness(some) > likeness(most)
    assert ids(plain)[0] == ids(some)[0] == ids(most)[0]


def test_an_exact_search_finds_the_same_here(retriever: TwoStageRetriever) -> None:
    one = retriever.search("oak", mode="dense", exact=True)
    other = retriever.search("oak", mode="dense")
    assert one.hits == other.hits


# --- tenants ---------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[CollectionIndex]:
    """Two tenants with documents of the same names, and so passages of the same ids."""
    encoder = HashingEncoder()
    manifest = make_manifest("docs", encoder, Layout(tenants=True))
    with EmbeddedIndex.create(tmp_path, "docs", manifest) as made:
        for tenant, more in (("ada", "sea"), ("bob", "sky")):
            passages = [
                passage
                for number in range(6)
                for passage in document(
                    f"d{number}", [f"oak {more} {n} {number}" for n in range(3)], owner=tenant
                )
            ]
            vectors = encoder.encode_passages([p.content for p in passages]).vectors
            made.upsert(passages, vectors, tenant=tenant)
        yield made


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize("options", [{}, {"diversity": 0.4, "per_document": 2, "neighbours": 1}])
def test_a_tenant_gets_its_own_passages_alone(
    shared: CollectionIndex, mode: Mode, options: dict[str, Any]
) -> None:
    made = TwoStageRetriever(HashingEncoder(), shared, Overlap(), candidates=4)
    for tenant in ("ada", "bob"):
        result = made.search("oak sea sky", top_k=40, mode=mode, tenant=tenant, **options)
        assert len(result.hits) == (18 if not options else 12)
        shown = [
            one for hit in result.hits for one in (hit.passage, *hit.before, *hit.after)
        ]  # fmt: skip
        assert {one.metadata["owner"] for one in shown} == {tenant}
        asked = {"or": [{"owner": "ada"}, {"owner": "bob"}]}
        wide = made.search("oak", where=asked, top_k=40, mode=mode, tenant=tenant)
        assert {hit.passage.metadata["owner"] for hit in wide.hits} == {tenant}
        others = {"not": {"owner": tenant}}
        assert made.search("oak", where=others, mode=mode, tenant=tenant).hits == ()
    assert made.search("oak", tenant="eve", mode=mode).hits == ()


def test_a_retriever_has_a_tenant_of_its_own(shared: CollectionIndex) -> None:
    made = TwoStageRetriever(HashingEncoder(), shared, Overlap(), tenant="bob")
    assert {hit.passage.metadata["owner"] for hit in made.search("oak").hits} == {"bob"}
    other = made.search("oak", tenant="ada")
    assert {hit.passage.metadata["owner"] for hit in other.hits} == {"ada"}
    assert made.count() == made.count(tenant="ada") == 18
    assert made.count(tenant="eve") == 0


def test_a_tenant_must_be_named_where_there_are_some_and_only_there(
    shared: CollectionIndex, retriever: TwoStageRetriever
) -> None:
    made = TwoStageRetriever(HashingEncoder(), shared)
    with pytest.raises(InvalidInput, match="names none"):
        made.search("oak")
    with pytest.raises(InvalidInput, match="without tenants"):
        retriever.search("oak", tenant="ada")


# --- what cannot be asked for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"offset": -1}, "offset is -1, expected a whole number of at least 0"),
        ({"offset": 1.0}, "offset is 1.0"),
        ({"offset": True}, "offset is True"),
        ({"per_document": 0}, "per_document is 0, expected a whole number of at least 1"),
        ({"neighbours": -2}, "neighbours is -2"),
        ({"neighbours": None}, "neighbours is None"),
        ({"diversity": 1.1}, "diversity is 1.1, expected a number from 0 to 1"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"diversity": "0.3"}, "diversity is '0.3'"),
        ({"min_score": float("inf")}, "min_score is inf, expected a finite number"),
        ({"min_score": True}, "min_score is True"),
        ({"exact": "yes"}, "exact is 'yes', expected True or False"),
        ({"fusion": "rrf"}, "fusion is 'rrf', expected a Fusion"),
        ({"fusion": Fusion("sum")}, "the fusion method is 'sum', expected one of rrf, dbsf"),
        ({"fusion": Fusion(k=0)}, "the fusion's k is 0"),
        ({"fusion": Fusion(weights=(1.0, -1.0, 0.0))}, "expected three numbers of at least 0"),
        ({"fusion": Fusion(weights=(1.0, 2.0))}, "expected three numbers"),
        ({"fusion": Fusion(weights=(0.0, 0.0, 1.0))}, "leave nothing of the 2 legs"),
        ({"fusion": Fusion(), "mode": "dense"}, "fusion joins the legs of a hybrid search"),
        ({"mode": "lexical"}, "stores no lexical weights"),
        ({"refine": 100}, "stores no token vectors"),
        ({"min_relevance": float("nan")}, "min_relevance is nan"),
        ({"min_relevance": 1.5}, "min_relevance is 1.5"),
        ({"min_relevance": "0.5"}, "min_relevance is '0.5'"),
        ({"min_relevance": 0.5, "rerank": False, "mode": "hybrid"}, "min_relevance"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is True"),
        ({"candidates": -1}, "candidates is -1"),
        ({"mode": "fuzzy"}, "mode is 'fuzzy'"),
        ({"blend": "sum"}, "blend is 'sum'"),
    ],
)
def test_values_that_cannot_be_used_are_named(
    retriever: TwoStageRetriever, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)) as caught:
        retriever.search("oak", **options)
    assert caught.value.fix


def test_a_huge_whole_number_is_a_number(retriever: TwoStageRetriever) -> None:
    assert retriever.search("oak", min_score=10**400).hits == ()
    assert retriever.search("oak", min_score=-(10**400)).hits
