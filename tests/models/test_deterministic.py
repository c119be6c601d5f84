"""The same text gives the same vector, and the same pair the same score, whatever is beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.types import ModelSpec, ResolvedModel

TEXTS = [
    "dog",
    "The quick brown fox jumps over the lazy dog.",
    "北京是中国的首都",
    "",
    "a cross-encoder reads the query and the passage " * 30,
    "Return the path of the file",
    "the dog sleeps on, and the fox reads " * 4,
]
PAIRS = [("what is a bi-encoder?", text) for text in TEXTS]
ORDER = [4, 1, 6, 0, 5, 3, 2]

engines = pytest.mark.parametrize("engine", ["openvino", "packed", "transformers"])
dtypes = pytest.mark.parametrize("dtype", ["fp32", "bf16"])


@engines
@dtypes
@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_vectors(
    request: pytest.FixtureRequest, make_resolved_encoder: Any, engine: Any, dtype: Any, family: str
) -> None:
    path = request.getfixturevalue(f"tiny_{family}_encoder")
    pooling = "cls" if family == "bert" else "mean"
    resolved = make_resolved_encoder(path, pooling=pooling)
    options: Any = {"engine": engine, "device": "cpu", "dtype": dtype}
    encoder = BiEncoder(resolved, deterministic=True, **options)
    expected = encoder.encode_passages(TEXTS).vectors
    alone = np.concatenate([encoder.encode_passages([text]).vectors for text in TEXTS])
    assert np.array_equal(alone, expected)
    assert np.array_equal(
        encoder.encode_passages([TEXTS[i] for i in ORDER]).vectors, expected[ORDER]
    )
    repeated = encoder.encode_passages(TEXTS * 3).vectors
    assert np.array_equal(repeated, np.concatenate([expected] * 3))
    assert np.array_equal(encoder.encode_queries(TEXTS), expected)
    if family == "bert":
        tokens = encoder.encode_tokens(TEXTS, "passage")
        for text, states in zip(TEXTS, tokens, strict=True):
            assert np.array_equal(encoder.encode_tokens([text], "passage")[0], states)

    free = BiEncoder(resolved, **options).encode_passages(TEXTS).vectors
    limit = 1e-3 if dtype == "fp32" else 2e-2
    np.testing.assert_allclose(free, expected, atol=limit)


@engines
@pytest.mark.parametrize(("family", "dtype"), [("bert", "fp32"), ("xlmr", "bf16")])
def test_scores(request: pytest.FixtureRequest, engine: Any, dtype: Any, family: str) -> None:
    path: Path = request.getfixturevalue(f"tiny_{family}_reranker")
    spec = ModelSpec("tiny", "reranker", max_length=128, score_head="classification")
    options: Any = {"engine": engine, "device": "cpu", "dtype": dtype}
    reranker = CrossEncoderReranker(ResolvedModel(spec, path, ""), deterministic=True, **options)
    expected = reranker.score(PAIRS).values
    alone = np.concatenate([reranker.score([pair]).values for pair in PAIRS])
    assert np.array_equal(alone, expected)
    assert np.array_equal(reranker.score([PAIRS[i] for i in ORDER]).values, expected[ORDER])
    beside = reranker.score([*PAIRS, *((text, "dog") for text in TEXTS)]).values
    assert np.array_equal(beside[: len(PAIRS)], expected)

    free = CrossEncoderReranker(ResolvedModel(spec, path, ""), **options).score(PAIRS).values
    limit = 1e-3 if dtype == "fp32" else 5e-2
    np.testing.assert_allclose(free, expected, atol=limit)
