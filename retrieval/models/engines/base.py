"""The interface of an engine, which runs one padded batch of token ids through a model.

Encoders, cross-encoders and late interaction differ only in the head, so the backbones, devices
and number formats live here once. Batches are planned in `retrieval.models.batching`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.types import FloatArray

Head: TypeAlias = Literal["cls", "mean", "last", "tokens", "logits"]
"""cls, mean, last: one pooled vector per text, not normalised. tokens: the last hidden states.
logits: the single classification logit of a sequence pair."""

Dtype: TypeAlias = Literal["auto", "fp32", "bf16", "fp16", "int8"]
EngineName: TypeAlias = Literal["auto", "packed", "openvino", "transformers"]

Pending: TypeAlias = Callable[[], FloatArray]
"""A batch that was started: calling it waits for the output. To be called exactly once."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A padded batch, all arrays int64 (batch, length). `token_type_ids` None where unused."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None = None


class Engine(Protocol):
    """A loaded model with one head on one device."""

    @property
    def name(self) -> str:
        """`packed`, `openvino` or `transformers`."""
        ...

    @property
    def device(self) -> str:
        """`cpu`, or the torch device."""
        ...

    @property
    def dtype(self) -> str:
        """`fp32`, `bf16`, `fp16` or `int8`: what the matrix products are computed in."""
        ...

    @property
    def token_budget(self) -> int:
        """Padded tokens in a batch with which it runs fastest."""
        ...

    @property
    def head(self) -> Head:
        """What `run` computes."""
        ...

    def run(self, batch: TokenBatch) -> FloatArray:
        """float32 (batch, dimension) pooled, (batch, length, dimension) tokens, (batch,) logits.

        Raises:
            ModelFault: the device failed; the message carries its words.
        """
        ...

    def submit(self, batch: TokenBatch) -> Pending:
        """Start a batch, so that the next one can be prepared meanwhile.

        Batches end in the order in which they were started. An engine that cannot compute while
        the caller does something else computes here.

        Raises:
            ModelFault: here or when the result is asked for.
        """
        ...
