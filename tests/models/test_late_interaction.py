"""MaxSim over the starter's token vectors: its value, its cache, its bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models.batches import in_threads

from retrieval.errors import InvalidInput, ModelFault
from retrieval.evaluation.beir import load_beir
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers import late_interaction
from retrieval.models.rerankers.late_interaction import LateInteractionReranker, maxsim
from retrieval.types import EncoderInfo, FloatArray, Reranker, TokenCounter

PASSAGES = [
    "shutil.copytree recursively copies an entire directory tree to another place.",
    "argparse parses command line options, arguments and sub-commands.",
    "subprocess.run runs a command and waits for it, with an optional timeout.",
    "The quick brown fox jumps over the lazy dog.",
    "",
]
QUERIES = ["how do I copy a whole directory tree", "parse command line arguments"]
PAIRS = [(query, passage) for query in QUERIES for passage in PASSAGES]


class Counted:
    """The starter's encoder, counting what it is asked to encode."""

    def __init__(self, encoder: BiEncoder) -> None:
        self._encoder = encoder
        self.passages: list[str] = []

    @property
    def info(self) -> EncoderInfo:
        return self._encoder.info

    @property
    def token_counter(self) -> TokenCounter:
        return self._encoder.token_counter

    def encode_tokens(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> list[FloatArray]:
        if kind == "passage":
            self.passages += texts
        return self._encoder.encode_tokens(texts, kind)


@pytest.fixture
def counted(starter_encoder: BiEncoder) -> Counted:
    return Counted(starter_encoder)


@pytest.fixture(scope="module")
def reranker(starter_encoder: BiEncoder) -> LateInteractionReranker:
    return LateInteractionReranker(starter_encoder)


# --- the score ------------------------------------------------------------------------------


def slow_maxsim(query: Any, passage: Any) -> float:
    """The definition, written out."""
    return float(np.mean([max(float(np.dot(q, p)) for p in passage) for q in query]))


def rows(seed: int, n: int, dimension: int = 8) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(1, 6), st.lists(st.integers(1, 9), max_size=12), st.integers(1, 2000), st.data())
@settings(max_examples=25)
def test_maxsim_is_its_definition(
    query_tokens: int, lengths: list[int], working_bytes: int, data: st.DataObject
) -> None:
    query = rows(1, query_tokens)
    passages = [rows(2 + i, length) for i, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(late_interaction, "WORKING_BYTES", working_bytes)
        values = maxsim(query, passages)
    assert values.dtype == np.float64
    expected = [slow_maxsim(query, passage) for passage in passages]
    np.testing.assert_allclose(values, expected, atol=2e-6)


def test_equal_passages_tie_wherever_they_stand(reranker: LateInteractionReranker) -> None:
    # The tokeniser lowers case, so these three are one text to the model.
    twins = ["The Quick Fox", *PASSAGES, "the quick fox", *PASSAGES[::-1], "THE QUICK FOX"]
    for query in QUERIES:
        values = reranker.score([(query, text) for text in twins]).values
        assert values[0] == values[6] == values[12]
        assert values[1:6].tolist() == values[11:6:-1].tolist()


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(-2, 2)))
def test_relevance_is_the_score_within_bounds(scores: Any) -> None:
    relevance = LateInteractionReranker.relevance(None, scores)  # type: ignore[arg-type]
    assert relevance.dtype == np.float64
    np.testing.assert_array_equal(relevance, np.minimum(np.maximum(scores, 0), 1))


def test_is_a_reranker(reranker: LateInteractionReranker, starter_encoder: BiEncoder) -> None:
    assert isinstance(reranker, Reranker)
    info = reranker.info
    assert info.kind == "late-interaction"
    assert info.model == starter_encoder.info.model
    assert info.fingerprint == starter_encoder.info.fingerprint
    assert info.max_length == 256
    assert LateInteractionReranker(starter_encoder, name="starter").info.model == "starter"


def test_scores_are_maxsim_of_transformers_hidden_states(
    starter_path: Path, reranker: LateInteractionReranker
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(starter_path)
    model = AutoModel.from_pretrained(starter_path).eval()

    def states(text: str) -> Any:
        with torch.inference_mode():
            # Special tokens are kept; MiniLM takes no instruction.
            inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden, dim=-1).numpy()

    expected = [slow_maxsim(states(query), states(passage)) for query, passage in PAIRS]
    # bf16 where the CPU has it, and float16 in the cache.
    np.testing.assert_allclose(reranker.score(PAIRS).values, expected, atol=5e-3)


def test_fp32_agrees_closely(starter_path: Path, reranker: LateInteractionReranker) -> None:
    exact = LateInteractionReranker(
        BiEncoder("all-MiniLM-L6-v2", engine="transformers", dtype="fp32")
    )
    np.testing.assert_allclose(reranker.score(PAIRS).values, exact.score(PAIRS).values, atol=5e-3)


def test_the_right_passage_wins(reranker: LateInteractionReranker) -> None:
    scores = reranker.score(PAIRS).values.reshape(len(QUERIES), len(PASSAGES))
    assert scores.argmax(axis=1).tolist() == [0, 1]


