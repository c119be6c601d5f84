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


def scored_by_hand(path: Path) -> tuple[Callable[[list[int], list[int]], float], int]:
    """The logit of (query ids, passage ids) by transformers alone, and how many ids it adds.

    One pair at a time, without padding. The ids are laid out by hand, as transformers 5 has no
    call that takes ids: [CLS] a [SEP] b [SEP], or with XLM-RoBERTa's <s> a </s></s> b </s>.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    xlmr = type(tokenizer).__name__.startswith("XLM")
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id

    def logit(query: list[int], passage: list[int]) -> float:
        ids = [start, *query, end, *([end] if xlmr else []), *passage, end]
        inputs = {"input_ids": torch.tensor([ids])}
        if not xlmr:
            types = [0] * (len(query) + 2) + [1] * (len(passage) + 1)
            inputs["token_type_ids"] = torch.tensor([types])
        with torch.inference_mode():
            return float(model(**inputs).logits.item())

    return logit, 4 if xlmr else 3


def change_weights(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a model's weights after `change` has changed their mapping from names."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
