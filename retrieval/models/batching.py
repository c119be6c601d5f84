"""Batches by token budget: texts of like length together, so that little padding is computed.

A fixed number of texts a batch makes batches of very different cost and pads short texts to the
longest of the batch. Here texts are sorted by length and as many are put together as fit into a
number of padded tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput
from retrieval.models.engines.base import Engine
from retrieval.models.tokenization import Tokenized, Tokenizer
from retrieval.types import FloatArray, ProgressCallback

TOKEN_BUDGET = 4096
"""Padded tokens in a batch, by default; 2,048 to 4,096 measured best on CPUs."""

BATCH_COST = 64
"""What a batch costs beside its tokens, in tokens. On a CPU it is near nothing."""

Consume: TypeAlias = Callable[[NDArray[np.int64], FloatArray], None]
"""Called as `consume(indices, output)`: `output[i]` belongs to text `indices[i]` of the input."""


def plan_batches(
    lengths: NDArray[np.int64],
    *,
    token_budget: int = TOKEN_BUDGET,
    max_batch: int | None = None,
) -> list[NDArray[np.int64]]:
    """Indices of each batch, longest texts first; every index exactly once.

    `len(batch) × longest text in it ≤ token_budget`, except that a text longer than the budget
    gets a batch of its own. Among the ways to cut the sorted texts into such batches, the cheapest
    is taken, counting padded tokens and `BATCH_COST` for each batch. Longest first shows at once
    whether memory suffices.

    Args:
        lengths: tokens of each text (n,).
        token_budget: padded tokens in a batch.
        max_batch: texts in a batch at most; None for no limit but the budget.

    Raises:
        InvalidInput: `token_budget` or `max_batch` is below 1.
    """
    if token_budget < 1 or (max_batch is not None and max_batch < 1):
        raise InvalidInput(
            f"token_budget={token_budget} and max_batch={max_batch} were given",
            fix="Give numbers of at least 1, or leave both out.",
        )
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").astype(np.int64)
    widths = np.maximum(np.asarray(lengths, dtype=np.int64)[order], 1)
    total = len(order)
    sizes = np.maximum(token_budget // widths, 1)
    sizes = np.minimum(sizes, total - np.arange(total))
    if max_batch is not None:
        sizes = np.minimum(sizes, max_batch)
    # cost[i]: of the texts from i on; size[i]: of the first batch in their cheapest partition.
    cost = np.zeros(total + 1, dtype=np.int64)
    size = np.zeros(total, dtype=np.int64)
    counts = np.arange(1, total + 1, dtype=np.int64)
    for start in range(total - 1, -1, -1):
        most = sizes[start]
        costs = counts[:most] * widths[start] + cost[start + 1 : start + 1 + most]
        size[start] = most - int(costs[::-1].argmin())  # of equally cheap ones the largest
        cost[start] = BATCH_COST + costs[size[start] - 1]
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < total:
        stop = start + int(size[start])
        batches.append(order[start:stop])
        start = stop
    return batches


def padding_waste(lengths: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> float:
    """The share of computed tokens that are padding, in [0, 1)."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - float(np.sum(lengths)) / padded if padded else 0.0


def run_batches(
    engine: Engine,
    tokenizer: Tokenizer,
    tokenized: Tokenized,
    *,
    consume: Consume,
    token_budget: int = TOKEN_BUDGET,
    progress: ProgressCallback | None = None,
) -> None:
    """Run all texts through `engine`, handing each batch's output to `consume`.

    Both callbacks are called from the calling thread; `progress` counts texts.

    Raises:
        ModelFault: the device failed.
    """
    total = len(tokenized)
    done = 0
    for batch in plan_batches(tokenized.lengths, token_budget=token_budget):
        consume(batch, engine.run(tokenizer.pad(batch, tokenized)))
        done += len(batch)
        if progress is not None:
            progress(done, total)
