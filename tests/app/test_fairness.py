"""One key that floods the service is refused; another key's small searches are answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from service_help import DOCUMENTS

import retrieval
from app.backend.backend import Backend
from app.backend.threads import Workers
from app.batching.deadline import Control
from app.security import api_keys as keys
from app.server.app import create_app
from app.settings.settings import Settings
from app.types import Observer
from retrieval.types import RerankerInfo, Scores

CLIENTS = 60
TEXT = "ten tokens of text, as they are estimated"  # 41 characters
BATCH_TOKENS = 256


class HeldReranker:
    """Takes a millisecond a token, on a clock of its own; each call waits for `free`."""

    info = RerankerInfo("held", "sha256:held", "cross-encoder", 64)

    def __init__(self) -> None:
        self.clock = 0.0
        self.calls: list[list[tuple[str, str]]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.calls.append(list(pairs))
        self.entered.set()
        assert self.free.wait(20)
        self.clock += sum(len(query) + len(passage) for query, passage in pairs) / 4 / 1000
        return Scores(np.zeros(len(pairs)), np.zeros(len(pairs), np.bool_))

    def relevance(self, scores: Any) -> Any:
        return scores


class Arrivals(Observer):
    """Sets `arrived` once more than `expected` pairs wait for the reranker."""

    def __init__(self) -> None:
        self.items = self.expected = 0
        self.arrived = threading.Event()

    def waiting(self, model: str, items: int, tokens: int) -> None:
        if model == "reranker":
            self.items = items
            if items > self.expected:
                self.arrived.set()


@pytest.mark.parametrize("limit", [{"max_wait_ms": 4000}, {"max_requests": 11}])
def test_a_greedy_key_is_refused_and_a_polite_one_is_answered_in_the_next_batch(
    limit: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty clients of one key re-rank 40 documents each; another key searches."""
    model, arrivals = HeldReranker(), Arrivals()
    clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: model.clock)
    monkeypatch.setattr("app.batching.batcher.time", clock)
    settings = Settings(
        store=str(tmp_path / "store"), reranker="none", score_cache_mb=0, grace_s=5,
        batch_tokens=BATCH_TOKENS, **{"max_wait_ms": 3_600_000, **limit},
    )  # fmt: skip
    encoder = HashingEncoder()
    retrieval.ingest(DOCUMENTS, "docs", store=settings.store, encoder=encoder)
    backend = Backend(settings, observer=arrivals, encoder=encoder, reranker=model)
    file = tmp_path / "keys.json"
    tokens = {name: keys.create(file, name)[0] for name in ("greedy", "polite")}
    app = create_app(backend, settings, keys=keys.KeyRing.load(file))

    async def scene() -> None:
        async def post(key: str, path: str, body: dict[str, Any]) -> httpx.Response:
            headers = {"authorization": f"Bearer {tokens[key]}"}
            return await client.post(path, json=body, headers=headers)

        async def flood() -> httpx.Response:
            documents = [f"{TEXT} {n}" for n in range(40)]
            return await post("greedy", "/v1/rerank", {"query": "q", "documents": documents})

        async def search() -> httpx.Response:
            return await post("polite", "/v1/search", {"query": "lost password", "candidates": 4})

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            for _ in range(5):  # what it can do is known
                assert (await flood()).status_code == 200
                assert (await search()).status_code == 200
            before = len(model.calls)
            model.free.clear()
            greedy = {asyncio.create_task(flood()) for _ in range(CLIENTS)}
            refused: set[asyncio.Task[httpx.Response]] = set()
            while len(refused) < CLIENTS - 12:
                done, greedy = await asyncio.wait(greedy, timeout=20, return_when="FIRST_COMPLETED")
                assert done
                refused |= done
            arrivals.expected = arrivals.items
            arrivals.arrived.clear()
            polite = asyncio.create_task(search())
            arrived = asyncio.create_task(asyncio.to_thread(arrivals.arrived.wait, 20))
            await asyncio.wait({polite, arrived}, return_when="FIRST_COMPLETED")
            model.free.set()
            arrivals.arrived.set()
            answer = await polite
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["hits"]) > 0
            statuses = [(await one).status_code for one in greedy]
            assert set(statuses) == {200}, "what was let in is answered"
            assert 8 <= len(statuses) <= 12
            for one in refused:
                assert one.result().status_code == 429
                assert int(one.result().headers["retry-after"]) >= 1
        running, following = model.calls[before : before + 2]
        assert {query for query, _ in running} == {"q"}
        assert sum(query == "lost password" for query, _ in following) == len(DOCUMENTS)
        assert len(following) < 20, "little of the other key is in the batch beside it"

    try:
        asyncio.run(scene())
    finally:
        model.free.set()
        backend.close()


@pytest.mark.parametrize(
    ("threads", "order"),
    [(1, ["greedy", "greedy", "polite", "greedy"]), (4, ["greedy", "greedy", "greedy", "polite"])],
)
def test_callers_take_turns_at_threads_and_none_holds_all(threads: int, order: list[str]) -> None:
    workers = Workers("test", threads)
    gates: dict[str, threading.Event] = {"greedy": threading.Event(), "polite": threading.Event()}
    begun: list[str] = []
    any_begun = threading.Semaphore(0)

    def call(name: str) -> None:
        begun.append(name)
        any_begun.release()
        assert gates[name].wait(20)

    async def scene() -> None:
        def start(name: str) -> asyncio.Task[None]:
            return asyncio.create_task(workers.run(Control(client=name), lambda: call(name)))

        tasks = [start("greedy") for _ in range(10)]
        await asyncio.sleep(0)
        tasks.append(start("polite"))
        await asyncio.sleep(0)
        if threads == 1:
            gates["greedy"].set()
            gates["polite"].set()
        for _ in order:
            assert await asyncio.to_thread(any_begun.acquire, timeout=10)
        for gate in gates.values():
            gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())
    workers.close()
    assert begun[:4] == order


def test_closing_drops_what_waits_for_a_thread() -> None:
    workers = Workers("test", 1)
    begun, release = threading.Event(), threading.Event()

    def hold() -> str:
        begun.set()
        assert release.wait(20)
        return "held"

    async def scene() -> None:
        first = asyncio.create_task(workers.run(Control(), hold))
        assert await asyncio.to_thread(begun.wait, 10)
        second = asyncio.create_task(workers.run(Control(), lambda: "never"))
        await asyncio.sleep(0)
        workers.close()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        assert await first == "held", "what runs is not ended"

    asyncio.run(scene())
