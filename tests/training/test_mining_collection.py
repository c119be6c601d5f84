"""Mining from a collection: several first stages, documents of many passages, judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval.api.mine import mine
from retrieval.api.mine_collection import CollectionCandidates, judged_queries
from retrieval.errors import CollectionNotFound, InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.training.data.flag_jsonl import read_flag_jsonl
from retrieval.training.examples import TrainingExample
from retrieval.training.mining.candidates import MiningQuery
from retrieval.training.mining.choosing import _ordered
from retrieval.training.mining.settings import MiningSettings

HANDBOOK = (
    "# Garden\n\nThe garden is open to all and it is green in summer.\n\n"
    "# Gate\n\nThe gate closes at ten in the evening, says the porter.\n\n"
    "# Soup\n\nSoup is served at noon in the hall by the cook.\n"
)
DOCUMENTS = {
    "handbook.md": HANDBOOK,
    "winter.md": "In winter the gate closes at five.",
    "paint.md": "The gate was painted in the evening.",
    "图书馆.md": "图书馆晚上九点关门。",
    "rain.md": "It rains in the evening.",
    "zebra.md": "Zebra ZX-81 is a word that vectors of hashed words do not know.",
}


@pytest.fixture
def store(tmp_path: Path) -> str:
    place = str(tmp_path / "store")
    documents = [retrieval.Document(key, text) for key, text in DOCUMENTS.items()]
    retrieval.ingest(
        documents, "docs", store=place, encoder=HashingEncoder(), max_tokens=20, overlap_tokens=0
    )
    return place


@pytest.fixture(autouse=True)
def _hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections of the tests are opened with the encoder that has no weights."""
    import retrieval.api.open as opening

    monkeypatch.setattr(opening, "encoder_of", lambda *_, **__: HashingEncoder())


def judged(grades: dict[str, dict[str, int]], queries: dict[str, str]) -> JudgedQueries:
    return JudgedQueries("own", "train", queries, grades)


def mined(source: Any, output: Path, store: str, teacher: Any = "encoder", **settings: Any) -> Any:
    return mine(
        source, output, collection="docs", store=store, teacher=teacher,
        settings=MiningSettings(**settings), restart=True,
    )  # fmt: skip


