"""Which caller is next: callers share a model by tokens, whatever each of them asks for."""

from __future__ import annotations

from collections import Counter

import pytest

from app.batching.deadline import Control
from app.batching.queue import FairQueue, Request


def waiting(
    fair: FairQueue[int, int], client: str, count: int, cost: int = 10
) -> Request[int, int]:
    """A request of `count` items, in the queue."""
    request: Request[int, int] = Request([0] * count, [cost] * count, Control(client=client))
    fair.add(request)
    return request


def tokens_by_client(fair: FairQueue[int, int], batches: int) -> Counter[str]:
    spent: Counter[str] = Counter()
    for _ in range(batches):
        for part in fair.take():
            spent[part.request.control.client] += part.tokens
    return spent


def test_callers_share_batches_by_tokens_and_not_by_requests() -> None:
    fair: FairQueue[int, int] = FairQueue(120)
    for _ in range(200):
        waiting(fair, "short", 2, cost=5)
    waiting(fair, "long", 400, cost=30)
    spent = tokens_by_client(fair, 20)
    assert spent["short"] == pytest.approx(spent["long"], rel=0.1)
    assert sum(spent.values()) == 20 * 120, "while both wait, batches are full"


def test_items_too_large_for_a_share_still_take_turns() -> None:
    fair: FairQueue[int, int] = FairQueue(100)
    for number in range(40):
        waiting(fair, f"c{number}", 3, cost=50)
    assert tokens_by_client(fair, 20) == {f"c{number}": 50 for number in range(40)}


def test_a_newcomer_neither_waits_for_the_past_nor_is_paid_for_it() -> None:
    fair: FairQueue[int, int] = FairQueue(100)
    waiting(fair, "old", 1000)
    tokens_by_client(fair, 20)
    waiting(fair, "new", 1000)
    spent = tokens_by_client(fair, 40)
    assert 0 <= spent["new"] - spent["old"] <= 50, "but for its head start"


def test_a_batch_shared_with_a_small_request_is_small() -> None:
    fair: FairQueue[int, int] = FairQueue(1000)
    waiting(fair, "greedy", 500)
    assert tokens_by_client(fair, 1) == {"greedy": 1000}
    waiting(fair, "polite", 20)
    assert tokens_by_client(fair, 1) == {"polite": 200}
    assert tokens_by_client(fair, 1) == {"greedy": 1000}
    waiting(fair, "polite", 1)
    spent = tokens_by_client(fair, 1)
    assert spent == {"greedy": pytest.approx(1000 / 8, abs=10), "polite": 10}, "worth running"
    assert tokens_by_client(fair, 1) == {"greedy": 1000}


def test_who_comes_and_goes_gets_its_share_and_no_more() -> None:
    """It asks for as much as a head start whenever it was served."""
    fair: FairQueue[int, int] = FairQueue(1000)
    waiting(fair, "greedy", 5000)
    spent: Counter[str] = Counter()
    for _ in range(40):
        waiting(fair, "often", 25)
        spent += tokens_by_client(fair, 1)
    assert spent["often"] == pytest.approx(spent["greedy"], rel=0.2)


def test_many_small_callers_share_one_batch() -> None:
    fair: FairQueue[int, int] = FairQueue(1000)
    waiting(fair, "greedy", 500)
    assert tokens_by_client(fair, 1) == {"greedy": 1000}
    for number in range(32):
        waiting(fair, f"c{number}", 1)
    assert tokens_by_client(fair, 1) == {f"c{number}": 10 for number in range(32)}


def test_requests_of_a_caller_are_answered_one_after_the_other() -> None:
    fair: FairQueue[int, int] = FairQueue(100)
    requests = [waiting(fair, "a", 5) for _ in range(4)]
    served = [requests.index(part.request) for _ in range(2) for part in fair.take()]
    assert served == [0, 1, 2, 3]


def test_a_huge_request_shares_its_callers_batches_with_the_next_ones() -> None:
    fair: FairQueue[int, int] = FairQueue(100)
    huge = waiting(fair, "a", 100)
    small = [waiting(fair, "a", 1) for _ in range(8)]
    parts = {id(part.request): part.tokens for part in fair.take()}
    assert [parts.get(id(one)) for one in (huge, *small)] == [50, *[10] * 5, None, None, None]
    fair.take()
    assert tokens_by_client(fair, 1) == {"a": 100}, "alone it gets all"


def test_background_work_gets_what_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a batch while others are active, all of it when they are not, and a fifth of
    the tokens where they fill every batch."""
    now = 1000.0
    monkeypatch.setattr("app.batching.queue.time.monotonic", lambda: now)
    fair: FairQueue[int, int] = FairQueue(160)
    fair.add(Request([0] * 2000, [10] * 2000, Control("jobs", background=True)))
    waiting(fair, "a", 2)
    spent = tokens_by_client(fair, 1)
    assert spent["a"] == 20
    assert spent["jobs"] <= 40
    now += 0.5
    assert tokens_by_client(fair, 1) == {"jobs": 40}, "somebody may come back at any moment"
    now += 1.1
    assert tokens_by_client(fair, 1) == {"jobs": 160}
    waiting(fair, "a", 2000)
    spent = tokens_by_client(fair, 50)
    assert spent["jobs"] / spent.total() == pytest.approx(1 / 5, abs=0.03)


def test_what_is_removed_or_late_leaves_nothing_behind() -> None:
    fair: FairQueue[int, int] = FairQueue(100)
    kept = waiting(fair, "a", 3)
    for number in range(50):
        fair.remove(waiting(fair, f"c{number % 7}", 5))
    late: Request[int, int] = Request([0], [10], Control(client="late", deadline=0.0))
    fair.add(late)
    assert fair.take_late() == [late]
    fair.remove(late)
    assert (fair.requests, fair.items, fair.tokens) == (1, 3, 30)
    assert [part.request for part in fair.take()] == [kept]
    assert (fair.requests, fair.items, fair.tokens) == (0, 0, 0)


def test_cancelling_gives_no_new_head_start() -> None:
    fair: FairQueue[int, int] = FairQueue(1000)
    waiting(fair, "patient", 5000)
    spent: Counter[str] = Counter()
    for _ in range(20):
        request = waiting(fair, "restless", 500)
        spent += tokens_by_client(fair, 1)
        fair.remove(request)
    assert spent["restless"] == pytest.approx(spent["patient"], rel=0.1)
