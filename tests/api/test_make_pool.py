"""Pools over a real collection: what is pooled, what extends one, what a language model adds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.make_pool import PoolReport, make_pool
from retrieval.errors import CollectionNotFound, InvalidInput, RetrievalError
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.pool import Pool
from retrieval.evaluation.synthetic import question_of, sample_passages

TREES = ["oak", "willow", "birch", "maple", "alder", "ash", "elm", "linden", "pine", "spruce"]
TEXTS = {
    f"{tree}.md": f"The {tree} is a tree. Of the {tree} much is known: its leaves fall in "
    f"{tree.upper()} autumn, and its wood is used by people who build houses number {n}."
    for n, tree in enumerate(TREES)
}
QUERIES = {"file": [("q1", "where is the oak?"), ("q2", "wood of the birch")]}


@pytest.fixture
def store(tmp_path: Path) -> str:
    place = str(tmp_path / "store")
    documents = [retrieval.Document(key, text, title=key) for key, text in TEXTS.items()]
    documents.append(retrieval.Document("tiny.md", "Too short."))
    retrieval.ingest(documents, "docs", store=place, encoder=HashingEncoder(), max_tokens=None)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pool"


def pooled(folder: Path, store: str, **options: Any) -> PoolReport:
    # mypy: the queries' origins are literals
    given: Any = options.pop("queries", QUERIES)
    return make_pool(
        folder, queries=given, store=store, encoder=HashingEncoder(), reranker=None, **options
    )


def items(folder: Path) -> dict[tuple[str, str], dict[str, int]]:
    lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {(one["query"], one["key"]): one["ranks"] for one in records}


@pytest.fixture
def retriever(store: str) -> Iterator[retrieval.TwoStageRetriever]:
    with retrieval.open("docs", store=store, encoder=HashingEncoder(), reranker=None) as opened:
        yield opened


def test_the_pool_is_the_union_of_every_systems_top(
    folder: Path, store: str, retriever: retrieval.TwoStageRetriever
) -> None:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for id_, text in QUERIES["file"]:
        for mode in ("dense", "sparse", "hybrid"):
            hits = retriever.search(text, top_k=3, mode=mode).hits  # type: ignore[arg-type]
            for hit in hits:
                found.setdefault((id_, hit.passage.document_id), {})[mode] = hit.rank
    retriever.close()
    report = pooled(folder, store, depth=3)
    assert items(folder) == found
    assert report.items == len(found)
    assert report.queries == 2
    assert report.status.queries == {"file": 2}


def test_further_systems_add_what_is_new_and_judgements_stay(folder: Path, store: str) -> None:
    pooled(folder, store, systems=["sparse"], depth=2)
    with Pool(folder) as pool:
        item = pool.next_item()
        assert item is not None
        pool.judge(item, 2)
    before = items(folder)
    run = {"q1": {"pine.md": 2.0, "oak.md": 1.0, "spruce.md": 0.5}, "other": {"elm.md": 1.0}}
    report = pooled(folder, store, queries={}, systems=["sparse", "dense"], runs={"other.run": run})
    after = items(folder)
    assert before.keys() < after.keys()
    assert report.items == len(after) - len(before)
    assert after["q1", "pine.md"]["other.run"] == 1
    assert after["q1", "oak.md"]["other.run"] == 2
    assert ("q1", "spruce.md") not in after or "other.run" not in after["q1", "spruce.md"], "top 2"
    assert report.status.judged == 1
    assert report.status.grades == {2: 1}
    assert any("has 1 of the pool's 2 queries" in notice for notice in report.notices)
    assert json.loads((folder / "pool.json").read_text())["systems"] == [
        "sparse", "dense", "other.run",
    ]  # fmt: skip


def test_what_a_run_names_and_the_collection_lacks(folder: Path, store: str) -> None:
    report = pooled(folder, store, runs={"r": {"q1": {"gone.md": 2.0, "ash.md": 1.0}}})
    assert any("1 documents of the run 'r' are not in the coll" in one for one in report.notices)
    with Pool(folder) as pool:
        assert "ash.md" in pool.keys
        assert "gone.md" not in pool.keys
    with pytest.raises(InvalidInput, match="no document of the run 'r' is in the collection"):
        pooled(folder, store, runs={"r": {"q1": {"gone.md": 2.0}}})
    with pytest.raises(InvalidInput, match="the run 'r' has none of the pool's queries: it has '9"):
        pooled(folder, store, runs={"r": {"9": {"ash.md": 2.0}}})


def test_the_judge_sees_every_passage_by_which_a_document_was_found(
    folder: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "split")
    parts = ["Oaks bear acorns in autumn.", "Nothing of note.", "Where the oak is, jays are."]
    filler = [f"Sentence {n} about something else entirely, so that parts part." for n in range(9)]
    text = "\n\n".join([parts[0], *filler, parts[2]])
    retrieval.ingest(
        [retrieval.Document("long.md", text)], "docs", store=store, encoder=HashingEncoder(),
        max_tokens=40, overlap_tokens=0,
    )  # fmt: skip
    pooled(folder, store, queries={"file": [("q1", "oaks bear acorns autumn where the oak is")]})
    with Pool(folder) as pool:
        item = pool.next_item()
        assert item is not None
        texts = [passage.text for passage in item.passages]
        positions = [text.index(part) for part in texts]
        assert positions == sorted(positions)
        assert len(set(texts)) == len(texts)


def test_a_collection_made_anew_keeps_the_judgements(folder: Path, store: str) -> None:
    pooled(folder, store)
    with Pool(folder) as pool:
        item = pool.next_item()
        assert item is not None
        pool.judge(item, 1)
    place = retrieval.Store(store)
    place.delete("docs")
    left = [retrieval.Document(k, text) for k, text in TEXTS.items() if k != "oak.md"]
    retrieval.ingest(left, "docs", store=store, encoder=HashingEncoder())
    report = pooled(folder, store, queries={})
    (notice,) = [one for one in report.notices if "was made anew" in one]
    assert "1 of its" in notice
    assert report.status.judged == 1
    assert not [one for one in pooled(folder, store, queries={}).notices if "made anew" in one]


def test_what_cannot_be_made_is_refused_before_a_folder_is_there(
    folder: Path, store: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="no query was given"):
        pooled(folder, store, queries={})
    with pytest.raises(InvalidInput, match="there is no system 'bm25'"):
        pooled(folder, store, systems=["bm25"])
    with pytest.raises(InvalidInput, match="'hybrid\\+rerank' re-ranks, and there is no reranker"):
        pooled(folder, store, systems=["hybrid+rerank"])
    for depth in (0, 51):
        with pytest.raises(InvalidInput, match=f"depth is {depth}"):
            pooled(folder, store, depth=depth)
    with pytest.raises(InvalidInput, match="no language model was given"):
        pooled(folder, store, synthetic=3)
    with pytest.raises(CollectionNotFound):
        make_pool(folder, "nowhere", queries={"file": [("1", "x")]}, store=store)
    empty = str(tmp_path / "empty")
    retrieval.ingest([retrieval.Document("a", "b")], "docs", store=empty, encoder=HashingEncoder())
    with retrieval.Store(empty).open("docs") as index:
        index.delete_documents(["a"])
    with pytest.raises(InvalidInput, match="the collection 'docs' is empty"):
        pooled(folder, empty)
    assert not folder.exists()
    pooled(folder, store, seed=4)
    with pytest.raises(InvalidInput, match=r"the seed is 5, and that of the pool .* is 4"):
        pooled(folder, store, seed=5)


def test_tenants_have_pools_of_their_own(folder: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "tenants")
    for tenant in ("a", "b"):
        retrieval.ingest(
            [retrieval.Document(f"{tenant}.md", TEXTS["oak.md"])], "docs", store=store,
            encoder=HashingEncoder(), tenant=tenant,
        )  # fmt: skip
    with pytest.raises(InvalidInput, match="tenant"):
        pooled(folder, store)
    pooled(folder, store, tenant="b", runs={"r": {"q1": {"b.md": 2.0, "a.md": 1.0}}})
    with Pool(folder) as pool:
        assert pool.keys == {"b.md"}
    written = pooled(folder, store, tenant="b", synthetic=5, write=of_tree).synthetic
    assert written is not None
    assert written.kept == 1


@pytest.mark.shared_data
def test_a_pool_judged_in_full_ranks_as_the_whole_set_does(
    folder: Path, tmp_path: Path, shared_data: Path
) -> None:
    """What is in no system's top 10 cannot change P@10 or MRR@10: both are the same."""
    judged = load_judgements(shared_data / "adi")
    documents = judged.documents()
    assert documents is not None
    store = str(tmp_path / "adi")
    retrieval.ingest(list(documents), "docs", store=store, encoder=HashingEncoder())
    pooled(folder, store, queries={"file": judged.queries.items()})
    with Pool(folder) as pool:
        while (item := pool.next_item()) is not None:
            pool.judge(item, min(2, max(0, judged.qrels[item.query.id].get(item.key, 0))))
    measures = ("P@10", "MRR@10")
    options: Any = {
        "collection": "docs", "store": store, "encoder": HashingEncoder(), "rerank": False,
        "measures": measures,
    }  # fmt: skip
    ours = evaluate_folder(folder, **options)
    whole = evaluate_folder(shared_data / "adi", **options)
    assert [row.measures for row in ours.rows] == [row.measures for row in whole.rows]
    assert ours.rows[0].measures["P@10"] > 0


