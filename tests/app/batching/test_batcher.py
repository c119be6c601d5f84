"""A lane gives every request its own results, fairly, and loses nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager

import pytest

from app.batching.batcher import Lane
from app.batching.deadline import Cancellation, Cancelled, Control, controlled, current
from app.batching.fair_queue import FairQueue, Request
from app.batching.futures import result_of
from app.batching.latency_model import COLD, Pace
from app.errors import DeadlinePassed, Stopping
from app.types import Unobserved
from retrieval.errors import InvalidInput, ModelFault


class Model:
    """Squares numbers; can be held, to see what gathers meanwhile. Negative numbers fail."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.seconds = seconds
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.free.wait(10)
        if self.seconds:
            time.sleep(self.seconds)
        if any(item < 0 for item in items):
            raise InvalidInput("a negative number was given", fix="Give positive ones.")
        return [item * item for item in items]

    def hold(self) -> None:
        self.free.clear()

    def await_batch(self) -> None:
        assert self.entered.acquire(timeout=10)


class Seen(Unobserved):
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.gauge: tuple[int, int] = (0, 0)
        self.waits: list[float] = []
        self.refused: list[str] = []

    def batch(self, lane: str, items: int, tokens: int, seconds: float) -> None:
        self.batches.append((items, tokens))

    def waiting(self, lane: str, items: int, tokens: int) -> None:
        self.gauge = (items, tokens)

    def waited(self, lane: str, seconds: float) -> None:
        self.waits.append(seconds)

    def shed(self, reason: str) -> None:
        self.refused.append(reason)


@contextmanager
def lane_of(
    model: Callable[[Sequence[int]], Sequence[int]],
    *,
    budget: int = 100,
    cost: Callable[[int], int] = lambda item: 10,
    window_ms: float = 0.0,
    joined: bool = True,
    observer: Seen | None = None,
) -> Iterator[Lane[int, int]]:
    lane: Lane[int, int] = Lane(
        "model",
        model,
        cost=cost,
        budget=budget,
        window_ms=window_ms,
        joined=joined,
        observer=observer,
    )
    try:
        yield lane
    finally:
        if isinstance(model, Model):
            model.free.set()
        lane.close()


def held(lane: Lane[int, int], model: Model) -> Future[list[int]]:
    """The model is busy with a first item until `model.free.set()`."""
    model.hold()
    first = lane.submit([1], Control(client="first"))
    model.await_batch()
    return first


def test_what_waits_joins_one_batch() -> None:
    model, seen = Model(), Seen()
    with lane_of(model, observer=seen) as lane:
        first = held(lane, model)
        others = [lane.submit([n], Control(client=f"c{n}")) for n in range(2, 8)]
        assert seen.gauge == (6, 60)
        model.free.set()
        assert [f.result(5) for f in others] == [[n * n] for n in range(2, 8)]
        assert first.result(5) == [1]
    assert [len(batch) for batch in model.batches] == [1, 6]
    assert seen.gauge == (0, 0)
    assert seen.batches == [(1, 10), (6, 60)]
    assert len(seen.waits) == 7


def test_batches_keep_to_the_budget_but_for_a_single_large_item() -> None:
    model = Model()
    with lane_of(model, cost=lambda item: item, budget=100) as lane:
        items = [60, 30, 50, 500, 40, 10, 99]
        assert lane.run_now(items) == [item * item for item in items]
    assert all(sum(batch) <= 100 or len(batch) == 1 for batch in model.batches)
    assert model.batches[0] == [500]
    assert sorted(item for batch in model.batches for item in batch) == sorted(items)


def test_without_joining_each_request_is_a_batch() -> None:
    model = Model()
    with lane_of(model, joined=False, budget=20) as lane:
        held(lane, model)
        big = lane.submit([2, 3, 4, 5], Control(client="a"))
        small = lane.submit([6], Control(client="b"))
        model.free.set()
        assert big.result(5) == [4, 9, 16, 25]
        assert small.result(5) == [36]
    assert model.batches == [[1], [2, 3, 4, 5], [6]]


