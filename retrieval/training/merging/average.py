"""The average of one tensor over several models, in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import torch

Method: TypeAlias = Literal["linear", "slerp"]

_COLLINEAR = 1e-3
"""Angle in radians. Below, the arc and the chord differ by less than float32 can say of them."""

_PIECE = 1 << 20


def linear(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum, float32, of tensors of one shape."""
    total = tensors[0].float() * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor.float(), alpha=weight)
    return total


def slerp(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor | None:
    """A point of the arc between two tensors, taken as vectors (Shoemake 1985); float32.

    Args:
        share: of the second, from 0 to 1.

    Returns:
        None where the two are collinear, or one of them is 0: there is no arc then.
    """
    lengths = math.sqrt(_dot(first, first) * _dot(second, second))
    if not lengths > 0:
        return None
    angle = math.acos(max(-1.0, min(1.0, _dot(first, second) / lengths)))
    if not _COLLINEAR < angle < math.pi - _COLLINEAR:
        return None
    shares = (math.sin((1.0 - share) * angle), math.sin(share * angle))
    return linear((first, second), [one / math.sin(angle) for one in shares])


def _dot(first: torch.Tensor, second: torch.Tensor) -> float:
    """In float64, piece by piece: a copy of a large tensor would take twice its room."""
    a, b = first.flatten(), second.flatten()
    pieces = [slice(start, start + _PIECE) for start in range(0, len(a), _PIECE)]
    return math.fsum(float((a[one].double() * b[one].double()).sum()) for one in pieces)
