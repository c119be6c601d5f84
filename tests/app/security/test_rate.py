from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.security import rate_limit
from app.security.rate_limit import RateLimits
from retrieval.errors import InvalidInput


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_evenly() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    assert [limits.wait("a", "3/minute") for _ in range(3)] == [0, 0, 0]
    assert limits.wait("a", "3/minute") == pytest.approx(20)
    assert limits.wait("b", "3/minute") == 0, "each has its own"
    clock.now += 19.9
    assert limits.wait("a", "3/minute") == pytest.approx(0.1)
    clock.now += 0.1
    assert limits.wait("a", "3/minute") == 0
    assert limits.wait("a", "3/minute") == pytest.approx(20)
    clock.now += 3600
    assert [limits.wait("a", "3/minute") > 0 for _ in range(5)] == [False] * 3 + [True] * 2


@given(
    st.integers(1, 20),
    st.sampled_from([("second", 1), ("minute", 60), ("hour", 3600)]),
    st.lists(st.floats(0, 50), max_size=60),
)
def test_the_wait_is_exact_and_the_rate_is_kept(
    count: int, unit: tuple[str, int], pauses: list[float]
) -> None:
    clock = Clock()
    limits = RateLimits(clock)
    passed: list[float] = []
    for pause in pauses:
        clock.now += pause
        wait = limits.wait("a", f"{count}/{unit[0]}")
        if wait:
            before = clock.now
            clock.now = before + wait * 0.999 - 1e-6
            assert limits.wait("a", f"{count}/{unit[0]}") > 0 or wait < 1e-5
            clock.now = before + wait + 1e-6
            assert limits.wait("a", f"{count}/{unit[0]}") == 0
        passed.append(clock.now)
    for first in passed:
        within = sum(first <= one < first + unit[1] - 1e-3 for one in passed)
        assert within <= 2 * count


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_CLIENTS", 10)
    limits = RateLimits(Clock())
    for number in range(100):
        limits.wait(str(number), "1/day")
    assert len(limits._due) == 10
    assert limits.wait("99", "1/day") > 0


@pytest.mark.parametrize("bad", ["", "5", "5/week", "-1/minute", "1.5/minute", "٣/minute"])
def test_what_is_no_rate(bad: str) -> None:
    with pytest.raises(InvalidInput, match="is not a rate"):
        RateLimits().wait("a", bad)
