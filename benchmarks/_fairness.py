"""One key that floods a service, and another that sends a small search a second."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable

from _load import Body, Outcome, closed_loop, open_loop
from _report import Row

GREEDY_CLIENTS = 60
GREEDY_DOCUMENTS = 40
FULL_SECONDS = 5.0
"""Of the flood before the first search: by then the queue is full."""
SYSTEM = f"beside {GREEDY_CLIENTS} clients that re-rank {GREEDY_DOCUMENTS} documents each"
NAME = "one search a second"

Make = Callable[[int], Body]


def fairness_rows(
    url: str, *, greedy: str, polite: str, flood: Make, search: Make, searches: int
) -> list[Row]:
    """What the searches of a key cost alone, and beside another key's flood.

    Args:
        url: of a service with keys.
        greedy, polite: keys.
        flood, search: bodies of a request to re-rank, and of a search.
        searches: how many are sent, one a second.
    """

    async def searching() -> Outcome:
        return await open_loop(
            url, "/v1/search", search, rate=1.0, seconds=searches, regular=True, token=polite
        )

    async def flooding(seconds: float) -> Outcome:
        return await closed_loop(
            url, "/v1/rerank", flood, clients=GREEDY_CLIENTS, seconds=seconds, token=greedy
        )

    async def beside() -> tuple[Outcome, Outcome, float]:
        flooded = asyncio.create_task(flooding(FULL_SECONDS + searches))
        before = _batches(url, polite)
        await asyncio.sleep(FULL_SECONDS)
        after = _batches(url, polite)
        batch_ms = 1000 * (after[0] - before[0]) / max(1.0, after[1] - before[1])
        return await searching(), await flooded, batch_ms

    asyncio.run(_warm_up(url, search, polite))
    alone = asyncio.run(searching())
    together, flooded, batch_ms = asyncio.run(beside())
    most = 2 * alone.percentile(50) + batch_ms
    rows = [Row(NAME, "alone", f"p{at}", alone.percentile(at), "ms") for at in (50, 95)]
    rows += [Row(NAME, SYSTEM, f"p{at}", together.percentile(at), "ms") for at in (50, 95)]
    rows += [
        Row(NAME, "the flood", "batch of the reranker before searches, mean", batch_ms, "ms"),
        Row(NAME, SYSTEM, "p50 / (2 × p50 alone + a batch)", together.percentile(50) / most, "×"),
        Row(NAME, SYSTEM, "answered with 200", len(together.of(200)), f"of {searches}"),
        Row(NAME, SYSTEM, "refused with 429", len(together.of(429)), f"of {searches}"),
        Row(NAME, "the flood", "accepted", flooded.throughput(), "requests/s"),
        Row(NAME, "the flood", "refused with 429", len(flooded.of(429)) / flooded.seconds, "/s"),
    ]
    return rows


async def _warm_up(url: str, search: Make, token: str) -> None:
    await closed_loop(url, "/v1/search", search, clients=2, seconds=2.0, token=token)


def _batches(url: str, token: str) -> tuple[float, float]:
    """Seconds and number of the reranker's batches so far."""
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    found = (
        re.search(rf'^retrieval_batch_seconds_{what}{{model="reranker"}} (\S+)', text, re.MULTILINE)
        for what in ("sum", "count")
    )
    total, count = (float(one[1]) if one else 0.0 for one in found)
    return total, count