@pytest.mark.parametrize("other", ["b", "a"])
def test_a_huge_request_delays_a_small_one_by_one_batch(other: str) -> None:
    """Of another client, and also of the same one."""
    model = Model()
    with lane_of(model) as lane:
        model.hold()
        huge = lane.submit(list(range(1000)), Control(client="a"))
        model.await_batch()
        small = lane.submit([5000], Control(client=other))
        model.free.set()
        assert small.result(5) == [5000**2]
        assert huge.result(5) == [n * n for n in range(1000)]
    assert 5000 in model.batches[1]
    assert len(model.batches[1]) == 10, "the rest of the batch goes to the huge request"


def test_clients_share_batches_by_cost() -> None:
    """Two clients with items of different size get the same share of the model's time."""
    queue: FairQueue[int, int] = FairQueue(120)
    for number, (client, cost) in enumerate((("short", 5), ("long", 30))):
        queue.add(Request([0] * 400, [cost] * 400, Control(client=client), number))
    spent = {"short": 0, "long": 0}
    for _ in range(20):
        for request, own in queue.take():
            spent[request.control.client] += sum(request.costs[i] for i in own)
    assert spent["short"] == pytest.approx(spent["long"], rel=0.1)
    assert sum(spent.values()) > 20 * 120 * 0.9


def test_equal_requests_of_a_client_are_answered_one_after_the_other() -> None:
    queue: FairQueue[int, int] = FairQueue(100)
    for number in range(4):
        queue.add(Request([0] * 20, [10] * 20, Control(), number))
    order = [request.number for _ in range(8) for request, _ in queue.take()]
    assert order == [0, 0, 1, 1, 2, 2, 3, 3]


def test_items_too_large_for_a_share_still_take_turns() -> None:
    queue: FairQueue[int, int] = FairQueue(100)
    for number in range(40):
        queue.add(Request([0] * 3, [50] * 3, Control(client=f"c{number}"), number))
    turns = [request.number for _ in range(20) for request, _ in queue.take()]
    assert sorted(turns) == list(range(40)), "each client once before any has its second"


def test_a_stream_of_small_requests_does_not_starve_a_huge_one() -> None:
    """Of the same client: half of every batch goes to the oldest request."""
    queue: FairQueue[int, int] = FairQueue(100)
    queue.add(Request([0] * 100, [10] * 100, Control(), 0))
    huge = 0
    for turn in range(10):
        for n in range(12):  # more than a batch each time
            queue.add(Request([0], [10], Control(), 1 + turn * 12 + n))
        huge += sum(len(own) for request, own in queue.take() if request.number == 0)
    assert huge == pytest.approx(50, abs=5)


