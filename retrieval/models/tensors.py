"""Arrays as torch tensors, for callers outside this package; only this package may import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """A tensor on the CPU that shares the array's memory, shape and number type."""
    import torch

    return torch.from_numpy(array)