# --- written by a language model -----------------------------------------------------------------


def of_tree(prompt: str) -> str:
    """A question for the tree whose name stands in capitals; none for the alder."""
    tree = next(tree for tree in TREES if tree.upper() in prompt)
    return {
        "alder": "One?\nTwo?",
        "ash": "xyzzy",
        "elm": "What is the OAK used for?",
        "oak": "what is the oak used for?",
    }.get(tree, f"Question: what is the {tree} used for?")


def outcomes(folder: Path) -> list[dict[str, str]]:
    return [json.loads(x) for x in (folder / "synthetic.jsonl").read_text().splitlines()]


def test_questions_are_kept_where_they_find_their_passage(folder: Path, store: str) -> None:
    report = pooled(
        folder, store, queries={}, synthetic=100, write=of_tree, keep_within=1
    ).synthetic
    assert report is not None
    assert report.written == 10, "a passage that is too short is not asked for"
    assert report.dropped["not one question"] == 1
    assert report.written == report.kept + sum(report.dropped.values())
    by_key = {one["key"]: one["outcome"] for one in outcomes(folder)}
    assert by_key["pine.md"] == "kept"
    assert by_key["alder.md"] == "not one question"
    assert by_key["ash.md"] == "its document was not in the first 1"
    assert by_key["elm.md"] != "kept", "it asks for another tree"
    with Pool(folder) as pool:
        assert {query.origin for query in pool.queries.values()} == {"synthetic"}
        item = pool.next_item()
        assert item is not None
        assert item.key == item.query.answered_by
    rows = (folder / "qrels" / "synthetic.tsv").read_text().splitlines()[1:]
    assert len(rows) == report.kept
    assert {row.split("\t")[2] for row in rows} == {"1"}
    assert (folder / "qrels" / "test.tsv").read_text() == "query-id\tcorpus-id\tscore\n"


