"""Weights that were tuned here, kept as what they differ by from a package's.

Of each matrix that was tuned, the file holds two narrow ones in half precision, whose product is
the difference (LoRA: Hu et al. 2022). Products of two half-precision numbers and their sums are
exact in float64, and one rounding to float32 follows: so the tuned weights are the same bytes on
every machine, and have a fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelFault
from retrieval.types import FloatArray

LEFT, RIGHT = ".left", ".right"
"""Behind a parameter's name in the file: [rows, rank] and [rank, columns]."""


def split_difference(
    before: Mapping[str, FloatArray], after: Mapping[str, FloatArray], rank: int
) -> dict[str, NDArray[np.float16]]:
    """What the file is to hold: the nearest differences of that rank (Eckart and Young 1936).

    Args:
        before, after: a model's parameters by name, [rows, columns] where they differ.
        rank: of the differences, at most.
    """
    parts: dict[str, NDArray[np.float16]] = {}
    for name, old in before.items():
        difference = after[name].astype(np.float64) - old
        if not difference.any():
            continue
        u, s, v = np.linalg.svd(difference, full_matrices=False)
        root = np.sqrt(s[:rank])
        parts[name + LEFT] = np.ascontiguousarray(u[:, :rank] * root, dtype=np.float16)
        parts[name + RIGHT] = np.ascontiguousarray(root[:, None] * v[:rank], dtype=np.float16)
    return parts


def add_difference(before: Mapping[str, FloatArray], file: Path) -> dict[str, FloatArray]:
    """Parameters with the file's differences added.

    Raises:
        ModelFault: the file cannot be read, or is of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found = dict(before)
    try:
        parts = load_file(file)
        for name in sorted({one.rpartition(".")[0] for one in parts}):
            left, right = (parts[name + side].astype(np.float64) for side in (LEFT, RIGHT))
            found[name] = (before[name] + left @ right).astype(np.float32)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelFault(
            f"{file} does not hold the differences of such a model ({error})",
            fix="Install this library anew.",
        ) from error
    return found
