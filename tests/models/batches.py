"""Batches of tokens, and what tests of several models and engines do with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from retrieval.models.engines.base import TokenBatch
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import FloatArray

T = TypeVar("T")
TEXTS = ["The quick brown fox", "北京是中国的首都", "", "the lazy dog sleeps on " * 40, "a dog"]


def cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """The cosine of each row of `a` with the same row of `b`."""
    return np.asarray((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))


def text_batch(path: Path, texts: Sequence[str] = TEXTS) -> TokenBatch:
    tokenizer = Tokenizer(path, 128)
    return tokenizer.pad(np.arange(len(texts)), tokenizer.encode(texts))


def pair_batch(path: Path, texts: Sequence[str] = TEXTS) -> TokenBatch:
    tokenizer = Tokenizer(path, 128)
    pairs = [("what is a fox?", text) for text in texts]
    return tokenizer.pad(np.arange(len(pairs)), tokenizer.encode_pairs(pairs))


def ragged(
    lengths: Sequence[int], *, seed: int = 0, padding: int = 0, spare: int = 0
) -> TokenBatch:
    """Random ids without type ids, padded on the right by `padding`, `spare` places more."""
    rng = np.random.default_rng(seed)
    places = np.arange(max(lengths) + spare)[None]
    mask = (places < np.array(lengths)[:, None]).astype(np.int64)
    return TokenBatch(np.where(mask, rng.integers(5, 100, mask.shape), padding), mask)


def real(batch: TokenBatch, output: FloatArray, head: str) -> FloatArray:
    """The output without that of padding, where a head gives a vector for each token."""
    return np.asarray(output[batch.attention_mask.astype(bool)]) if head == "tokens" else output


def in_threads(work: Callable[[int], T], threads: int = 4) -> list[T]:
    """`work(0)`, `work(1)` and so on at once. The first error is raised here."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads), timeout=120))


def change_weights(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a model's weights after `change` has changed their mapping from names."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
