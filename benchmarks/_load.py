"""Load on a service: clients that wait for their answers, and arrivals that wait for nobody.

A minimal HTTP/1.1 client over asyncio streams: on few cores, a full one would take from the
service what is being measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: HTTP status (0: no answer), seconds from when it was due, the body if wanted."""

    status: int
    seconds: float
    number: int
    body: bytes = b""
    retry_after: str = ""


@dataclass(slots=True)
class Outcome:
    """All requests of one run. `seconds`: from the first to the last."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, *statuses: int) -> list[Answer]:
        return [one for one in self.answers if one.status in statuses]

    def throughput(self) -> float:
        """Requests a second that were answered with 200."""
        return len(self.of(200)) / self.seconds

    def percentile(self, at: float, *statuses: int) -> float:
        """Milliseconds."""
        times = [one.seconds for one in self.of(*(statuses or (200,)))]
        return 1000 * float(np.percentile(times, at)) if times else float("nan")


class Connection:
    """One connection that is kept open; requests on it come one after another."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._token = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes, str]:
        """Status, body, Retry-After. A connection that the service closed is opened again."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"{self._token}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        self._writer.write(head.encode() + body)
        header = await self._reader.readuntil(b"\r\n\r\n")
        lines = header.decode("latin-1").split("\r\n")
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        answer = await self._reader.readexactly(int(fields["content-length"]))
        if fields.get("connection", "").lower() == "close":
            await self.close()
        return int(lines[0].split()[1]), answer, fields.get("retry-after", "")

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._reader = self._writer = None


async def closed_loop(
    url: str,
    path: str,
    make: Callable[[int], Body],
    *,
    clients: int,
    seconds: float,
    keep: bool = False,
    token: str | None = None,
) -> Outcome:
    """`clients` that each send their next request when the last was answered."""
    outcome = Outcome()
    numbers = iter(range(10**9))
    began = time.perf_counter()
    until = began + seconds

    async def client() -> None:
        connection = Connection(url, token)
        while time.perf_counter() < until:
            outcome.answers.append(await _ask(connection, path, make, next(numbers), None, keep))
        await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def open_loop(
    url: str,
    path: str,
    make: Callable[[int], Body],
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    keep: bool = False,
    regular: bool = False,
    token: str | None = None,
) -> Outcome:
    """Requests at random moments (a Poisson process), whether or not earlier ones were answered.

    `regular` sends them at equal distances instead.

    Their time counts from the moment they were due, so that a client that comes late itself
    cannot make the service look fast.
    """
    outcome = Outcome()
    clock = random.Random(seed)
    due = 0.0
    idle: list[Connection] = []
    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int, moment: float) -> None:
        connection = idle.pop() if idle else Connection(url, token)
        outcome.answers.append(await _ask(connection, path, make, number, moment, keep))
        idle.append(connection)

    number = 0
    while due < seconds:
        wait = began + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(number, began + due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        due += 1 / rate if regular else clock.expovariate(rate)
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - began
    for connection in idle:
        await connection.close()
    return outcome


async def _ask(
    connection: Connection,
    path: str,
    make: Callable[[int], Body],
    number: int,
    moment: float | None,
    keep: bool,
) -> Answer:
    body = json.dumps(make(number)).encode()
    start = time.perf_counter() if moment is None else moment
    try:
        status, answer, retry = await connection.post(path, body)
    except (OSError, EOFError):
        await connection.close()
        return Answer(0, time.perf_counter() - start, number)
    passed = time.perf_counter() - start
    return Answer(status, passed, number, answer if keep else b"", retry)


@contextlib.asynccontextmanager
async def watching(sample: Callable[[], float], every: float = 0.1) -> AsyncIterator[list[float]]:
    """What `sample` says again and again, while the block runs."""
    seen: list[float] = []

    async def watch() -> None:
        while True:
            seen.append(sample())
            await asyncio.sleep(every)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        seen.append(sample())


def resident_mb(pid: int) -> float:
    """Memory of a process, in MB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
