"""Attention over texts that are one after the other, without padding.

Queries, keys and values are (tokens, heads, head dimension), all texts of a batch in one row of
tokens. On a GPU FlashAttention takes that form as it is (Dao 2023, through
`torch.nn.attention.varlen`). Elsewhere consecutive texts of equal length are one ordinary product:
batches are sorted by length, so there are few such runs, and each is a view of the packed states.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from retrieval.models.engines.bert import Attend

_FLASH_CAPABILITY = (8, 0)
"""FlashAttention 2 is built for Ampere and later."""
_FLASH_LARGEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class Attention:
    """Both kinds of attention that an encoder needs, for the texts of one batch.

    Args:
        every: all tokens ask all tokens of their own text.
        first: the first token of each text, (texts, heads, head dimension), asks all of its tokens.
    """

    every: Attend
    first: Attend


def has_varlen(device: torch.device, dtype: torch.dtype, head_dimension: int) -> bool:
    """Whether `varlen` can compute this here."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    if torch.version.cuda is None or not torch.backends.cuda.is_flash_attention_available():
        return False
    if torch.cuda.get_device_capability(device) < _FLASH_CAPABILITY:
        return False
    return head_dimension % 8 == 0 and head_dimension <= _FLASH_LARGEST_HEAD


def varlen(cumulative: torch.Tensor, longest: int) -> Attention:
    """One FlashAttention call for the whole batch.

    Args:
        cumulative: int32 (texts + 1,) on the device: where each text begins, and where all end.
        longest: tokens of the longest text.
    """
    from torch.nn.attention.varlen import varlen_attn

    texts = torch.arange(len(cumulative), dtype=torch.int32, device=cumulative.device)
    # One split: the order of the sums, and so the result, does not depend on the other texts.
    # torch 2.10 never splits and has no such argument.
    splits = "num_splits" in inspect.signature(varlen_attn).parameters
    unsplit: dict[str, Any] = {"num_splits": 1} if splits else {}

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        borders: torch.Tensor,
        longest_asked: int,
    ) -> torch.Tensor:
        context = varlen_attn(
            query, key, value, borders, cumulative, longest_asked, longest, **unsplit
        )
        assert isinstance(context, torch.Tensor)  # a pair only where return_aux is given
        return context

    def every(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend(query, key, value, cumulative, longest)

    def first(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend(query, key, value, texts, 1)

    return Attention(every, first)


def grouped(lengths: NDArray[np.int64]) -> Attention:
    """One ordinary attention for each run of consecutive texts of equal length.

    Args:
        lengths: tokens of each text, each at least 1; sorted ones make the fewest runs.
    """
    runs = _runs(lengths)

    def every(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return _joined([_attend(query, key, value, run, run.tokens, run.length) for run in runs])

    def first(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return _joined([_attend(query, key, value, run, run.texts, 1) for run in runs])

    return Attention(every, first)


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive texts of one length: where they are among the texts and among the tokens."""

    texts: slice
    tokens: slice
    length: int


def _runs(lengths: NDArray[np.int64]) -> list[_Run]:
    borders = np.flatnonzero(np.diff(lengths)) + 1
    starts = [0, *borders.tolist(), len(lengths)]
    runs: list[_Run] = []
    token = 0
    for start, stop in itertools.pairwise(starts):
        length = int(lengths[start])
        end = token + (stop - start) * length
        runs.append(_Run(slice(start, stop), slice(token, end), length))
        token = end
    return runs


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    run: _Run,
    asked: slice,
    asked_length: int,
) -> torch.Tensor:
    """(query tokens of the run, heads, head dimension)."""

    def split(states: torch.Tensor, part: slice, length: int) -> torch.Tensor:
        return torch.unflatten(states[part], 0, (-1, length)).transpose(1, 2)

    context = functional.scaled_dot_product_attention(
        split(query, asked, asked_length),
        split(key, run.tokens, run.length),
        split(value, run.tokens, run.length),
    )
    return context.transpose(1, 2).flatten(0, 1)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
