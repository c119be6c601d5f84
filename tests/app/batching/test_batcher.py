"""A batcher gives every request its own results, joins what waits, and loses nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import pytest
from batching_help import MakeBatcher, Model, Observed

from app.batching.batcher import Batcher
from app.batching.deadline import Cancelled, Control, controlled, current
from app.batching.tokens import COLD_BATCHES, Rate
from app.errors import DeadlinePassed, Stopping
from retrieval.errors import InvalidInput, ModelFault


def submitted(
    batcher: Batcher[int, int], items: Sequence[int], client: str = "a"
) -> Future[list[int]]:
    return batcher.submit(items, Control(client=client)).future


def test_what_waits_joins_one_batch(
    make_batcher: MakeBatcher, model: Model, observed: Observed
) -> None:
    batcher = make_batcher()
    first = model.hold(batcher)
    others = [submitted(batcher, [n], f"c{n}") for n in range(2, 8)]
    assert observed.queue == (6, 60)
    model.free.set()
    assert [f.result(5) for f in others] == [[n * n] for n in range(2, 8)]
    assert first.future.result(5) == [1]
    assert [len(batch) for batch in model.batches] == [1, 6]
    assert observed.queue == (0, 0)
    assert observed.batches == [(1, 10), (6, 60)]
    assert len(observed.waits) == 7


def test_batches_keep_to_the_budget_but_for_a_single_large_item(
    make_batcher: MakeBatcher, model: Model
) -> None:
    items = [60, 30, 50, 500, 40, 10, 99]
    assert make_batcher(cost=lambda item: item).run(items) == [item * item for item in items]
    assert all(sum(batch) <= 100 or len(batch) == 1 for batch in model.batches)
    assert model.batches[0] == [500], "the longest first"
    assert sorted(item for batch in model.batches for item in batch) == sorted(items)


def test_without_joining_each_request_is_a_batch(make_batcher: MakeBatcher, model: Model) -> None:
    batcher = make_batcher(joined=False, budget=20)
    model.hold(batcher)
    big, small = submitted(batcher, [2, 3, 4, 5], "a"), submitted(batcher, [6], "b")
    model.free.set()
    assert (big.result(5), small.result(5)) == ([4, 9, 16, 25], [36])
    assert model.batches == [[1], [2, 3, 4, 5], [6]]


@pytest.mark.parametrize("client", ["b", "a"])
def test_a_huge_request_delays_a_small_one_by_one_batch(
    client: str, make_batcher: MakeBatcher, model: Model
) -> None:
    """Of another caller, and also of the same one."""
    batcher = make_batcher()
    model.hold(batcher)
    huge = submitted(batcher, range(1000))
    small = submitted(batcher, [5000], client)
    model.free.set()
    assert small.result(5) == [5000**2]
    assert huge.result(5) == [n * n for n in range(1000)]
    assert 5000 in model.batches[1]


def test_a_lone_request_does_not_wait_for_the_window(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(window_ms=20_000)
    for n in range(5):
        assert submitted(batcher, [n]).result(10) == [n * n]


def test_an_idle_model_waits_the_window_where_others_came_lately(
    make_batcher: MakeBatcher, model: Model
) -> None:
    batcher = make_batcher(window_ms=20_000)
    model.hold(batcher)
    joined = [submitted(batcher, [n]) for n in (2, 3)]
    model.free.set()
    wait(joined, 5)
    # Two were joined just now: the next one waits for another, and both for no longer.
    both = [submitted(batcher, [n]) for n in (4, 5)]
    assert [f.result(10) for f in both] == [[16], [25]]
    assert sorted(model.batches[-1]) == [4, 5]


def test_the_window_ends(make_batcher: MakeBatcher, model: Model) -> None:
    batcher = make_batcher(window_ms=30)
    model.hold(batcher)
    joined = [submitted(batcher, [n]) for n in (2, 3)]
    model.free.set()
    wait(joined, 5)
    assert submitted(batcher, [4]).result(5) == [16]


def test_one_requests_bad_input_fails_that_request_alone(
    make_batcher: MakeBatcher, model: Model
) -> None:
    batcher = make_batcher()
    model.hold(batcher)
    good = [submitted(batcher, [n, n + 1], f"c{n}") for n in (2, 4)]
    bad = submitted(batcher, [7, -1], "bad")
    model.free.set()
    assert [f.result(5) for f in good] == [[4, 9], [16, 25]]
    with pytest.raises(InvalidInput, match="negative"):
        bad.result(5)
    assert batcher.run([3]) == [9], "it lives on"


class Panic(BaseException):
    """As a Rust extension raises it: no `Exception`."""


@pytest.mark.parametrize(
    ("outcome", "error", "message"),
    [
        (Panic("index out of bounds"), ModelFault, "Panic: index out of bounds"),
        (TimeoutError("the device"), TimeoutError, "the device"),
        ([1], ModelFault, "1 values for 2"),
    ],
)
def test_what_a_model_raises_or_forgets_is_its_requests_error(
    outcome: BaseException | list[int],
    error: type[Exception],
    message: str,
    make_batcher: MakeBatcher,
) -> None:
    def compute(items: Sequence[int]) -> Sequence[int]:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    batcher = make_batcher(compute)
    for _ in range(2):  # it lives on
        with pytest.raises(error, match=message):
            batcher.run([1, 2])


def test_a_cancelled_request_ends_at_once_and_does_not_reach_the_model(
    make_batcher: MakeBatcher, model: Model, observed: Observed
) -> None:
    batcher = make_batcher()
    model.hold(batcher)
    control = Control()
    gone = batcher.submit([2, 3], control).future
    kept = submitted(batcher, [4])
    control.cancelled.set()  # the model is still held
    with pytest.raises(Cancelled):
        gone.result(5)
    assert observed.queue == (1, 10)
    with pytest.raises(Cancelled):
        batcher.submit([5], control).future.result(5)
    model.free.set()
    assert kept.result(5) == [16]
    assert model.batches == [[1], [4]]


def test_cancelling_ends_the_wait_of_a_thread(make_batcher: MakeBatcher, model: Model) -> None:
    batcher = make_batcher()
    model.hold(batcher)
    control = Control()

    def ask() -> None:
        with controlled(control), pytest.raises(Cancelled):
            batcher.run([2])

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        control.cancelled.set()
        asked.result(10)


def test_a_deadline_ends_the_wait_while_the_model_runs(
    make_batcher: MakeBatcher, model: Model, observed: Observed
) -> None:
    batcher = make_batcher()
    model.hold(batcher)
    with (
        controlled(Control(deadline=time.monotonic() + 0.05)),
        pytest.raises(DeadlinePassed, match="timeout_ms"),
    ):
        batcher.run([2, 3, 4])
    unwatched = Control(deadline=time.monotonic() + 0.01)
    late = batcher.submit([5], unwatched).future
    passed = batcher.submit([6], Control(deadline=time.monotonic() - 1)).future
    assert isinstance(passed.exception(5), DeadlinePassed)
    while not unwatched.passed():
        time.sleep(0.001)
    model.free.set()
    assert isinstance(late.exception(5), DeadlinePassed)
    assert batcher.run([7]) == [49]
    assert model.batches == [[1], [7]], "no item of a late request reached the model"
    assert observed.refused == [], "who lets requests in counts them, once each"


def test_progress_comes_from_the_calling_thread(make_batcher: MakeBatcher, model: Model) -> None:
    model.seconds = 0.05
    calls: list[tuple[int, int, int]] = []
    make_batcher().run(
        list(range(60)), progress=lambda done, of: calls.append((done, of, threading.get_ident()))
    )
    done = [one for one, _, _ in calls]
    assert done == sorted(done)
    assert (done[-1], len(done) > 2) == (60, True)
    assert {(of, thread) for _, of, thread in calls} == {(60, threading.get_ident())}


def test_an_error_of_progress_takes_the_rest_out_of_the_queue(
    make_batcher: MakeBatcher, model: Model, observed: Observed
) -> None:
    model.seconds = 0.01

    def fail(done: int, of: int) -> None:
        raise RuntimeError("stop")

    batcher = make_batcher()
    with pytest.raises(RuntimeError, match="stop"):
        batcher.run(list(range(1000)), progress=fail)
    assert observed.queue == (0, 0)


def test_closing_finishes_what_was_accepted(make_batcher: MakeBatcher, model: Model) -> None:
    batcher = make_batcher()
    model.hold(batcher)
    futures = [submitted(batcher, [n] * 30, f"c{n}") for n in range(5)]
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(batcher.close)
        model.free.set()
        closing.result(10)
    assert [future.result(0) for future in futures] == [[n * n] * 30 for n in range(5)]
    with pytest.raises(Stopping):
        submitted(batcher, [1])


def test_no_items_need_no_model(make_batcher: MakeBatcher, model: Model) -> None:
    assert make_batcher().run([]) == []
    assert model.batches == []


def test_nothing_of_a_request_is_kept(make_batcher: MakeBatcher, model: Model) -> None:
    batcher = make_batcher()
    model.hold(batcher)
    control = Control()
    futures = [batcher.submit([n], control).future for n in range(100)]
    gone = [weakref.ref(future) for future in futures]
    for future in futures[:50]:
        future.cancel()
    model.free.set()
    assert not wait(futures[50:], 10).not_done
    del futures, future
    assert batcher.run([4]) == [16]
    gc.collect()
    assert [ref for ref in gone if ref() is not None] == []


def test_a_rate_trusts_full_batches_more_than_short_ones() -> None:
    rate = Rate(enough=4096)
    for _ in range(COLD_BATCHES):  # a model that compiles shows nothing of its rate
        rate.learn(8, 30.0)
    for _ in range(20):
        rate.learn(8, 0.005)
    assert rate.seconds(10_000) == 0, "short batches say nothing of full ones"
    rate.learn(4096, 0.4096)
    assert rate.seconds(4096) == pytest.approx(0.41, rel=0.1)
    for _ in range(40):
        rate.learn(4096, 0.2048)
    assert rate.seconds(4096) == pytest.approx(0.2048, rel=0.05), "it follows the model"


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


def test_on_the_event_loop(make_batcher: MakeBatcher, model: Model, observed: Observed) -> None:
    batcher = make_batcher()

    async def ask() -> None:
        control = Control()
        assert await batcher.run_async([3], control) == [9]
        with pytest.raises(InvalidInput):
            await batcher.run_async([-3], control)
        await asyncio.to_thread(model.hold, batcher)
        with pytest.raises(DeadlinePassed):
            await batcher.run_async([4], Control(deadline=time.monotonic() + 0.03))
        task = asyncio.create_task(batcher.run_async([5], control))
        await asyncio.sleep(0)
        assert observed.queue == (1, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert observed.queue == (0, 0)
        model.free.set()
        assert await batcher.run_async([6], control) == [36]

    asyncio.run(ask())
    assert [4] not in model.batches
    assert [5] not in model.batches


def _ask_at_random(batcher: Batcher[int, int], seed: int, client: str) -> list[str]:
    """What became of 25 requests of random sizes, deadlines, cancellations and failures."""
    rng = random.Random(seed)
    outcomes = []
    for _ in range(25):
        size = rng.choice((1, 1, 1, 5, 40, 300))
        items = [rng.randrange(10_000) for _ in range(size)]
        bad, cancelling = rng.random() < 0.1, rng.random() < 0.15
        if bad:
            items[rng.randrange(size)] = -1
        control = Control(client=client, background=rng.random() < 0.2)
        if rng.random() < 0.2:
            control.deadline = time.monotonic() + rng.random() * 0.03
        allowed: tuple[type[BaseException], ...] = (
            *((InvalidInput,) if bad else ()),
            *((DeadlinePassed,) if control.deadline is not None else ()),
            *((Cancelled, CancelledError) if cancelling else ()),
        )
        try:
            if cancelling:
                request = batcher.submit(items, control)
                cancel: Callable[[], object] = rng.choice(
                    (request.future.cancel, control.cancelled.set)
                )
                cancel()
                values = request.future.result(20)
            else:
                with controlled(control):
                    values = batcher.run(items)
        except allowed:
            outcomes.append("refused")
        else:
            right = not bad and values == [item * item for item in items]
            outcomes.append("answered" if right else f"wrong: {items[:3]} {values[:3]}")
    return outcomes


@pytest.mark.parametrize("seed", range(2))
def test_under_many_threads_everyone_gets_their_own(
    seed: int, make_batcher: MakeBatcher, observed: Observed
) -> None:
    """Each answer is right or refused for a reason, and nothing is left over."""
    batcher = make_batcher(cost=lambda item: 1 + item % 40, budget=200, window_ms=0.5)
    with ThreadPoolExecutor(24) as pool:
        asked = [
            pool.submit(_ask_at_random, batcher, seed * 1000 + n, f"c{n % 5}") for n in range(24)
        ]
        outcomes = [outcome for one in asked for outcome in one.result(60)]
    assert set(outcomes) == {"answered", "refused"}
    assert len(outcomes) == 24 * 25
    assert outcomes.count("answered") > 300
    deadline = time.monotonic() + 5  # what was cancelled leaves the queue a moment later
    while observed.queue != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert observed.queue == (0, 0)