def test_the_encoder_as_a_teacher_takes_the_stored_vectors(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No passage is encoded again; a given positive that is not stored is encoded."""
    encoded: list[str] = []
    encode = HashingEncoder.encode_passages

    def noted(self: Any, texts: Any, **options: Any) -> Any:
        encoded.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(HashingEncoder, "encode_passages", noted)
    queries, grades = {"q1": "when does the gate close?"}, {"q1": {"winter.md": 1}}
    output = tmp_path / "out.jsonl"
    mined(judged(grades, queries), output, store, relative_margin=-1, negatives=3)
    assert encoded == []
    (found,) = read_flag_jsonl(output)
    assert found.positive_scores is not None
    assert found.negative_scores is not None
    encoder = HashingEncoder()
    query = encoder.encode_queries([found.query])[0]
    texts = [*found.positives, *found.negatives]
    own = encode(encoder, texts).vectors @ query
    scores = [*found.positive_scores, *found.negative_scores]
    assert scores == pytest.approx(own.tolist(), abs=1e-5)
    mined([TrainingExample("when is it cold?", ("It is cold in winter.",))], output, store)
    assert encoded == ["It is cold in winter."]


def test_the_passage_of_a_judged_document_that_answers_is_the_positive(
    tmp_path: Path, store: str
) -> None:
    queries = {"q1": "when does the gate close in the evening?", "q2": "who serves soup at noon?"}
    grades = {"q1": {"handbook.md": 2, "paint.md": 0, "winter.md": 1}, "q2": {"handbook.md": 1}}
    output = tmp_path / "out.jsonl"
    report = mined(judged(grades, queries), output, store, grade=2, relative_margin=-1)
    # of q2 no document has grade 2
    (first,) = read_flag_jsonl(output)
    assert first.positive_ids[0].startswith("handbook.md#passage=")
    assert "ten in the evening" in first.positives[0]
    # judged as not relevant comes first; what has a low grade is no negative
    assert first.negative_ids[0] == "paint.md"
    assert "winter.md" not in first.negative_ids
    # other passages of the document are no negatives
    assert not any(one.startswith("handbook.md") for one in first.negative_ids)
    assert report.chosen_passages == 1
    assert report.sources["judged"] == 1
    assert report.dropped["of a relevant document"] >= 1
    assert "1 positives are the best passage" in report.as_text()
    report = mined(judged(grades, queries), output, store, "none")
    both = list(read_flag_jsonl(output))
    assert [one.query_id for one in both] == ["q1", "q2"]
    assert "Soup" in both[1].positives[0]


def test_candidates_of_several_first_stages_are_mixed(tmp_path: Path, store: str) -> None:
    example = TrainingExample("ZX-81 gate evening", ("It is a computer.",))
    output = tmp_path / "out.jsonl"
    report = mined([example], output, store, "none", sources="dense,sparse", negatives=4)
    assert set(report.sources) == {"dense", "sparse"}
    (made,) = read_flag_jsonl(output)
    assert "zebra.md" in made.negative_ids
    again = mined([example], output, store, "none", sources="hybrid", negatives=4)
    assert set(again.sources) == {"hybrid"}


def test_shares_of_sources_are_taken_in_turn(store: str) -> None:
    settings = MiningSettings(sources="dense:2,sparse:1", rank_to=3)
    with retrieval.open("docs", store=store, reranker=None) as retriever:
        candidates = CollectionCandidates(retriever, settings, None)
        query = MiningQuery("gate evening garden soup", (), frozenset())
        ((_, found),) = candidates.find([query], 0)
    ordered = _ordered(found, query.text, settings)
    ids = [one.passage.id for one in ordered]
    assert len(set(ids)) == len(ids)
    by_source = {
        source: [one.passage.id for one in found if one.source == source]
        for source in ("dense", "sparse")
    }
    assert ids[:2] == by_source["dense"][:2]
    assert ordered[2].source == "sparse" or by_source["sparse"][0] in ids[:2]


def test_a_positive_given_as_text_is_known_by_its_document(tmp_path: Path, store: str) -> None:
    with retrieval.open("docs", store=store, reranker=None) as retriever:
        passages = list(retriever.index.passages())
    gate = next(one for one in passages if "ten in the evening" in one.text)
    output = tmp_path / "out.jsonl"
    mined([TrainingExample("when does the gate close?", (gate.content,))], output, store)
    (made,) = read_flag_jsonl(output)
    assert made.negative_ids
    assert not any(one.startswith("handbook.md") for one in made.negative_ids)


def test_a_table_that_names_documents_is_resolved(tmp_path: Path, store: str) -> None:
    table = tmp_path / "own.csv"
    table.write_text(
        "\ufeffquery;relevant\r\n图书馆几点关门;图书馆.md\r\nwhen is soup?;handbook.md#Soup\r\n",
        encoding="utf-8",
    )
    output = tmp_path / "out.jsonl"
    report = mined(table, output, store)
    first, second = read_flag_jsonl(output)
    assert first.positives == ("图书馆晚上九点关门。",)
    assert "Soup is served" in second.positives[0]
    assert report.queries == 2


def test_a_filter_bounds_what_becomes_a_negative(tmp_path: Path, store: str) -> None:
    output = tmp_path / "out.jsonl"
    mine(
        [TrainingExample("the gate in the evening", ("No.",))], output, collection="docs",
        store=store, teacher="none", where={"document_id": ["rain.md", "paint.md"]},
    )  # fmt: skip
    (made,) = read_flag_jsonl(output)
    assert set(made.negative_ids) == {"rain.md", "paint.md"}


def test_queries_whose_documents_are_not_there_are_left_out(tmp_path: Path, store: str) -> None:
    queries = {"a": "the gate?", "b": "soup?"}
    grades = {"a": {"gone.md": 1}, "b": {"handbook.md": 1, "gone.md": 1}}
    output = tmp_path / "out.jsonl"
    report = mined(judged(grades, queries), output, store)
    assert (report.queries, report.left_out) == (1, 1)
    assert [json.loads(line)["query_id"] for line in output.read_text().splitlines()] == ["b"]
    with pytest.raises(InvalidInput, match="grade 3"):
        judged_queries(judged(grades, queries), 3)


def test_what_a_collection_lacks_is_told_before_the_work(tmp_path: Path, store: str) -> None:
    example = [TrainingExample("gate?", ("No.",))]
    with pytest.raises(InvalidInput, match="lexical"):
        mined(example, tmp_path / "out.jsonl", store, sources="lexical")
    with pytest.raises(CollectionNotFound):
        mine(example, tmp_path / "out.jsonl", collection="absent", store=store)
    with pytest.raises(InvalidInput, match="without a collection"):
        mine(judged({}, {}), tmp_path / "out.jsonl", encoder=HashingEncoder(), teacher="none")
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
