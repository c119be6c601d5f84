"""Attention masks made ahead, for graphs of models whose own masks cannot be traced, or not safely.

Decoders (Qwen3, Mistral, Gemma 2) build their masks by Python that has no form in a graph.
ModernBERT builds them, but a row of padding that is further than a window from every token sees
nothing at all: torch gives such rows zeros, OpenVINO gives them NaN, which then spread. Both take a
mask of four dimensions as it is, so the graph is given one: additive, and finite everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CAUSAL = {"gemma2", "llama", "mistral", "qwen2", "qwen3"}
_BOTH_WAYS = {"modernbert"}
_BY_LAYER = {"gemma2", "modernbert", "qwen2", "qwen3"}
"""Whose layers differ in what they see, so that they take a mask for each kind of layer."""

_HIDDEN = -1e9
"""Added to the scores of what is not seen: enough for a weight of 0, and finite in bf16, too."""


def window_of(config: Any) -> int | None:
    """How far apart two tokens may be that see each other in some layer; None for any distance."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)


@contextmanager
def masks_made_ahead(model: Any) -> Iterator[None]:
    """Within the block the model's backbone gets masks that are made here, where it needs them."""
    backbone: nn.Module = model.base_model
    config: Any = backbone.config
    kind = getattr(config, "model_type", "")
    if kind not in _CAUSAL | _BOTH_WAYS:
        yield
        return
    window = window_of(config)

    def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen = kwargs["attention_mask"]
        own = {
            "full_attention": _additive(seen, causal=kind in _CAUSAL, window=None),
            "sliding_attention": _additive(seen, causal=kind in _CAUSAL, window=window),
        }
        mask = own if kind in _BY_LAYER else own["sliding_attention"]
        return args, {**kwargs, "attention_mask": mask}

    hook = backbone.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _additive(seen: torch.Tensor, *, causal: bool, window: int | None) -> torch.Tensor:
    """float32 (batch, 1, length, length) of an int64 mask (batch, length): 0, or `_HIDDEN`.

    A window counts as transformers counts it: both ways a token sees up to `window` tokens on each
    side, backwards up to `window` tokens, itself among them.
    """
    places = torch.arange(seen.shape[1], device=seen.device)
    back = places[:, None] - places[None, :]
    if causal:
        near = back >= 0
        if window is not None:
            near = near & (back < window)
    else:
        near = back.abs() <= (seen.shape[1] if window is None else window)
    allowed = near[None, None] & (seen[:, None, None, :] > 0)
    return (1.0 - allowed.to(torch.float32)) * _HIDDEN
