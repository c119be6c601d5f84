"""A bi-encoder without weights: hashed words. Fast and exact, for tests of what is around it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.types import EncoderInfo, Encoding, FloatArray

DIMENSION = 64


class WordCounter:
    """Tokens are words; two special tokens around each text."""

    special_tokens = 2

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        spans = [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)


class HashingEncoder:
    """Counts hashed words into 64 dimensions, L2-normalised."""

    def __init__(self, name: str = "hashing") -> None:
        self.info = EncoderInfo(
            model=name,
            fingerprint=f"sha256:{name}",
            dimension=DIMENSION,
            pooling="mean",
            normalize=True,
            query_instruction="",
            passage_instruction="",
            max_length=128,
        )
        self.token_counter = WordCounter()
        self.encoded: list[str] = []

    def encode_queries(self, queries: Sequence[str], *, progress: Any = None) -> FloatArray:
        return self._vectors(queries)

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        self.encoded += passages
        tokens = np.array(
            [len(self.token_counter.token_offsets(text)) + 2 for text in passages], dtype=np.int64
        )
        return Encoding(self._vectors(passages), tokens, tokens > self.info.max_length)

    def _vectors(self, texts: Sequence[str]) -> FloatArray:
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or ["∅"]:
                vectors[row, zlib.crc32(word.encode()) % DIMENSION] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
