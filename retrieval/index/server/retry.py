"""Calls repeated until they succeed or a deadline passes.

Waits grow exponentially with full jitter (Brooker, "Exponential Backoff and Jitter", AWS
Architecture Blog 2015), so that many writers do not come back all at once. A wait that the other
side asks for (Retry-After) is kept, and where it would outlast the deadline, nothing is waited
for at all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 10.0

_T = TypeVar("_T")


class Exhausted(Exception):
    """The deadline passed. `error` is what failed last."""

    def __init__(self, error: Exception, seconds: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as retries see it; tests bring their own. `now` in seconds, from any origin."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


def repeat(
    call: Callable[[], _T],
    again: Callable[[Exception], float | None],
    *,
    since: float,
    within_s: float,
    clock: Clock,
    before_wait: Callable[[Exception], None],
) -> _T:
    """The first success of `call`.

    Args:
        call: what is tried; repeating it must be safe.
        again: of an error None if repeating does not help, else the seconds that the other side
            asked to wait (0: it did not).
        since: when trying began, by `clock`; calls that belong together share one deadline.
        within_s: seconds from `since` on; the last attempt is made when they are over.
        clock: what time it is, and how to wait.
        before_wait: called with each error that is followed by a wait.

    Raises:
        Exhausted: the deadline passed, or would before the time that was asked for.
        Exception: of `call`, where `again` says None; KeyboardInterrupt always.
    """
    try:
        return call()
    except Exception as error:  # noqa: BLE001  (the first of the attempts below)
        failed: list[Exception] = [error]

    # made only now: it takes longer than a search's own share of work
    from tenacity import Retrying, retry_if_exception, wait_random_exponential

    def attempt() -> _T:
        if failed:
            raise failed.pop()
        return call()

    backoff = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    def left() -> float:
        return since + within_s - clock.now()

    def asked(state: RetryCallState) -> float:
        return again(_error(state)) or 0.0

    def wait(state: RetryCallState) -> float:
        seconds = asked(state)
        if seconds:
            return seconds + random.uniform(0, seconds / 10)
        return min(backoff(state), max(0.0, left()))

    def exhausted(state: RetryCallState) -> _T:
        error = _error(state)
        raise Exhausted(error, clock.now() - since) from error

    def rest(seconds: float) -> None:
        clock.sleep(seconds)

    retrying = Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, Exception) and again(error) is not None
        ),
        wait=wait,
        stop=lambda state: left() <= 0 or asked(state) > left(),
        sleep=rest,
        before_sleep=lambda state: before_wait(_error(state)),
        retry_error_callback=exhausted,
        reraise=True,
    )
    return retrying(attempt)


def _error(state: RetryCallState) -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, Exception)
    return error
