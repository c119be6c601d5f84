"""Vectors are those of FlagEmbedding, sentence-transformers and plain transformers, on any engine.

The models are architecture-faithful and of random weights; see `test_real_weights.py` for trained
ones. Texts are short, long, over-long, empty, Chinese, and some spell special tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from reference.peers import flag_model, flag_rows, flag_vectors, plain_vectors, sentence_vectors
from reference.texts import cosines, mixed_texts, spread
from reference.variants import EXACT, ROUNDED, Variant, name

from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.models.known_models import BGE_CHINESE_INSTRUCTION, BGE_ENGLISH_INSTRUCTION, MODELS
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import FloatArray, Pooling

MAX_LENGTH = 128
TEXTS = mixed_texts(longest=MAX_LENGTH)
SETTINGS: list[tuple[str, Pooling]] = [("bert", "cls"), ("bert", "mean"), ("xlmr", "cls")]
"""BGE v1 and v1.5; MiniLM and e5; bge-m3."""


@dataclass(frozen=True)
class Vectors:
    """Of the same texts, as queries and as passages."""

    queries: FloatArray
    passages: FloatArray


Ours: TypeAlias = Callable[[str, Pooling, Variant], Vectors]


@pytest.fixture(scope="module")
def ours(deep_model: Callable[..., Path], make_resolved_encoder: Any) -> Ours:
    @functools.cache
    def encode(family: str, pooling: Pooling, variant: Variant) -> Vectors:
        engine, dtype = variant
        encoder = BiEncoder(
            make_resolved_encoder(
                deep_model(family, "encoder", pooling),
                pooling=pooling,
                dimension=128,
                max_length=MAX_LENGTH,
                query_instruction=BGE_ENGLISH_INSTRUCTION,
            ),
            engine=engine,
            device="cpu",
            dtype=dtype,
        )
        assert encoder.engine == f"{engine} {dtype} on cpu"
        return Vectors(encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS).vectors)

    return encode


@pytest.fixture(scope="module")
def flag(deep_model: Callable[..., Path]) -> Callable[[str, Pooling], Vectors]:
    @functools.cache
    def encode(family: str, pooling: Pooling) -> Vectors:
        model = flag_model(
            deep_model(family, "encoder", pooling),
            pooling=pooling,
            max_length=MAX_LENGTH,
            instruction=BGE_ENGLISH_INSTRUCTION,
        )
        queries, passages = (flag_vectors(model, TEXTS, kind) for kind in ("query", "passage"))
        return Vectors(queries, passages)

    return encode


@pytest.fixture(scope="module")
def plain(deep_model: Callable[..., Path]) -> Callable[[str, Pooling], Vectors]:
    @functools.cache
    def encode(family: str, pooling: Pooling) -> Vectors:
        path = deep_model(family, "encoder", pooling)
        queries = [BGE_ENGLISH_INSTRUCTION + text for text in TEXTS]
        return Vectors(
            *(
                plain_vectors(path, texts, pooling=pooling, max_length=MAX_LENGTH)
                for texts in (queries, TEXTS)
            )
        )

    return encode


def assert_same(ours: Vectors, theirs: Vectors, *, least: float) -> None:
    for kind in ("queries", "passages"):
        expected = getattr(theirs, kind)
        assert spread(expected, TEXTS) < 1 - 10 * (1 - least), "the model tells nothing apart"
        near = cosines(getattr(ours, kind), expected)
        worst = int(near.argmin())
        assert near[worst] >= least, f"{kind} {worst}: {TEXTS[worst][:60]!r}"


@pytest.mark.parametrize("variant", EXACT, ids=name)
@pytest.mark.parametrize(("family", "pooling"), SETTINGS)
class TestExact:
    def test_flag_embedding(
        self, ours: Ours, flag: Any, family: str, pooling: Pooling, variant: Variant
    ) -> None:
        assert_same(ours(family, pooling, variant), flag(family, pooling), least=0.99999)

    def test_plain_transformers(
        self, ours: Ours, plain: Any, family: str, pooling: Pooling, variant: Variant
    ) -> None:
        result = ours(family, pooling, variant)
        expected = plain(family, pooling)
        assert_same(result, expected, least=0.99999)
        norms = np.linalg.norm(expected.passages, axis=1, keepdims=True)
        np.testing.assert_allclose(result.passages, expected.passages / norms, atol=1e-5)

    def test_sentence_transformers(
        self,
        ours: Ours,
        deep_model: Any,
        family: str,
        pooling: Pooling,
        variant: Variant,
    ) -> None:
        """From the folder's modules.json, with its prompts."""
        theirs = _sentence(deep_model(family, "encoder", pooling))
        assert_same(ours(family, pooling, variant), theirs, least=0.99999)


