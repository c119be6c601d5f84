"""The load generator of benchmarks/service.py: a wrong yardstick measures nothing."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from service_help import running

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import _load
finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        number = (await request.json())["number"]
        if number % 4 == 3:
            return JSONResponse({}, 429, {"retry-after": "2"})
        await asyncio.sleep(0.02)
        return JSONResponse({"number": number})

    @app.post("/close")
    async def close() -> Response:
        return JSONResponse({}, headers={"connection": "close"})

    with running(app) as address:
        yield address


def make(number: int) -> dict[str, int]:
    return {"number": number}


def test_clients_wait_for_their_answers_and_each_request_is_counted_once(url: str) -> None:
    outcome = asyncio.run(_load.closed_loop(url, "/echo", make, clients=4, seconds=0.5, keep=True))
    assert sorted(one.number for one in outcome.answers) == list(range(len(outcome.answers)))
    for one in outcome.of(200):
        assert one.body == b'{"number":%d}' % one.number
        assert one.seconds >= 0.02
    assert {one.number % 4 for one in outcome.of(429)} == {3}
    assert all(one.retry_after == "2" for one in outcome.of(429))
    assert outcome.throughput() == pytest.approx(len(outcome.of(200)) / outcome.seconds)
    assert outcome.percentile(50) >= 20
    assert math.isnan(outcome.percentile(50, 500))


def test_arrivals_wait_for_nobody_and_count_from_when_they_were_due(url: str) -> None:
    outcome = asyncio.run(_load.open_loop(url, "/echo", make, rate=200, seconds=1.0))
    assert 130 <= len(outcome.answers) <= 280  # a Poisson process of 200 a second
    assert sorted(one.number for one in outcome.answers) == list(range(len(outcome.answers)))


def test_a_connection_that_was_closed_is_opened_again(url: str) -> None:
    outcome = asyncio.run(_load.closed_loop(url, "/close", make, clients=1, seconds=0.2))
    assert len(outcome.of(200)) > 2
    assert len(outcome.of(200)) == len(outcome.answers)


def test_nobody_there_is_no_answer() -> None:
    outcome = asyncio.run(
        _load.closed_loop("http://127.0.0.1:9", "/", make, clients=1, seconds=0.05)
    )
    assert {one.status for one in outcome.answers} == {0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_watched_while_something_runs() -> None:
    import os

    async def watch() -> list[float]:
        async with _load.watching(lambda: _load.resident_mb(os.getpid()), every=0.01) as seen:
            await asyncio.sleep(0.1)
        return seen

    seen = asyncio.run(watch())
    assert len(seen) >= 3
    assert all(10 < one < 1e6 for one in seen)