def test_a_model_that_fails_loses_nothing_and_the_next_run_goes_on(
    folder: Path, store: str
) -> None:
    asked: list[str] = []

    def failing(prompt: str) -> str:
        if len(asked) == 4:
            raise RetrievalError("the model is down", fix="Start it.")
        asked.append(prompt)
        return of_tree(prompt)

    told: list[str] = []
    with pytest.raises(RetrievalError, match="the model is down"):
        pooled(folder, store, synthetic=8, write=failing, on_notice=told.append)
    assert any("failed after 4 of 8 questions" in notice for notice in told)
    assert len(outcomes(folder)) == 4
    with Pool(folder) as pool:
        assert {query.origin for query in pool.queries.values()} >= {"file"}
    again: list[str] = []

    def working(prompt: str) -> str:
        again.append(prompt)
        return of_tree(prompt)

    with (folder / "synthetic.jsonl").open("a") as torn:
        torn.write('{"passage": "half a')
    pooled(folder, store, queries={}, synthetic=8, write=working)
    assert len(again) == 4
    assert not set(again) & set(asked)
    once = pooled(folder, store, queries={}, synthetic=8, write=working).synthetic
    assert once is not None
    assert (once.written, len(again)) == (0, 4)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(
    retriever: retrieval.TwoStageRetriever,
) -> None:
    index = retriever.index
    large = [one.document_id for one in sample_passages(index, 10, seed=1)]
    assert sorted(large) == sorted(TEXTS), "each document once, the tiny one never"
    assert [one.document_id for one in sample_passages(index, 4, seed=1)] == large[:4]
    assert [one.document_id for one in sample_passages(index, 10, seed=2)] != large


def test_a_collection_of_tiny_passages_has_nothing_to_ask_about(
    folder: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "tiny")
    retrieval.ingest([retrieval.Document("a", "b")], "docs", store=store, encoder=HashingEncoder())
    with pytest.raises(InvalidInput, match="no passage of the collection has 80 letters"):
        pooled(folder, store, queries={}, synthetic=1, write=of_tree)


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("when is lunch?", "when is lunch?"),
        ('\n "When is lunch?" \n', "When is lunch?"),
        ("Question: 谁付钱？", "谁付钱？"),
        ("<think>let me\nsee</think>\n\nWhen?", "When?"),
        ("One?\n\nTwo?", None),
        ("", None),
        ('""', None),
        ("long " * 100, None),
        ("half \ud800", None),
    ],
)
def test_the_question_in_an_answer(answer: str, question: str | None) -> None:
    assert question_of(answer) == question
