"""Vectors as they leave an encoder: finite, float32, of length 1 where that is wanted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelFault
from retrieval.types import FloatArray


def unit_vectors(
    vectors: FloatArray, texts: NDArray[np.int64], model: str, *, normalize: bool = True
) -> FloatArray:
    """float32 (n, dimension), each of length 1.

    Args:
        vectors: (n, dimension).
        texts: int64 (n,): the caller's number of the text that each comes from, for the message.
        model: its name and how it runs, for the message.
        normalize: False leaves the lengths as they are.

    Raises:
        ModelFault: one is not finite, or is zero and cannot be normalised.
    """
    if not normalize:
        check_finite(vectors, texts, model)
        return vectors.astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    check_finite(np.where(norms > 0, norms, np.nan), texts, model)
    result: FloatArray = (vectors / norms).astype(np.float32, copy=False)
    return result


def check_finite(numbers: FloatArray, texts: NDArray[np.int64], model: str) -> None:
    """Refuse numbers (n,) or (n, m) of which one is not finite; see `unit_vectors`."""
    finite = np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    if not finite.all():
        raise ModelFault(
            f"{model} gave a vector that is zero or not finite for text "
            f"{int(texts[~finite].min())}",
            fix="Try dtype='fp32'. If that gives the same, the weights are damaged: "
            "fetch the model again.",
        )
