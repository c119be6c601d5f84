"""Raw scores of pairs: finite, and as relevance from 0 to 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelFault


def check_scores(values: NDArray[np.float64], pairs: list[tuple[str, str]], model: str) -> None:
    """Refuse scores (n,) of n pairs of which one is not finite.

    Args:
        values: float64 (n,).
        pairs: (query, passage) texts.
        model: its name and how it runs, for the message.

    Raises:
        ModelFault: names the first such pair.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        query, passage = pairs[int(bad[0])]
        raise ModelFault(
            f"{model} gave {values[bad[0]]} as the score of {len(bad)} of {len(pairs)} pairs, the "
            f"first being ({query[:60]!r}, {passage[:60]!r}); expected finite numbers",
            fix="Try dtype='fp32'. If that gives the same, the weights are damaged: "
            "fetch the model again.",
        )


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) in float64, which rounds monotonically. NaN stays NaN."""
    x = np.asarray(scores, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):  # exp(800) is inf, and 1 / inf the right 0
        result: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-x))
    return result