def test_background_work_gets_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a batch while others are about, all of it alone; and an eighth now and then
    where others fill every batch."""
    now = 1000.0
    monkeypatch.setattr("app.batching.fair_queue.time.monotonic", lambda: now)
    queue: FairQueue[int, int] = FairQueue(160)

    def taken() -> dict[bool, int]:
        spent = {True: 0, False: 0}
        for request, own in queue.take():
            spent[request.control.background] += 10 * len(own)
        return spent

    queue.add(Request([0] * 1000, [10] * 1000, Control(background=True), 0))
    queue.add(Request([0] * 2, [10] * 2, Control(), 1))
    assert taken() == {False: 20, True: 40}
    now += 0.1
    assert taken() == {False: 0, True: 40}, "somebody may come back at any moment"
    now += 1.1
    assert taken() == {False: 0, True: 160}

    queue.add(Request([0] * 1000, [10] * 1000, Control(), 2))
    shares = []
    for _ in range(9):
        shares.append(taken()[True])
        now += 0.1
    assert shares == [0, 0, 0, 20, 0, 0, 20, 0, 0]


def test_cancelled_requests_leave_nothing_behind() -> None:
    model = Model()
    with lane_of(model) as lane:
        held(lane, model)
        control = Control(deadline=time.monotonic() + 60)
        kept = lane.submit([3], control)
        gone = []
        for n in range(2000):
            future = lane.submit([n] * 5, control if n % 2 else Control(client=f"c{n % 7}"))
            gone.append(weakref.ref(future))
            assert future.cancel()
        assert (lane._queue.requests, lane._queue.items, lane._queue.cost) == (1, 1, 10)
        model.free.set()
        assert kept.result(5) == [9]
        assert lane.run_now([4]) == [16]
    del future
    gc.collect()
    assert sum(ref() is not None for ref in gone) == 0
    assert isinstance(control.cancelled, Cancellation)
    assert control.cancelled._callbacks == {}


def test_background_work_yields_and_does_not_starve() -> None:
    model = Model(seconds=0.005)
    with lane_of(model, cost=lambda item: 10, budget=80) as lane:
        behind = lane.submit([9] * 400, Control(client="jobs", background=True))
        started = time.monotonic()
        waits = []
        while time.monotonic() - started < 1.0:
            before = len(model.batches)
            # Enough to fill every batch.
            futures = [lane.submit([2] * 8, Control(client=f"c{n}")) for n in range(3)]
            wait(futures, 5)
            waits.append(len(model.batches) - before)
        done = sum(batch.count(9) for batch in model.batches)
        share = done / sum(len(batch) for batch in model.batches)
        assert not behind.done()
        assert 0 < share < 0.3
        assert max(waits) <= 6, "three requests take three batches, and little more"
        assert len(behind.result(10)) == 400, "alone, it gets all"


def test_a_lone_request_does_not_wait_for_the_window() -> None:
    model = Model()
    with lane_of(model, window_ms=500) as lane:
        started = time.monotonic()
        for n in range(20):
            assert lane.run_now([n]) == [n * n]
        assert time.monotonic() - started < 0.4


def test_an_idle_model_waits_the_window_where_others_are_about() -> None:
    model = Model()
    with lane_of(model, window_ms=200) as lane:
        first = held(lane, model)
        second = lane.submit([2], Control())
        model.free.set()
        wait([first, second], 5)
        time.sleep(0.005)
        # Two were seen at once just now: the first that comes waits for the second.
        a = lane.submit([3], Control())
        time.sleep(0.005)
        assert not a.done()
        b = lane.submit([4], Control())
        assert (a.result(5), b.result(5)) == ([9], [16])
    assert sorted(model.batches[-1]) == [3, 4]


def test_the_window_ends() -> None:
    model = Model()
    with lane_of(model, window_ms=30) as lane:
        first = held(lane, model)
        second = lane.submit([2], Control())
        model.free.set()
        wait([first, second], 5)
        started = time.monotonic()
        assert lane.run_now([3]) == [9]
        assert time.monotonic() - started < 5


def test_one_requests_bad_input_fails_that_request_alone() -> None:
    model = Model()
    with lane_of(model) as lane:
        held(lane, model)
        good = [lane.submit([n, n + 1], Control(client=f"c{n}")) for n in (2, 4)]
        bad = lane.submit([7, -1], Control(client="bad"))
        model.free.set()
        assert [f.result(5) for f in good] == [[4, 9], [16, 25]]
        with pytest.raises(InvalidInput, match="negative"):
            bad.result(5)
        assert lane.run_now([3]) == [9], "the lane lives on"


def test_a_panic_is_a_model_fault() -> None:
    class Panic(BaseException):
        pass

    def run(items: Sequence[int]) -> list[int]:
        raise Panic("index out of bounds")

    with lane_of(run) as lane:
        for _ in range(2):
            with pytest.raises(ModelFault, match="Panic: index out of bounds"):
                lane.run_now([1])


def test_a_model_that_gives_too_few_values_is_a_fault() -> None:
    with lane_of(lambda items: [1]) as lane, pytest.raises(ModelFault, match="1 values for 2"):
        lane.run_now([1, 2])


def test_a_models_own_timeout_is_its_error() -> None:
    def run(items: Sequence[int]) -> list[int]:
        raise TimeoutError("the device")

    with lane_of(run) as lane, pytest.raises(TimeoutError, match="the device"):
        lane.run_now([1])


def test_a_cancelled_future_leaves_the_queue_at_once() -> None:
    model, seen = Model(), Seen()
    with lane_of(model, observer=seen) as lane:
        first = held(lane, model)
        gone = lane.submit([2, 3], Control())
        kept = lane.submit([4], Control())
        assert gone.cancel()
        assert seen.gauge == (1, 10)
        model.free.set()
        assert kept.result(5) == [16]
        assert first.result(5) == [1]
        with pytest.raises(CancelledError):
            gone.result(5)
    assert model.batches == [[1], [4]]


@pytest.mark.parametrize("event", [Cancellation, threading.Event])
def test_a_cancelled_control_ends_the_wait(event: Callable[[], threading.Event]) -> None:
    model = Model()
    with lane_of(model) as lane:
        held(lane, model)
        control = Control(cancelled=event())
        errors: list[BaseException] = []

        def ask() -> None:
            with controlled(control):
                try:
                    lane.run_now([2])
                except Cancelled as error:
                    errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.02)
        control.cancelled.set()
        thread.join(5)  # the model is still held
        assert len(errors) == 1
        model.free.set()
        with pytest.raises(Cancelled):
            lane.submit([3], control).result(5)
        assert lane.run_now([4]) == [16]
    assert [2] not in model.batches


def test_a_deadline_ends_the_wait_while_the_model_runs() -> None:
    model, seen = Model(), Seen()
    with lane_of(model, observer=seen) as lane:
        held(lane, model)
        started = time.monotonic()
        with (
            controlled(Control(deadline=time.monotonic() + 0.05)),
            pytest.raises(DeadlinePassed, match="timeout_ms"),
        ):
            lane.run_now([2, 3, 4])
        assert 0.04 < time.monotonic() - started < 2
        late = lane.submit([5], Control(deadline=time.monotonic() + 0.02))
        over = lane.submit([6], Control(deadline=time.monotonic() - 1))
        assert isinstance(over.exception(5), DeadlinePassed)
        time.sleep(0.03)
        model.free.set()
        assert isinstance(late.exception(5), DeadlinePassed), "nobody watched it but the lane"
        assert lane.run_now([7]) == [49]
    assert model.batches == [[1], [7]], "no item of a late request reached the model"
    assert seen.refused == [], "who lets requests in counts them, once each"


def test_progress_comes_from_the_calling_thread() -> None:
    model = Model()
    calls: list[tuple[int, int, int]] = []
    with lane_of(model) as lane:
        lane.run_now(
            list(range(25)),
            progress=lambda done, of: calls.append((done, of, threading.get_ident())),
        )
    assert [(done, of) for done, of, _ in calls] == [(10, 25), (20, 25), (25, 25)]
    assert {thread for _, _, thread in calls} == {threading.get_ident()}


def test_an_error_of_progress_takes_the_rest_out_of_the_queue() -> None:
    model = Model(seconds=0.002)
    with lane_of(model) as lane:

        def fail(done: int, of: int) -> None:
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            lane.run_now(list(range(1000)), progress=fail)
    assert len(model.batches) < 50


def test_closing_finishes_what_was_accepted() -> None:
    model = Model()
    with lane_of(model) as lane:
        held(lane, model)
        futures = [lane.submit([n] * 30, Control(client=f"c{n}")) for n in range(5)]
        threading.Timer(0.05, model.free.set).start()
        lane.close()
        assert all(future.done() for future in futures)
        assert [future.result() for future in futures] == [[n * n] * 30 for n in range(5)]
        with pytest.raises(Stopping):
            lane.submit([1], Control())
        lane.close()


def test_no_items_need_no_model() -> None:
    model = Model()
    with lane_of(model) as lane:
        assert lane.run_now([]) == []
    assert model.batches == []


def test_the_wait_ahead_follows_the_measured_rate() -> None:
    model = Model(seconds=0.02)
    with lane_of(model) as lane:
        assert lane.seconds_ahead() == 0
        lane.run_now(list(range(100)))  # ten batches of 100 tokens
        assert lane.idle()
        assert lane.seconds_for(1000) == pytest.approx(0.2, rel=0.5)
        held(lane, model)
        lane.submit(list(range(100)), Control())
        assert not lane.idle()
        assert lane.seconds_ahead() == pytest.approx(0.21, rel=0.5)
        before = lane.seconds_ahead()
        lane.submit(list(range(100)), Control(background=True))
        assert lane.seconds_ahead() <= before, "others do not wait for background work"


def test_pace_tells_what_a_batch_costs_from_what_its_tokens_cost() -> None:
    """After many short batches a full one must not be taken for a hundred times its time."""
    pace = Pace(4096)
    for _ in range(COLD):  # a model that compiles, or fills its caches, tells nothing of its pace
        pace.learn(8, 30.0)
    assert pace.seconds(4096) == 0
    for cost in (8, 8, 12, 2000, 8, 16, 4000, 8):
        pace.learn(cost, 0.005 + cost * 1e-4)
    assert pace.seconds(4096) == pytest.approx(0.005 + 0.4096, rel=0.05)
    assert pace.seconds(8) == pytest.approx(0.0058, rel=0.2)
    flat = Pace(4096)
    for seconds in (*[30.0] * COLD, 0.1):
        flat.learn(100, seconds)
    assert flat.seconds(200) == pytest.approx(0.2)


def test_control_follows_its_context() -> None:
    control = Control(client="key-1")
    assert current() is not current()
    with controlled(control):
        assert current() is control
        with controlled(Control(client="other")):
            assert current().client == "other"
        assert current() is control
    with pytest.raises(DeadlinePassed):
        Control(deadline=time.monotonic() - 1).check()
    control.cancelled.set()
    with pytest.raises(Cancelled):
        control.check()


def test_waiting_on_the_event_loop() -> None:
    model = Model()

    async def ask(lane: Lane[int, int]) -> None:
        control = Control()
        assert await result_of(lane.submit([3], control), control) == [9]
        with pytest.raises(InvalidInput):
            await result_of(lane.submit([-3], control), control)
        model.entered = threading.Semaphore(0)
        held(lane, model)
        short = Control(deadline=time.monotonic() + 0.03)
        with pytest.raises(DeadlinePassed):
            await result_of(lane.submit([4], short), short)
        task = asyncio.create_task(result_of(lane.submit([5], control), control))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lane._queue.items == 0
        model.free.set()
        assert await result_of(lane.submit([6], control), control) == [36]

    with lane_of(model) as lane:
        asyncio.run(ask(lane))
    assert [4] not in model.batches
    assert [5] not in model.batches


@pytest.mark.parametrize("seed", range(4))
def test_under_many_threads_everyone_gets_their_own(seed: int) -> None:
    """Random sizes, clients, deadlines, cancellations and failures: each answer is right or said
    to be none, and nothing is left over."""
    model = Model()
    seen = Seen()
    wrong: list[str] = []
    counts = {"answered": 0, "refused": 0}
    counting = threading.Lock()
    lane: Lane[int, int] = Lane(
        "model", model, cost=lambda item: 1 + item % 40, budget=200, window_ms=0.5, observer=seen
    )

    def client(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        for _ in range(25):
            size = rng.choice((1, 1, 1, 5, 40, 300))
            items = [rng.randrange(10_000) for _ in range(size)]
            bad = rng.random() < 0.1
            if bad:
                items[rng.randrange(size)] = -1
            control = Control(
                client=f"c{number % 5}",
                deadline=time.monotonic() + rng.random() * 0.03 if rng.random() < 0.2 else None,
                background=rng.random() < 0.2,
            )
            cancelling = rng.random() < 0.15
            future = lane.submit(items, control) if cancelling else None
            try:
                if future is not None:
                    time.sleep(rng.random() * 0.002)
                    if rng.random() < 0.5:
                        future.cancel()
                    else:
                        control.cancelled.set()
                    values = future.result(20)
                else:
                    with controlled(control):
                        values = lane.run_now(items)
            except InvalidInput:
                outcome = "refused"
                if not bad:
                    wrong.append("another request's error")
            except DeadlinePassed:
                outcome = "refused"
                if control.deadline is None:
                    wrong.append("a deadline without one")
            except (Cancelled, CancelledError):
                outcome = "refused"
                if not cancelling:
                    wrong.append("cancelled by nobody")
            else:
                outcome = "answered"
                if bad or values != [item * item for item in items]:
                    wrong.append("another's values")
            with counting:
                counts[outcome] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a request was lost"
    lane.close()
    assert wrong == []
    assert sum(counts.values()) == 24 * 25
    assert counts["answered"] > 300
    assert seen.gauge == (0, 0)
    assert lane._load.alive_in_front == 0
    assert sum(lane._load._alive) == 0
    assert any(len(batch) > 50 for batch in model.batches) or len(seen.batches) > 100
