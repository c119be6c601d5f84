"""What would wait too long is refused at once, judged by the caller's own share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from batching_help import MakeBatcher, Observed

from app.batching.admission import Admission
from app.batching.batcher import Batcher
from app.errors import Overloaded, Stopping


@pytest.fixture
def batcher(make_batcher: MakeBatcher) -> Batcher[int, int]:
    """Over a model of which it is known that it reads a thousand tokens a second."""
    made = make_batcher()
    for _ in range(10):
        made.rate.learn(100, 0.1)
    return made


def test_as_many_requests_as_are_allowed(batcher: Batcher[int, int], observed: Observed) -> None:
    admission = Admission(2, 1000, observed)
    with admission.enter("a"), admission.enter("a", {batcher: 300}):
        assert admission.inside == 2
        with pytest.raises(Overloaded, match="2 requests are in work") as caught:
            admission.enter("a").__enter__()
        assert caught.value.retry_after_s == pytest.approx(0.3)
    assert admission.inside == 0
    assert observed.refused == ["overloaded"]
    with admission.enter("a"):
        pass


def test_where_one_caller_takes_all_room_others_get_their_share() -> None:
    admission = Admission(8, 1000)
    with ExitStack() as greedy, ExitStack() as polite:
        for _ in range(8):
            greedy.enter_context(admission.enter("greedy"))
        for _ in range(4):
            polite.enter_context(admission.enter("polite"))
        for caller in ("greedy", "polite"):
            with pytest.raises(Overloaded):
                admission.enter(caller).__enter__()
        assert admission.inside == 12, "bounded: each caller has its equal share at most"
    assert admission.inside == 0


def test_a_caller_waits_for_its_own_tokens_and_as_many_of_others(
    batcher: Batcher[int, int],
) -> None:
    admission = Admission(100, 1000)
    with ExitStack() as greedy:
        for _ in range(2):
            greedy.enter_context(admission.enter("greedy", {batcher: 600}))
        with pytest.raises(
            Overloaded, match=r"work for 1\.2 s waits for 'model'.*max_wait_ms"
        ) as e:
            admission.enter("greedy", {batcher: 1}).__enter__()
        assert e.value.retry_after_s == pytest.approx(0.7)
        with admission.enter("polite", {batcher: 400}):
            with admission.enter("polite", {batcher: 50}):  # 400 of its own, 400 of the other
                pass
            with admission.enter("polite", {batcher: 200}), pytest.raises(Overloaded):
                admission.enter("polite", {batcher: 1}).__enter__()  # 600 and 600


def test_a_request_that_would_take_too_long_itself_waits_for_an_idle_model(
    batcher: Batcher[int, int],
) -> None:
    admission = Admission(10, 1000)
    with admission.enter("a", {batcher: 50_000}):
        with pytest.raises(Overloaded, match=r"this request would take it 2\.4 s more"):
            admission.enter("b", {batcher: 1200}).__enter__()  # and as much of a's
        with admission.enter("b", {batcher: 900}):
            pass
    with admission.enter("b", {batcher: 50_000}):
        pass


def test_nobody_is_refused_while_the_rate_is_unknown(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher()
    admission = Admission(10, 1)
    with admission.enter("a", {batcher: 10**9}), admission.enter("a", {batcher: 10**9}):
        pass


def test_an_error_inside_leaves_nothing_behind(batcher: Batcher[int, int]) -> None:
    admission = Admission(1, 1000)
    with pytest.raises(ZeroDivisionError), admission.enter("a", {batcher: 50_000}):
        raise ZeroDivisionError
    assert admission.inside == 0
    with admission.enter("a", {batcher: 1}):
        pass


def test_stopping_and_draining() -> None:
    admission = Admission(5, 1000)
    leave = threading.Event()
    entered = threading.Event()

    def stay() -> None:
        with admission.enter("a"):
            entered.set()
            assert leave.wait(10)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(stay)
        assert entered.wait(5)
        admission.close()
        with pytest.raises(Stopping):
            admission.enter("b").__enter__()
        assert not admission.drained(0.01)
        leave.set()
        assert admission.drained(5)
