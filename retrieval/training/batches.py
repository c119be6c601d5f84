"""Groups as token ids: what a model computes of a batch, and what its loss must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.models.engines.base import TokenBatch
from retrieval.models.tokenization.token_batch import Tokenized
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import FloatArray


class Inputs(Protocol):
    """Rows of token ids that a model reads, and how to pad some of them to a batch."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (rows,): tokens of each."""
        ...

    def batch(self, rows: NDArray[np.int64]) -> TokenBatch:
        """These rows, padded to the longest of them."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """`Inputs` of several tokenised lists, one after the other."""

    parts: tuple[tuple[Tokenizer, Tokenized], ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (rows,): tokens of each."""
        return np.concatenate([tokenized.lengths for _, tokenized in self.parts])

    def batch(self, rows: NDArray[np.int64]) -> TokenBatch:
        """These rows, padded to the longest of them."""
        found: list[tuple[NDArray[np.int64], TokenBatch]] = []
        start = 0
        for tokenizer, tokenized in self.parts:
            places = np.flatnonzero((rows >= start) & (rows < start + len(tokenized)))
            if len(places):
                found.append((places, tokenizer.pad(rows[places] - start, tokenized)))
            start += len(tokenized)
        if len(found) == 1:
            return found[0][1]
        return _joined(found, len(rows), self.parts[0][0].pad_id)


def _joined(
    found: Sequence[tuple[NDArray[np.int64], TokenBatch]], rows: int, pad_id: int
) -> TokenBatch:
    width = max(batch.input_ids.shape[1] for _, batch in found)
    ids = np.full((rows, width), pad_id, dtype=np.int64)
    mask = np.zeros((rows, width), dtype=np.int64)
    types = None if found[0][1].token_type_ids is None else np.zeros_like(mask)
    for places, batch in found:
        length = batch.input_ids.shape[1]
        ids[places, :length] = batch.input_ids
        mask[places, :length] = batch.attention_mask
        if types is not None and batch.token_type_ids is not None:
            types[places, :length] = batch.token_type_ids
    return TokenBatch(ids, mask, types)


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """B queries with G passages each; where a group is smaller, `valid` is False.

    Attributes:
        inputs: what the model computes: every distinct text, or every pair, once.
        queries: int64 (B,), each query's row of the inputs; of pairs, None.
        passages: int64 (B, G), each passage's or pair's row.
        valid: bool (B, G).
        keys: int64 (B, G), the passages' numbers in the training set, -1 where there is none.
        answers: of each query, the numbers of all passages that answer it.
        teacher: float32 (B, G), a teacher's scores, where every example has them.
        guide: float32 (B, d) and (B, G, d), a guide's vectors, where there is one.
    """

    inputs: Inputs
    queries: NDArray[np.int64] | None
    passages: NDArray[np.int64]
    valid: NDArray[np.bool_]
    keys: NDArray[np.int64]
    answers: tuple[NDArray[np.int64], ...]
    teacher: FloatArray | None = None
    guide: tuple[FloatArray, FloatArray] | None = None
