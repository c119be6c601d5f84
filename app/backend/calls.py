"""What every call goes through: admission, its deadline, a thread, and its counts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from app.backend.access import Access
from app.backend.threads import Workers
from app.batching.admission import Admission
from app.batching.deadline import Control
from app.errors import DeadlinePassed
from app.settings.settings import Settings
from app.types import Caller, Observer
from retrieval._validate import number

T = TypeVar("T")

# Searches wait in threads for their models' batchers: this many can share batches.
SEARCH_THREADS = 64
WRITE_THREADS = 8
OTHER_THREADS = 8


class Calls:
    """Lets calls in and runs them in threads.

    Args:
        settings: limits.
        access: words the error of a collection that does not exist.
        observer: gets the times of stages, and the deadlines that passed.
    """

    def __init__(self, settings: Settings, access: Access, observer: Observer) -> None:
        self._settings = settings
        self._access = access
        self._observer = observer
        self.admission = Admission(settings.max_requests, settings.max_wait_ms, observer)
        self.searches = Workers("search", min(SEARCH_THREADS, settings.max_requests))
        self._writes = Workers("write", WRITE_THREADS)
        self.others = Workers("backend", OTHER_THREADS)

    async def write(self, caller: Caller, call: Callable[[], T], name: str | None = None) -> T:
        """The result of a blocking write to the collection `name`."""
        with self.admission.enter(caller.key_id):
            return await self._in_thread(self._writes, caller, call, name)

    async def other(self, caller: Caller, call: Callable[[], T], name: str | None = None) -> T:
        """The result of a short blocking call about the collection `name`."""
        with self.admission.enter(caller.key_id):
            return await self._in_thread(self.others, caller, call, name)

    async def _in_thread(
        self, workers: Workers, caller: Caller, call: Callable[[], T], name: str | None
    ) -> T:
        def named() -> T:
            with self._access.named(caller, name):
                return call()

        return await workers.run(Control(client=caller.key_id), named)

    @contextlib.contextmanager
    def counted(self, stage: str | None = None) -> Iterator[None]:
        """Tell the observer how long a stage took, and of deadlines that passed."""
        started = time.perf_counter()
        try:
            yield
        except DeadlinePassed:
            self._observer.shed("deadline")
            raise
        if stage is not None:
            self._observer.stage(stage, time.perf_counter() - started)

    def control(self, caller: Caller, timeout_ms: float | None) -> Control:
        """The control of a new request; its time is the setting's where None is given.

        Raises:
            InvalidInput: `timeout_ms` is not positive and finite.
        """
        allowed = self._settings.timeout_ms
        if timeout_ms is not None:
            allowed = number(
                timeout_ms,
                "timeout_ms",
                above=0,
                expected="a positive number of milliseconds",
                fix="Give timeout_ms as 200, 1000 …, or leave it out.",
            )
        deadline = None if allowed is None else time.monotonic() + allowed / 1000
        return Control(client=caller.key_id, deadline=deadline)

    def close(self) -> None:
        """End the threads; a call that waits for one is dropped."""
        for workers in (self.searches, self._writes, self.others):
            workers.close()
