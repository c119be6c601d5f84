"""What an engine is: something that runs one padded batch of token ids through a model.

Encoders, cross-encoders and late interaction differ only in the head, so the backbones, devices
and number formats live here once. Batches are planned in `retrieval.models.batching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.types import FloatArray

Head: TypeAlias = Literal["cls", "mean", "last", "tokens", "logits"]
"""cls, mean, last: one pooled vector a text, not normalised. tokens: the last hidden states.
logits: the single classification logit of a sequence pair."""

Dtype: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
EngineName: TypeAlias = Literal["auto", "transformers", "openvino"]


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
        """`transformers` or `openvino`."""
        ...

    @property
    def device(self) -> str:
        """`cpu`, or the torch device."""
        ...

    @property
    def dtype(self) -> str:
        """`fp32`, `bf16` or `fp16`: what the matrix products are computed in."""
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
