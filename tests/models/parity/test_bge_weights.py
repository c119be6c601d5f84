"""The weights of bge-small-en-v1.5 and ms-marco-MiniLM-L12-v2 against every peer's, one folder.

Each peer is used as its users use it: FlagEmbedding's `FlagModel` and `FlagReranker`,
sentence-transformers' `SentenceTransformer` and `CrossEncoder`, the calls of LangChain's
`HuggingFaceBgeEmbeddings`, plain transformers. What the kept values are made of is in
scripts/make_reference.py.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.peers import (
    FlagRun,
    cross_encoder_scores,
    flag_model,
    flag_reranker,
    flag_scores,
    flag_vectors,
    langchain_vectors,
    plain_logits,
    plain_vectors,
    sentence_vectors,
)
from reference.texts import cosines, long_pairs, mixed_pairs, mixed_texts, spread
from reference.variants import EXACT, ROUNDED, Variant, name

from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.types import FloatArray

KEPT = Path(__file__).parents[2] / "reference"
VECTORS = json.loads((KEPT / "bge_small.json").read_text(encoding="utf-8"))
LOGITS = json.loads((KEPT / "minilm_reranker.json").read_text(encoding="utf-8"))
FULL = [" ".join(["dog"] * count) for count in (509, 510, 511)]
"""One token fewer than fits, exactly what fits, and one more."""

TEXTS = [text for text in mixed_texts() if len(text) < 300]
TEXTS += [*FULL, *dict.fromkeys(entry["text"] for entry in VECTORS["texts"][1:])]
KEPT_PAIRS = [(entry["query"], entry["passage"]) for entry in LOGITS["pairs"]]
PAIRS = [*mixed_pairs(longest=200, count=16), *long_pairs()[:3], *KEPT_PAIRS]
KINDS = ("query", "passage")


# --- vectors --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(bge_small_folder: Path) -> Callable[[Variant], BiEncoder]:
    """The encoder of a user who gives the folder and says nothing else."""

    @functools.cache
    def load(variant: Variant) -> BiEncoder:
        engine, dtype = variant
        loaded = load_encoder(bge_small_folder, engine=engine, device="cpu", dtype=dtype)
        assert isinstance(loaded, BiEncoder)
        return loaded

    return load


@pytest.fixture(scope="module")
def ours(encoder: Callable[[Variant], BiEncoder]) -> Callable[[Variant, str], FloatArray]:
    @functools.cache
    def vectors(variant: Variant, kind: str) -> FloatArray:
        if kind == "query":
            return encoder(variant).encode_queries(TEXTS)
        return encoder(variant).encode_passages(TEXTS).vectors

    return vectors


@pytest.fixture(scope="module")
def theirs(bge_small_folder: Path) -> Callable[[str, str], FloatArray]:
    """The vectors of a peer."""

    @functools.cache
    def vectors(peer: str, kind: Any) -> FloatArray:
        before = BGE_ENGLISH_INSTRUCTION if kind == "query" else ""
        if peer == "FlagModel":
            model = flag_model(
                bge_small_folder, pooling="cls", max_length=512, instruction=BGE_ENGLISH_INSTRUCTION
            )
            return flag_vectors(model, TEXTS, kind)
        if peer == "SentenceTransformer":
            prompt = "query" if kind == "query" else None
            return sentence_vectors(bge_small_folder, TEXTS, prompt_name=prompt)
        if peer == "HuggingFaceBgeEmbeddings":
            return langchain_vectors(bge_small_folder, TEXTS, kind, BGE_ENGLISH_INSTRUCTION)
        texts = [before + text for text in TEXTS]
        return plain_vectors(bge_small_folder, texts, pooling="cls", max_length=512)

    return vectors


PEERS = ("FlagModel", "SentenceTransformer", "HuggingFaceBgeEmbeddings", "transformers")


def test_what_the_folder_says_of_itself(encoder: Any) -> None:
    info = encoder(EXACT[0]).info
    assert (info.pooling, info.normalize, info.max_length, info.dimension) == (
        "cls",
        True,
        512,
        384,
    )
    assert info.query_instruction == BGE_ENGLISH_INSTRUCTION
    assert info.passage_instruction == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("variant", EXACT, ids=name)
def test_vectors_are_those_of(
    ours: Any, theirs: Any, variant: Variant, peer: str, kind: str
) -> None:
    expected = theirs(peer, kind)
    assert spread(expected, TEXTS) < 0.999  # other texts have other vectors
    assert cosines(ours(variant, kind), expected).min() >= 0.99999


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ROUNDED, ids=name)
def test_rounded_vectors(ours: Any, variant: Variant, kind: str) -> None:
    assert cosines(ours(variant, kind), ours(("transformers", "fp32"), kind)).min() >= 0.999


@pytest.mark.parametrize("variant", EXACT, ids=name)
def test_kept_vectors(encoder: Any, variant: Variant) -> None:
    """As scripts/make_reference.py wrote them once, of queries with their instruction too."""
    loaded = encoder(variant)
    for kind, instruction in (("query", BGE_ENGLISH_INSTRUCTION), ("passage", "")):
        entries = [e for e in VECTORS["texts"] if e.get("instruction", "") == instruction]
        assert len(entries) == 12
        texts = [entry["text"] for entry in entries]
        if kind == "query":
            vectors = loaded.encode_queries(texts)
        else:
            encoding = loaded.encode_passages(texts)
            vectors = encoding.vectors
            lengths = np.minimum(encoding.tokens, 512)
            assert lengths.tolist() == [entry["tokens"] for entry in entries]
            assert encoding.truncated.tolist() == [False] * 11 + [True]
        expected = [np.array(entry["first"]) / entry["norm"] for entry in entries]
        np.testing.assert_allclose(vectors[:, :8], expected, atol=1e-5)


def test_int8_vectors(encoder: Any, ours: Any) -> None:
    if importlib.util.find_spec("nncf") is None:  # importing it here would replace logging's class
        pytest.skip("nncf is not installed")
    ordinary = [row for row, text in enumerate(TEXTS) if len(set(text.split())) > 4]
    near = cosines(ours(("openvino", "int8"), "passage"), ours(("transformers", "fp32"), "passage"))
    assert near[ordinary].min() >= 0.97
    assert near.min() < 1 - 1e-5  # it is int8 indeed


def test_another_pooling_or_instruction_is_another_vector(
    bge_small_folder: Path, ours: Any
) -> None:
    """What the authors warn of, and what nothing reports: the search goes on, only worse."""
    exact = EXACT[0]
    mean = load_encoder(bge_small_folder, pooling="mean", engine=exact[0], dtype=exact[1])
    long = [row for row, text in enumerate(TEXTS) if len(text.split()) > 8]
    by_mean = mean.encode_passages([TEXTS[row] for row in long]).vectors
    assert cosines(by_mean, ours(exact, "passage")[long]).max() < 0.99
    assert cosines(ours(exact, "query")[long], ours(exact, "passage")[long]).min() < 0.98


def test_the_instruction_takes_its_tokens_from_a_long_query(encoder: Any) -> None:
    """It is never cut off: what does not fit is the query's own end."""
    loaded = encoder(EXACT[0])
    room = 512 - int(loaded.token_counter.encode([BGE_ENGLISH_INSTRUCTION]).full_lengths[0])
    words = ["dog"] * 600
    whole, cut = loaded.encode_queries([" ".join(words[:room]), " ".join(words)])
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    shorter = loaded.encode_queries([" ".join(words[: room - 1])])[0]
    assert not np.allclose(shorter, cut, atol=1e-6)


