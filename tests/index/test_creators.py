"""Two who make a collection of one name at once: interleaved at every request, and at random."""

from __future__ import annotations

import functools
import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from qdrant_client import QdrantClient

from retrieval.errors import CollectionExists, RetrievalError
from retrieval.index.manifest import prepare_manifest
from retrieval.index.server.catalog import Catalog
from retrieval.index.server.client import Connection
from retrieval.index.server.creating import Creation
from retrieval.index.server.options import ServerOptions
from retrieval.index.server.retry import Clock
from retrieval.types import Manifest, SplitterInfo

Manifests = Callable[..., Manifest]
T = TypeVar("T")


class Stepped(Connection):
    """A connection that calls `before_each` before each request; no time passes but by waiting."""

    def __init__(self, client: QdrantClient, before_each: Callable[[], None]) -> None:
        self.seconds = 0.0
        super().__init__(client, ServerOptions(), clock=Clock(lambda: self.seconds, self._wait))
        self._before_each = before_each

    def _wait(self, seconds: float) -> None:
        self.seconds += seconds

    def read(self, what: str, call: Callable[[QdrantClient], T]) -> T:
        self._before_each()
        return super().read(what, call)


@dataclass
class Creator:
    """Makes `docs` and then writes to what it got."""

    client: QdrantClient
    manifest: Manifest
    before_each: Callable[[], None] = lambda: None
    got: str = ""
    error: RetrievalError | None = None
    connection: Stepped = field(init=False)

    def run(self) -> None:
        self.connection = Stepped(self.client, self.before_each)
        try:
            self.got = Creation(self.connection, self.manifest).collection()
        except CollectionExists as error:
            self.error = error


def judged(client: QdrantClient, creators: list[Creator], left: set[str]) -> None:
    """At least one has it; all that have it have what the name means; nothing else is there."""
    catalog = Catalog(Connection(client, ServerOptions()))
    assert all(bool(one.got) != bool(one.error) for one in creators)
    winners = {one.got for one in creators if one.got}
    assert len(winners) == 1, "nobody fills what no name means"
    [physical] = winners
    assert catalog.aliases() == {"docs": physical}
    assert catalog.collections() == {physical} | left
    stored = catalog.manifest(physical)
    for one in creators:
        if one.got:
            same = (stored.encoder, stored.splitter) == (
                one.manifest.encoder,
                one.manifest.splitter,
            )
            assert same, "who asked for something else has not got it"


def prepared(manifest: Manifests, **changes: Any) -> Manifest:
    return prepare_manifest("docs", manifest(**changes))


def leftover(client: QdrantClient, manifest: Manifests, kind: str) -> set[str]:
    """What stands there before both begin; returns what has to be there afterwards, too."""
    if kind == "none":
        return set()
    connection = Connection(client, ServerOptions())
    made = prepare_manifest("docs@v1", manifest(splitter=SplitterInfo(7, 1)))
    Creation(connection, made).version("docs@v1")
    return {"docs@v1"}


MOST = 24
"""Requests of a creator whom nobody meets, also where it waits for what a killed one left."""

OTHER = {"splitter": SplitterInfo(9, 1)}


@pytest.mark.parametrize("before", ["none", "a killed one's"])
@pytest.mark.parametrize("changes", [{}, OTHER], ids=["same", "different"])
@pytest.mark.parametrize("step", range(MOST))
def test_another_creator_runs_between_two_requests(
    manifest: Manifests,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    changes: dict[str, Any],
    before: str,
) -> None:
    monkeypatch.setattr("retrieval.index.server.creating.GRACE_S", 0.15)
    client = QdrantClient(":memory:")
    left = leftover(client, manifest, before)
    second = Creator(client, prepared(manifest, **changes))
    requests = itertools.count()

    def between() -> None:
        if next(requests) == step:
            second.run()

    first = Creator(client, prepared(manifest), before_each=between)
    first.run()
    assert next(requests) <= MOST or second.got or second.error
    if not (second.got or second.error):
        second.run()  # the first had fewer requests
    judged(client, [first, second], left)


class Turns:
    """Lets several threads make one request at a time, in an order drawn at random."""

    def __init__(self, seed: int, count: int) -> None:
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._running = set(range(count))
        self._turn: int | None = None

    def _draw(self) -> None:
        if self._turn is None and self._running and self._waiting == self._running:
            self._turn = self._random.choice(sorted(self._waiting))
            self._changed.notify_all()

    def step(self, who: int) -> None:
        with self._changed:
            self._waiting.add(who)
            self._draw()
            assert self._changed.wait_for(lambda: self._turn == who, 30)
            self._waiting.discard(who)
            self._turn = None

    def end(self, who: int) -> None:
        with self._changed:
            self._running.discard(who)
            self._draw()


@pytest.mark.parametrize("before", ["none", "a killed one's"])
@pytest.mark.parametrize("seed", range(40))
def test_creators_in_any_order(manifest: Manifests, seed: int, before: str) -> None:
    """Three of them, two of whom ask for the same; none is slower than the others may wait for."""
    client = QdrantClient(":memory:")
    left = leftover(client, manifest, before)
    turns = Turns(seed, 3)
    asked = [prepared(manifest), prepared(manifest), prepared(manifest, **OTHER)]
    creators = [
        Creator(client, one, before_each=functools.partial(turns.step, who))
        for who, one in enumerate(asked)
    ]

    def work(who: int) -> None:
        try:
            creators[who].run()
        finally:
            turns.end(who)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    judged(client, creators, left)
