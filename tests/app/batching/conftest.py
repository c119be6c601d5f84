"""Batchers over a model that can be held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from batching_help import MakeBatcher, Model, Observed

from app.batching.batcher import Batcher


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture
def make_batcher(model: Model, observed: Observed) -> Iterator[MakeBatcher]:
    """Factory: `make_batcher(budget=…)`, over `model` or `compute`; closed at the end."""
    made: list[Batcher[int, int]] = []

    def factory(
        compute: Callable[[Sequence[int]], Sequence[int]] = model,
        *,
        cost: Callable[[int], int] = lambda item: 10,
        budget: int = 100,
        window_ms: float = 0.0,
        joined: bool = True,
    ) -> Batcher[int, int]:
        batcher: Batcher[int, int] = Batcher(
            "model", compute, cost=cost, budget=budget, window_ms=window_ms, joined=joined,
            observer=observed,
        )  # fmt: skip
        made.append(batcher)
        return batcher

    yield factory
    model.free.set()
    for batcher in made:
        batcher.close()