@functools.cache
def _sentence(path: Path) -> Vectors:
    return Vectors(
        sentence_vectors(path, TEXTS, prompt_name="query"),
        sentence_vectors(path, TEXTS, prompt_name="document"),
    )


@pytest.mark.parametrize("variant", ROUNDED, ids=name)
@pytest.mark.parametrize(("family", "pooling"), SETTINGS)
def test_rounded(ours: Ours, plain: Any, family: str, pooling: Pooling, variant: Variant) -> None:
    result, expected = ours(family, pooling, variant), plain(family, pooling)
    for kind in ("queries", "passages"):
        assert cosines(getattr(result, kind), getattr(expected, kind)).min() >= 0.9995
    # It is rounded indeed: the number format was not silently float32. OpenVINO computes bf16 in
    # float32 where the CPU has no bf16.
    if variant[0] != "openvino" or cpu_multiplies_bf16():
        assert cosines(result.passages, expected.passages).min() < 1 - 1e-9


@pytest.mark.parametrize(
    ("model", "instruction"),
    [
        # As BGE's model cards have them, blank and full-width colon included.
        (
            "BAAI/bge-base-en-v1.5",
            "Represent this sentence for searching relevant passages: ",
        ),
        ("BAAI/bge-base-zh-v1.5", "为这个句子生成表示以用于检索相关文章："),
    ],
)
@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_instructions_are_read_as_flag_embedding_reads_them(
    deep_model: Callable[..., Path],
    make_resolved_encoder: Any,
    family: str,
    model: str,
    instruction: str,
) -> None:
    assert MODELS[model].query_instruction == instruction
    assert instruction in (BGE_ENGLISH_INSTRUCTION, BGE_CHINESE_INSTRUCTION)
    path = deep_model(family, "encoder")
    texts = ["dog", "", "北京在哪里？", " where is the file", "quick brown fox " * 100]
    theirs = flag_model(path, pooling="cls", max_length=MAX_LENGTH, instruction=instruction)

    tokenizer = Tokenizer(path, MAX_LENGTH)
    queries = tokenizer.encode(texts, prefix=instruction)
    rows = [queries.row(index).tolist() for index in range(len(texts))]
    assert rows == flag_rows(theirs, texts, instruction)
    passages = tokenizer.encode(texts)
    rows = [passages.row(index).tolist() for index in range(len(texts))]
    assert rows == flag_rows(theirs, texts)

    encoder = BiEncoder(
        make_resolved_encoder(
            path, dimension=128, max_length=MAX_LENGTH, query_instruction=instruction
        ),
        engine="transformers",
        device="cpu",
        dtype="fp32",
    )
    expected = flag_vectors(theirs, texts, "query")
    assert cosines(encoder.encode_queries(texts), expected).min() >= 0.99999
    passage_vectors = encoder.encode_passages(texts).vectors
    assert cosines(passage_vectors, flag_vectors(theirs, texts, "passage")).min() >= 0.99999
    # A passage with the instruction would be another vector: the comparison can fail.
    assert cosines(passage_vectors, expected)[[0, 2, 3]].max() < 0.9999


@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_token_ids_are_those_of_flag_embedding(
    deep_model: Callable[..., Path], family: str
) -> None:
    path = deep_model(family, "encoder")
    tokenized = Tokenizer(path, MAX_LENGTH).encode(TEXTS)
    rows = [tokenized.row(index).tolist() for index in range(len(TEXTS))]
    theirs = flag_model(path, pooling="cls", max_length=MAX_LENGTH)
    assert rows == flag_rows(theirs, TEXTS)
    assert sum(len(row) == MAX_LENGTH for row in rows) >= 5
