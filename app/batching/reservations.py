"""What admitted requests will ask of the models: reserved when they are let in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


class Expecting(Protocol):
    """What a lane does with expectations."""

    def expectation_met(self, expectation: Expectation, cost: int | None) -> None:
        """So much of it was submitted; None: no more will be."""
        ...


@dataclass(slots=True, eq=False)
class Expectation:
    """Work of an admitted request that has not been submitted yet. `cost`: what is left of it."""

    lane: Expecting
    cost: int

    def end(self) -> None:
        """No more will be submitted."""
        self.lane.expectation_met(self, None)


_expectations: ContextVar[Sequence[Expectation]] = ContextVar("expectations", default=())


def expectations() -> Sequence[Expectation]:
    """What the running request has reserved."""
    return _expectations.get()


@contextmanager
def expected(own: Sequence[Expectation]) -> Iterator[None]:
    """Within it, and in threads started with its context, submissions count against `own`."""
    token = _expectations.set((*_expectations.get(), *own))
    try:
        yield
    finally:
        _expectations.reset(token)
        for expectation in own:
            expectation.end()