def test_a_text_matches_itself_wholly(reranker: LateInteractionReranker) -> None:
    values = reranker.score([(PASSAGES[0], PASSAGES[0])]).values
    assert values[0] == pytest.approx(1.0, abs=2e-3)
    assert reranker.relevance(values)[0] <= 1.0


def test_the_queries_instruction_is_put_before_queries_only(
    tiny_bert_encoder: Path, make_resolved_encoder: Callable[..., Any]
) -> None:
    def scores(pairs: list[tuple[str, str]], **spec: str) -> Any:
        encoder = BiEncoder(
            make_resolved_encoder(tiny_bert_encoder, **spec), engine="transformers", dtype="fp32"
        )
        return LateInteractionReranker(encoder).score(pairs).values

    with_it = scores([("copy a tree", "the quick fox")], query_instruction="find the path: ")
    by_hand = scores([("find the path: copy a tree", "the quick fox")])
    assert with_it == pytest.approx(by_hand, abs=1e-6)
    assert with_it != pytest.approx(scores([("copy a tree", "the quick fox")]), abs=1e-3)


# --- order, sharing, progress ---------------------------------------------------------------


def test_scores_follow_the_order_of_the_pairs(reranker: LateInteractionReranker) -> None:
    order = np.random.default_rng(0).permutation(len(PAIRS))
    shuffled = reranker.score([PAIRS[i] for i in order]).values
    np.testing.assert_allclose(shuffled, reranker.score(PAIRS).values[order], atol=1e-6)


def test_a_passage_is_encoded_once_and_scores_alike_from_the_cache(counted: Counted) -> None:
    reranker = LateInteractionReranker(counted)
    first = reranker.score(PAIRS + PAIRS)
    assert sorted(counted.passages) == sorted(PASSAGES)
    again = reranker.score(PAIRS)
    assert len(counted.passages) == len(PASSAGES)
    np.testing.assert_allclose(again.values, first.values[: len(PAIRS)], atol=1e-6)
    np.testing.assert_array_equal(first.values[: len(PAIRS)], first.values[len(PAIRS) :])


def test_without_a_cache_scores_are_the_same(
    counted: Counted, reranker: LateInteractionReranker
) -> None:
    bare = LateInteractionReranker(counted, max_cache_bytes=0)
    bare.score(PAIRS)
    np.testing.assert_allclose(bare.score(PAIRS).values, reranker.score(PAIRS).values, atol=1e-6)
    assert len(counted.passages) == 2 * len(PASSAGES)


def test_the_cache_is_bounded_and_forgets_the_longest_unused(counted: Counted) -> None:
    texts = [f"{word} word" for word in ("one", "two", "three")]
    size = 4 * 384 * 2  # [CLS] one word [SEP] in float16
    reranker = LateInteractionReranker(counted, max_cache_bytes=2 * size)

    def ask(index: int) -> int:
        before = len(counted.passages)
        reranker.score([("a query", texts[index])])
        assert reranker._caches["passage"][0]._bytes <= 2 * size
        return len(counted.passages) - before

    assert [ask(0), ask(1), ask(0), ask(2)] == [1, 1, 0, 1]
    assert ask(0) == 0, "used last, so kept"
    assert ask(1) == 1, "forgotten to make room"


def test_a_query_whose_pairs_come_in_several_calls_is_encoded_once(counted: Counted) -> None:
    asked: list[str] = []
    encode = counted.encode_tokens

    def watched(texts: Sequence[str], kind: Literal["query", "passage"]) -> list[FloatArray]:
        asked.extend(texts if kind == "query" else ())
        return encode(texts, kind)

    whole = LateInteractionReranker(counted).score(PAIRS).values
    counted.encode_tokens = watched  # type: ignore[method-assign]
    reranker = LateInteractionReranker(counted)
    parts = np.concatenate([reranker.score([pair]).values for pair in PAIRS])
    np.testing.assert_allclose(parts, whole, atol=2e-3)
    assert sorted(asked) == sorted({query for query, _ in PAIRS})


def test_a_passage_larger_than_the_cache_is_not_kept(counted: Counted) -> None:
    reranker = LateInteractionReranker(counted, max_cache_bytes=100)
    reranker.score(PAIRS)
    assert reranker._caches["passage"][0]._bytes == 0


@pytest.mark.parametrize("working_bytes", [1, 200_000])
def test_working_memory_is_bounded_whatever_the_number_of_pairs(
    monkeypatch: pytest.MonkeyPatch, counted: Counted, working_bytes: int
) -> None:
    expected = LateInteractionReranker(counted).score(PAIRS)
    monkeypatch.setattr(late_interaction, "WORKING_BYTES", working_bytes)
    sizes: list[int] = []
    encode = counted.encode_tokens

    def measured(texts: Sequence[str], kind: Literal["query", "passage"]) -> list[FloatArray]:
        matrices = encode(texts, kind)
        if kind == "passage":
            sizes.append(sum(matrix.nbytes for matrix in matrices))
        return matrices

    monkeypatch.setattr(counted, "encode_tokens", measured)
    calls: list[tuple[int, int]] = []
    scores = LateInteractionReranker(counted, max_cache_bytes=0).score(
        PAIRS, progress=lambda *call: calls.append(call)
    )
    np.testing.assert_allclose(scores.values, expected.values, atol=2e-3)
    one_passage = 30 * 384 * 4
    assert max(sizes) <= max(working_bytes, one_passage)
    assert len(calls) > 2
    assert [total for _, total in calls] == [len(PAIRS)] * len(calls)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (len(PAIRS), len(PAIRS))


