"""Requests that would wait too long are refused at once, and say when to come again."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from app.batching.admission import Admission
from app.batching.batcher import Lane
from app.batching.deadline import Control
from app.errors import Overloaded, Stopping, retry_after
from app.types import Unobserved


class Shed(Unobserved):
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def shed(self, reason: str) -> None:
        self.reasons.append(reason)


class Slow:
    """A model that takes a millisecond an item, and can be held."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items: Sequence[int]) -> Sequence[int]:
        assert self.free.wait(20)
        time.sleep(0.001 * len(items))
        return items


@pytest.fixture
def model() -> Slow:
    return Slow()


@pytest.fixture
def lane(model: Slow) -> Iterator[Lane[int, int]]:
    """A lane with a measured rate of about one unit of cost a millisecond."""
    lane: Lane[int, int] = Lane("slow", model, cost=lambda item: 1, budget=50, window_ms=0)
    lane.run_now(list(range(150)))
    yield lane
    model.free.set()
    lane.close()


def test_as_many_requests_as_are_allowed(lane: Lane[int, int]) -> None:
    shed = Shed()
    admission = Admission(2, 1000, shed)
    with admission.enter(), admission.enter({lane: 1}):
        assert admission.inside == 2
        with pytest.raises(Overloaded, match="2 requests are in work") as caught, admission.enter():
            pass
        assert (retry_after(caught.value) or 0) > 0
    assert admission.inside == 0
    assert shed.reasons == ["overloaded"]
    with admission.enter():
        pass


def test_an_error_inside_leaves_nothing_behind(lane: Lane[int, int]) -> None:
    admission = Admission(1, 1000)
    with pytest.raises(ZeroDivisionError), admission.enter({lane: 500}):
        raise ZeroDivisionError
    assert admission.inside == 0
    assert lane.idle()
    assert lane.seconds_ahead() == 0


def test_an_idle_model_takes_any_one_request(lane: Lane[int, int]) -> None:
    admission = Admission(10, 100)
    with admission.enter({lane: 10_000}):  # ten seconds
        assert not lane.idle()
        with pytest.raises(Overloaded, match=r"waits for 'slow'.*max_wait_ms") as caught:
            admission.enter({lane: 1}).__enter__()
        assert 5 < caught.value.retry_after_s < 40
    with admission.enter({lane: 1}):
        pass


def test_work_that_waits_counts_and_so_does_what_was_promised(
    lane: Lane[int, int], model: Slow
) -> None:
    admission = Admission(10, 200)
    model.free.clear()
    future = lane.submit([0] * 100, Control())  # 100 ms
    with admission.enter({lane: 90}):  # 190 ms
        with admission.enter({lane: 60}), pytest.raises(Overloaded):  # 250 ms
            admission.enter({lane: 1}).__enter__()
        model.free.set()
        future.result(10)


def test_a_request_far_beyond_twice_the_limit_waits_for_an_idle_model(
    lane: Lane[int, int],
) -> None:
    admission = Admission(10, 200)
    with admission.enter({lane: 50}):
        with pytest.raises(Overloaded, match="this request would take it"):
            admission.enter({lane: 1000}).__enter__()
        with admission.enter({lane: 50}):
            pass


def test_what_is_submitted_counts_once(lane: Lane[int, int], model: Slow) -> None:
    """Once items wait, the promise of them is met; whichever thread hands them over."""
    admission = Admission(10, 10_000)
    with admission.enter({lane: 300}):
        promised = lane.seconds_ahead()
        model.free.clear()
        contextvars.copy_context().run(lane.submit, [0] * 200, Control())
        futures = []

        def in_thread() -> None:
            futures.append(lane.submit([0] * 100, Control()))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(in_thread,))
        thread.start()
        thread.join()
        assert lane._load.expected_cost == 0
        assert lane.seconds_ahead() == pytest.approx(promised, rel=0.3)
        model.free.set()
        futures[0].result(10)
    assert lane.seconds_ahead() < 0.2


def test_the_promise_ends_with_the_request(lane: Lane[int, int]) -> None:
    admission = Admission(10, 10_000)
    with admission.enter({lane: 300}):
        assert lane.seconds_ahead() > 0.1
    assert lane.seconds_ahead() == 0
    assert lane._load.expected == set()


def test_an_idle_model_waits_for_who_was_let_in(lane: Lane[int, int]) -> None:
    """Within the window: both are then one batch."""
    batches: list[int] = []

    def run(items: Sequence[int]) -> Sequence[int]:
        batches.append(len(items))
        return items

    other: Lane[int, int] = Lane("other", run, cost=lambda item: 1, budget=50, window_ms=300)
    admission = Admission(10, 1000)

    async def one(delay: float) -> None:
        with admission.enter({other: 1}):
            await asyncio.sleep(delay)
            await asyncio.to_thread(other.run_now, [1])

    async def both() -> float:
        started = time.monotonic()
        await asyncio.gather(one(0), one(0.02))
        return time.monotonic() - started

    seconds = asyncio.run(both())
    other.close()
    assert batches == [2]
    assert seconds < 0.25, "the window ends once everybody is there"


def test_stopping_and_draining() -> None:
    admission = Admission(5, 1000)
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with admission.enter():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(5)
    admission.close()
    with pytest.raises(Stopping):
        admission.enter().__enter__()
    assert not admission.drained(0.02)
    threading.Timer(0.05, leave.set).start()
    assert admission.drained(5)
    thread.join()


def test_overload_is_shed_and_what_was_let_in_is_answered_in_time(
    lane: Lane[int, int],
) -> None:
    """Five times as much as the model can do: what gets in ends within twice the limit."""
    limit = 0.2
    admission = Admission(1000, limit * 1000, shed := Shed())
    took: list[float] = []

    def ask() -> None:
        started = time.monotonic()
        try:
            with admission.enter({lane: 20}):
                assert contextvars.copy_context().run(lane.run_now, [7] * 20) == [7] * 20
                took.append(time.monotonic() - started)
        except Overloaded:
            return

    threads = []
    started = time.monotonic()
    for number in range(250):  # 20 ms of work each 4 ms
        threads.append(thread := threading.Thread(target=ask))
        thread.start()
        time.sleep(max(0.0, started + 0.004 * (number + 1) - time.monotonic()))
    for thread in threads:
        thread.join(20)
    assert len(took) + len(shed.reasons) == 250, "refused or answered, nothing lost"
    assert len(shed.reasons) > 100
    assert len(took) > 20
    assert sorted(took)[int(len(took) * 0.95)] < 2 * limit * 1.5, "1.5: a busy machine"
