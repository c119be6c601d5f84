"""Trained weights: all-MiniLM-L6-v2 against its peers, against kept values, and in int8."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.peers import flag_model, flag_vectors, sentence_vectors
from reference.texts import cosines, spread
from reference.variants import EXACT, ROUNDED, Variant, name

from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.engines import load_engine
from retrieval.models.engines.hardware import cpu_may_overflow_int8
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import FloatArray, ModelSpec, ResolvedModel

REFERENCE = json.loads(
    (Path(__file__).parents[2] / "reference" / "minilm.json").read_text(encoding="utf-8")
)
TEXTS: list[str] = [entry["text"] for entry in REFERENCE["texts"]]
MAX_LENGTH: int = REFERENCE["max_length"]


@pytest.fixture(scope="module")
def encode(starter_path: Path) -> Callable[[Variant], FloatArray]:
    """The texts' vectors by an engine and a number format, each computed once."""

    @functools.cache
    def vectors(variant: Variant) -> FloatArray:
        engine, dtype = variant
        spec = ModelSpec("MiniLM", "encoder", max_length=MAX_LENGTH, dimension=384, pooling="mean")
        encoder = BiEncoder(
            ResolvedModel(spec, starter_path, ""), engine=engine, device="cpu", dtype=dtype
        )
        assert encoder.engine == f"{engine} {dtype} on cpu"
        return encoder.encode_passages(TEXTS).vectors

    return vectors


@pytest.fixture(scope="module")
def by_sentence_transformers(starter_path: Path) -> FloatArray:
    return sentence_vectors(starter_path, TEXTS)


@pytest.fixture(scope="module")
def by_flag_embedding(starter_path: Path) -> FloatArray:
    model = flag_model(starter_path, pooling="mean", max_length=MAX_LENGTH)
    return flag_vectors(model, TEXTS, "passage")


@pytest.mark.parametrize("variant", EXACT, ids=name)
class TestExact:
    def test_sentence_transformers(
        self, encode: Any, by_sentence_transformers: FloatArray, variant: Variant
    ) -> None:
        assert spread(by_sentence_transformers, TEXTS) < 0.9
        assert cosines(encode(variant), by_sentence_transformers).min() >= 0.99999

    def test_flag_embedding(
        self, encode: Any, by_flag_embedding: FloatArray, variant: Variant
    ) -> None:
        assert cosines(encode(variant), by_flag_embedding).min() >= 0.99999

    def test_kept_values(self, encode: Any, starter_path: Path, variant: Variant) -> None:
        """As scripts/make_reference.py wrote them once: dependencies must not move a vector."""
        engine, dtype = variant
        loaded = load_engine(starter_path, "mean", engine=engine, device="cpu", dtype=dtype)
        tokenizer = Tokenizer(starter_path, MAX_LENGTH)
        tokenized = tokenizer.encode(TEXTS)
        raw = loaded.run(tokenizer.pad(np.arange(len(TEXTS)), tokenized))
        vectors = encode(variant)
        for row, entry in enumerate(REFERENCE["texts"]):
            assert tokenized.lengths[row] == entry["tokens"]
            first = np.array(entry["first"])
            np.testing.assert_allclose(np.linalg.norm(raw[row]), entry["norm"], rtol=1e-5)
            np.testing.assert_allclose(raw[row][: len(first)], first, atol=1e-5)
            np.testing.assert_allclose(vectors[row][: len(first)], first / entry["norm"], atol=1e-5)


@pytest.mark.parametrize("variant", ROUNDED, ids=name)
def test_rounded(encode: Any, variant: Variant) -> None:
    exact = encode(("transformers", "fp32"))
    assert cosines(encode(variant), exact).min() >= 0.9995


def test_int8(encode: Any) -> None:
    """Static quantisation, calibrated on the built-in texts."""
    if importlib.util.find_spec("nncf") is None:  # importing it here would replace logging's class
        pytest.skip("nncf is not installed")
    near = cosines(encode(("openvino", "int8")), encode(("transformers", "fp32")))
    assert near.min() >= 0.95  # of the empty text, which is nothing but special tokens
    worst = min((row for row, text in enumerate(TEXTS) if text), key=lambda row: near[row])
    assert near[worst] >= 0.98, f"{TEXTS[worst][:40]!r}: {near[worst]:.4f}"
    ordinary = [row for row, text in enumerate(TEXTS) if len(text) > 3]
    # a CPU without VNNI gets weights of seven bits
    assert near[ordinary].mean() >= (0.99 if cpu_may_overflow_int8() else 0.995)
    assert near.min() < 1 - 1e-5  # it is int8 indeed