def test_no_pairs_no_scores(reranker: LateInteractionReranker) -> None:
    scores = reranker.score([])
    assert scores.values.shape == scores.truncated.shape == (0,)


def test_truncation_is_reported_for_either_side(reranker: LateInteractionReranker) -> None:
    long, full = "fox " * 300, "fox " * 254  # 254 words and two special tokens fit
    pairs = [("fox", "dog"), ("fox", long), (long, "dog"), ("fox", full), (full, "dog")]
    assert reranker.score(pairs).truncated.tolist() == [False, True, True, False, False]


def test_may_be_called_from_several_threads(
    starter_encoder: BiEncoder, reranker: LateInteractionReranker
) -> None:
    shared = LateInteractionReranker(starter_encoder, max_cache_bytes=20_000)
    expected = reranker.score(PAIRS).values
    results = in_threads(lambda _: [shared.score(PAIRS).values for _ in range(3)])
    for values in (value for result in results for value in result):
        np.testing.assert_allclose(values, expected, atol=2e-3)
    assert shared._caches["passage"][0]._bytes == sum(
        e.vectors.nbytes for e in shared._caches["passage"][0]._kept.values()
    )


# --- what is refused ------------------------------------------------------------------------


def test_a_negative_cache_is_refused(starter_encoder: BiEncoder) -> None:
    with pytest.raises(InvalidInput, match="max_cache_bytes is -1"):
        LateInteractionReranker(starter_encoder, max_cache_bytes=-1)


@pytest.mark.parametrize("pairs", [[("a", None)], [b"ab"], "ab", [("a",)]])
def test_what_is_no_pair_of_texts_is_refused(reranker: LateInteractionReranker, pairs: Any) -> None:
    with pytest.raises(InvalidInput, match="pair"):
        reranker.score(pairs)


def test_lone_surrogates_are_scored(reranker: LateInteractionReranker) -> None:
    assert np.isfinite(reranker.score([("\ud800 what", "a \udfff b")]).values).all()


def test_token_vectors_that_are_no_numbers_are_a_fault(counted: Counted) -> None:
    encode = counted.encode_tokens

    def broken(texts: Sequence[str], kind: Literal["query", "passage"]) -> list[FloatArray]:
        return [np.full_like(matrix, np.nan) for matrix in encode(texts, kind)]

    counted.encode_tokens = broken  # type: ignore[method-assign]
    reranker = LateInteractionReranker(counted)
    with pytest.raises(ModelFault, match="not finite numbers for the query 'how do I"):
        reranker.score(PAIRS)
    counted.encode_tokens = encode  # type: ignore[method-assign]
    assert np.isfinite(reranker.score(PAIRS).values).all(), "damaged vectors must not be kept"


# --- quality --------------------------------------------------------------------------------


@pytest.mark.shared_data
@pytest.mark.slow
def test_lifts_bm25_on_dl20(shared_data: Path, reranker: LateInteractionReranker) -> None:
    """The first 15 topics' BM25 top 20: MaxSim puts relevant passages higher."""
    import ir_measures
    from ir_measures import nDCG

    folder = shared_data / "msmarco-dl20-pool"
    runs: dict[str, dict[str, float]] = {}
    for line in (folder / "run.bm25.top100.tsv").read_text(encoding="utf-8").splitlines():
        query, passage, rank, score = line.split("\t")
        if int(rank) <= 20:
            runs.setdefault(query, {})[passage] = float(score)
    judged_set = load_beir(folder, "test_full_judgements")
    qrels, queries = judged_set.qrels, judged_set.queries
    texts = {document.id: document.text for document in judged_set.documents() or ()}
    chosen = [query for query in sorted(runs) if query in qrels][:15]
    pairs = [(query, passage) for query in chosen for passage in runs[query]]
    scores = reranker.score([(queries[query], texts[passage]) for query, passage in pairs])
    reranked: dict[str, dict[str, float]] = {query: {} for query in chosen}
    for (query, passage), value in zip(pairs, scores.values, strict=True):
        reranked[query][passage] = float(value)

    def ndcg(run: dict[str, dict[str, float]]) -> float:
        judged = {query: qrels[query] for query in chosen}
        measured = ir_measures.calc_aggregate([nDCG @ 10], judged, run)
        return float(measured[nDCG @ 10])

    before, after = ndcg({query: runs[query] for query in chosen}), ndcg(reranked)
    assert after > before + 0.05
