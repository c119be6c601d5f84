"""The share of activations that training sets to zero."""

from __future__ import annotations

import torch


def set_dropout(model: torch.nn.Module, share: float) -> None:
    """Let every dropout of a model have this share, attention's too.

    On a CPU dropout costs much: its random numbers are drawn one by one, and attention with
    dropout has no fused kernel.

    Args:
        model: any encoder or cross-encoder of transformers, or sentence-transformers' of it.
        share: 0 (none) to below 1.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        # ModernBERT and others hold attention's as a number and hand it to the kernel
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share  # type: ignore[assignment]