# --- scores ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(minilm_reranker_folder: Path) -> Callable[[Variant], FloatArray]:
    @functools.cache
    def values(variant: Variant) -> FloatArray:
        return reranker(minilm_reranker_folder, variant).score(PAIRS).values

    return values


def reranker(path: Path, variant: Variant) -> CrossEncoderReranker:
    engine, dtype = variant
    loaded = load_reranker(path, engine=engine, device="cpu", dtype=dtype)
    assert isinstance(loaded, CrossEncoderReranker)
    return loaded


@pytest.fixture(scope="module")
def by_flag_reranker(minilm_reranker_folder: Path) -> FlagRun:
    return FlagRun(minilm_reranker_folder, PAIRS, 512)


@pytest.fixture(scope="module")
def by_transformers(minilm_reranker_folder: Path) -> FloatArray:
    return plain_logits(minilm_reranker_folder, PAIRS, 512)


@pytest.mark.parametrize("variant", EXACT, ids=name)
class TestScores:
    def test_flag_reranker(self, scores: Any, by_flag_reranker: FlagRun, variant: Variant) -> None:
        same = by_flag_reranker.same
        assert same.sum() >= len(PAIRS) - 4
        np.testing.assert_allclose(scores(variant)[same], by_flag_reranker.scores[same], atol=1e-3)

    def test_transformers(self, scores: Any, by_transformers: FloatArray, variant: Variant) -> None:
        assert np.ptp(by_transformers) > 10  # a trained head tells pairs apart
        np.testing.assert_allclose(scores(variant), by_transformers, atol=1e-3)

    def test_cross_encoder(
        self, scores: Any, minilm_reranker_folder: Path, variant: Variant
    ) -> None:
        """It cuts the longer of the two where a pair is too long, so those pairs are left out."""
        fitting = [row for row, pair in enumerate(PAIRS) if sum(len(t.split()) for t in pair) < 300]
        expected = cross_encoder_scores(
            minilm_reranker_folder, [PAIRS[row] for row in fitting], 512
        )
        assert len(fitting) >= 20
        np.testing.assert_allclose(scores(variant)[fitting], expected, atol=1e-3)

    def test_kept_logits(self, scores: Any, variant: Variant) -> None:
        expected = [entry["logit"] for entry in LOGITS["pairs"]]
        np.testing.assert_allclose(scores(variant)[-len(KEPT_PAIRS) :], expected, atol=1e-4)


def test_relevance_is_the_sigmoid_that_flag_reranker_applies(minilm_reranker_folder: Path) -> None:
    """`normalize=True` there. CrossEncoder gives what the folder names: logits, as on the hub."""
    ours = reranker(minilm_reranker_folder, EXACT[0])
    scores = ours.score(KEPT_PAIRS[:5]).values
    relevance = ours.relevance(scores)
    assert relevance.min() < 0.01 < 0.99 < relevance.max()
    flag = flag_scores(flag_reranker(minilm_reranker_folder, 512), KEPT_PAIRS[:5], normalize=True)
    np.testing.assert_allclose(relevance, flag, atol=1e-4)
    theirs = cross_encoder_scores(minilm_reranker_folder, KEPT_PAIRS[:5], 512, raw=False)
    np.testing.assert_allclose(scores, theirs, atol=1e-3)


def test_rounded_scores(scores: Any, by_transformers: FloatArray) -> None:
    for variant in ROUNDED:
        assert np.abs(scores(variant) - by_transformers).max() < 0.2, name(variant)
