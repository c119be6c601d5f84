"""A real mteb task over data made here, without a network, against this library's own measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

import retrieval  # noqa: E402
from retrieval.errors import InvalidInput  # noqa: E402
from retrieval.integrations.mteb import MtebCrossEncoder, MtebEncoder  # noqa: E402

CORPUS = {
    "expenses": "Travel costs are paid back within ten days after the receipts were handed in.",
    "hotels": "Hotels are booked through the travel desk, which also pays for them.",
    "trains": "For journeys under four hours people take the train, in second class.",
    "lunch": "The canteen serves soup and bread from noon until two.",
    "fish": "On Fridays there is fish with potatoes.",
    "passwords": "Whoever has lost a password follows the link on the sign-in page.",
    "keys": "Keys of the building are handed out at the front office.",
    "backups": "Copies of the database are made every night and kept for thirty days.",
    "printer": "When the printer is out of toner, there is more in the cupboard.",
    "holidays": "Holidays are asked for two weeks ahead and approved by the team lead.",
    "sick": "Whoever is ill says so before nine, and hands in a note after three days.",
    "parking": "Visitors park behind the building, where four places are kept for them.",
}
QUERIES = {
    "q1": "how do I get my travel costs back?",
    "q2": "what is there to eat?",
    "q3": "I cannot get in",
    "q4": "may I stay at home?",
    "q5": "where is the data kept?",
}
# some of them nothing finds first: the measures must agree below 1, too
QRELS = {
    "q1": {"hotels": 1, "expenses": 2, "trains": 1},
    "q2": {"fish": 2, "lunch": 1},
    "q3": {"keys": 1, "passwords": 1, "parking": 1},
    "q4": {"sick": 2, "holidays": 1},
    "q5": {"backups": 1, "printer": 1},
}


class OfficeRetrieval(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="OfficeRetrieval",
        description="Questions about an office.",
        reference=None,
        dataset={"path": "made/here", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=("2024-01-01", "2024-01-01"),
        domains=[],
        task_subtypes=[],
        license="cc-by-4.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        corpus = [{"id": id_, "text": text, "title": ""} for id_, text in CORPUS.items()]
        queries = [{"id": id_, "text": text} for id_, text in QUERIES.items()]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": {id_: dict(grades) for id_, grades in QRELS.items()},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[retrieval.TwoStageRetriever]:
    store = str(tmp_path_factory.mktemp("mteb") / "store")
    documents = [retrieval.Document(id=id_, text=text) for id_, text in CORPUS.items()]
    encoder = retrieval.BiEncoder(
        "all-MiniLM-L6-v2", threads=2, dtype="fp32", query_instruction="ask: "
    )
    retrieval.ingest(documents, "docs", store=store, encoder=encoder)
    with retrieval.open("docs", store=store, encoder=encoder, reranker="maxsim") as retriever:
        yield retriever


@pytest.fixture(scope="module")
def report(opened: retrieval.TwoStageRetriever) -> dict[str, float]:
    """nDCG@10 as this library measures it, by stage."""
    rows = retrieval.evaluate(
        opened, QUERIES, QRELS, modes=["dense"], candidates=10, blend="none"
    ).rows
    return {row.name: row.measures["nDCG@10"] for row in rows}


def scores_of(model: Any, task: AbsTaskRetrieval, **options: Any) -> dict[str, float]:
    options = {"cache": None, "show_progress_bar": False, "co2_tracker": False, **options}
    result = mteb.evaluate(model, task, **options)
    (scores,) = result.task_results[0].scores["test"]
    return dict(scores)


def test_both_stages_measure_the_same_in_mteb(
    opened: retrieval.TwoStageRetriever, report: dict[str, float], tmp_path: Path
) -> None:
    task = OfficeRetrieval()
    first = scores_of(MtebEncoder(opened.encoder), task, prediction_folder=tmp_path)
    assert first["ndcg_at_10"] == pytest.approx(report["dense"], abs=1e-5)
    assert 0.3 < first["ndcg_at_10"] < 1

    assert opened.reranker is not None
    reranking = OfficeRetrieval().convert_to_reranking(tmp_path, top_k=10)
    second = scores_of(MtebCrossEncoder(opened.reranker), reranking)
    assert second["ndcg_at_10"] == pytest.approx(report["dense+rerank"], abs=1e-5)
    assert second["ndcg_at_10"] != first["ndcg_at_10"]


def test_the_right_protocols(opened: retrieval.TwoStageRetriever) -> None:
    encoder = MtebEncoder(opened.encoder)
    assert isinstance(encoder, EncoderProtocol)
    assert not isinstance(encoder, (CrossEncoderProtocol, SearchProtocol))
    assert opened.reranker is not None
    reranker = MtebCrossEncoder(opened.reranker)
    assert isinstance(reranker, CrossEncoderProtocol)
    assert not isinstance(reranker, (EncoderProtocol, SearchProtocol))


def test_results_name_the_model(opened: retrieval.TwoStageRetriever) -> None:
    info = opened.encoder.info
    meta = MtebEncoder(opened.encoder).mteb_model_meta
    assert meta.name is not None
    assert meta.name.count("/") == 1
    assert info.fingerprint.removeprefix("sha256:").startswith(str(meta.revision))
    assert meta.embed_dim == info.dimension
    assert meta.max_tokens == info.max_length
    assert meta.use_instructions is True
    assert opened.reranker is not None
    assert MtebCrossEncoder(opened.reranker).mteb_model_meta.is_cross_encoder


def test_only_queries_get_the_instruction(opened: retrieval.TwoStageRetriever) -> None:
    model = MtebEncoder(opened.encoder)
    batches = [{"text": ["soup"]}, {"text": ["bread", "fish"]}]
    queries = model.encode(batches, prompt_type=PromptType.query)
    passages = model.encode(batches, prompt_type=PromptType.document)
    assert queries.shape == passages.shape == (3, 384)
    assert abs(queries - passages).max() > 0.01
    assert (model.encode(batches) == passages).all()


def test_a_model_by_name() -> None:
    model = MtebEncoder("all-MiniLM-L6-v2", None, device="cpu", threads=2)
    assert model.encode([{"text": ["soup"]}]).shape == (1, 384)
    model.close()
    reranker = MtebCrossEncoder("maxsim", None, "cpu", threads=2)
    assert reranker.predict([{"text": ["a"]}], [{"text": ["b"]}]).shape == (1,)
    assert reranker.predict([], []).shape == (0,)
    reranker.close()


def test_what_is_no_text_is_refused(opened: retrieval.TwoStageRetriever) -> None:
    with pytest.raises(InvalidInput, match="'text'"):
        MtebEncoder(opened.encoder).encode([{"image": [1]}])
    assert opened.reranker is not None
    with pytest.raises(InvalidInput, match="paired"):
        MtebCrossEncoder(opened.reranker).predict([{"text": ["a"]}], [{"text": ["b", "c"]}])
