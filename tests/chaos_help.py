"""Random work on a cluster whose nodes die, freeze and come back, and what is left of it.

A source of documents is indexed, changed, pruned and deleted from, by the library's own functions,
while nodes of `doubles.cluster` are killed, frozen and started again, connections break before
or after a request was applied, and runs end in the middle. At the end all nodes are up, and the
last run is repeated until it reports success. Then every copy of every shard must hold
what the source gives, and nothing else. Everything follows from the seed, but how threads meet.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from doubles.cluster import QdrantCluster
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document
from retrieval.errors import RetrievalError
from retrieval.index.server import client
from retrieval.index.server.retry import Clock
from retrieval.index.store import ServerOptions, Store
from retrieval.types import Encoding, Storage

KINDS = ("tree", "insect", "stone", "river")
WORDS = [f"word{number}" for number in range(80)]
MAKING: dict[str, Any] = {
    "max_tokens": 16,
    "overlap_tokens": 0,
    "fields": {"kind": "keyword"},
    "language": "en",
}


class CutOff(Exception):
    """A run ends here, as by Ctrl-C."""


@dataclass
class Figures:
    """What happened. `differences`: passages that a copy lacks, has too much or has otherwise, at
    the end; `false_successes`: the same right after runs in between that reported success."""

    operations: int = 0
    kills: int = 0
    freezes: int = 0
    broken: int = 0
    cut_off: int = 0
    repeats: int = 0
    passages: int = 0
    differences: int = 0
    false_successes: int = 0


class CuttableEncoder(HashingEncoder):
    """Ends the run after so many calls, where it is told to."""

    left: int | None = None

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        if self.left is not None:
            if self.left == 0:
                self.left = None
                raise CutOff
            self.left -= 1
        return super().encode_passages(passages)


class Chaos:
    """One history. `addresses`: how many of the nodes the library is told of."""

    def __init__(
        self, cluster: QdrantCluster, seed: int, *, addresses: int, storage: Storage, folder: Path
    ) -> None:
        self.figures = Figures()
        self._cluster = cluster
        self._random = random.Random(seed)
        self._name = f"chaos-{seed}-{addresses}"
        self._storage = storage
        self._folder = folder
        self._urls = cluster.urls[:addresses]
        self._addresses = addresses
        self._encoder = CuttableEncoder()
        self._source: dict[str, Document] = {}
        self._made = self._references = 0
        self._away: set[int] = set()
        self._frozen: set[int] = set()
        self._timers: list[threading.Timer] = []
        self._changes: list[Document] = []

    def run(self, operations: int) -> Figures:
        """The whole history."""
        with quick_retries():
            self._grow(12)
            self._ingest(prune=False)
            for _ in range(operations):
                self._disturb()
                self._work()
                if self._random.random() < 0.5:
                    self._calm()
            self._calm()
            self._end()
        return self.figures

    # -- the source, and what is done with it --

    def _work(self) -> None:
        self.figures.operations += 1
        works = [
            self._write,
            self._write,
            self._prune,
            self._prune,
            self._delete,
            self._delete_kind,
        ]
        work = self._random.choice(works)
        if work():
            return
        self.figures.cut_off += 1
        if self._random.random() < 0.5:
            if self._random.random() < 0.5:
                self._calm()
            self.figures.repeats += 1
            self._ingest(prune=True)

    def _write(self) -> bool:
        self._grow(self._random.randint(1, 6))
        self._change(self._random.randint(0, 6))
        return self._ingest(prune=False)

    def _prune(self) -> bool:
        for name in self._some(5):
            del self._source[name]
        self._grow(self._random.randint(0, 3))
        self._change(self._random.randint(0, 3))
        return self._ingest(prune=True)

    def _delete(self) -> bool:
        gone = self._some(4)
        for name in gone:
            del self._source[name]
        return self._on_index(lambda index: index.delete_documents(gone))

    def _delete_kind(self) -> bool:
        kind = self._random.choice(KINDS)
        self._source = {n: one for n, one in self._source.items() if one.metadata["kind"] != kind}
        return self._on_index(lambda index: index.delete_where({"kind": kind}))

    def _some(self, most: int) -> list[str]:
        count = min(self._random.randint(1, most), len(self._source))
        return self._random.sample(sorted(self._source), count)

    def _grow(self, count: int) -> None:
        for _ in range(count):
            self._made += 1
            self._put(f"d{self._made:03}", self._random.choice(KINDS))
            if self._made % 7 == 0:  # one that was deleted comes back, with another text
                self._put(f"d{self._random.randint(1, self._made):03}", self._random.choice(KINDS))

    def _change(self, count: int) -> None:
        for name in self._some(max(1, count))[:count]:
            self._put(name, str(self._source[name].metadata["kind"]))

    def _put(self, name: str, kind: str) -> None:
        words = " ".join(self._random.choices(WORDS, k=self._random.randint(3, 60)))
        self._source[name] = Document(name, words, metadata={"kind": kind})
        self._changes.append(self._source[name])

    def _ingest(self, *, prune: bool) -> bool:
        given = list(self._source.values())
        if not prune and self._random.random() < 0.5:  # only what is new, as a feed gives it
            given = [one for one in self._changes if self._source.get(one.id) is one]
        self._changes.clear()
        if not given:
            return True
        done = self._attempt(
            lambda: retrieval.ingest(
                given, self._name, store=self._store(), encoder=self._encoder, prune=prune,
                storage=self._storage, **MAKING,
            )
        )  # fmt: skip
        if done and prune and not self._away | self._frozen:
            self.figures.false_successes += self._differences()
        return done

    def _on_index(self, work: Any) -> bool:
        def run() -> None:
            with self._store().open(self._name) as index:
                work(index)

        return self._attempt(run)

    def _attempt(self, run: Any) -> bool:
        try:
            run()
        except (RetrievalError, CutOff):
            return False
        finally:
            self._encoder.left = None
            for timer in self._timers:
                timer.join()
            self._timers.clear()
            for node in self._cluster.nodes:
                node.faults.clear()
            self._away |= self._cluster.down()
        return True

    def _store(self) -> Store:
        options = ServerOptions(retry_s=1.0, timeout_s=1)
        return Store(",".join(self._urls), options=options)

    # -- what goes wrong --

    def _disturb(self) -> None:
        wrongs = [
            self._kill,
            self._kill,
            self._kill_in_write,
            self._freeze,
            self._break,
            self._break,
        ]
        self._random.choice([*wrongs, self._cut, self._start_one])()

    def _kill(self) -> None:
        node = self._random.randrange(3)
        if self._away | self._frozen:  # the rest could agree on nothing any more
            return
        if self._random.random() < 0.5:
            self._away.add(node)
            self._cluster.kill(node)
            self.figures.kills += 1
        else:
            self._later(0.05 * self._random.random(), lambda: self._cluster.kill(node))
            self._away.add(node)
            self.figures.kills += 1

    def _kill_in_write(self) -> None:
        if self._away | self._frozen:
            return
        node = self._random.randrange(self._addresses)
        self._cluster.kill_in_write(node, self._random.randint(0, 6))
        self.figures.kills += 1

    def _freeze(self) -> None:
        node = self._random.randrange(3)
        if self._away | self._frozen:
            return
        self.figures.freezes += 1
        self._cluster.freeze(node)
        self._frozen.add(node)
        if node < self._addresses:  # clients wait for it in earnest
            self._later(0.1 + 0.2 * self._random.random(), lambda: self._thaw(node))

    def _thaw(self, node: int) -> None:
        self._cluster.thaw(node)
        self._frozen.discard(node)

    def _break(self) -> None:
        method, path = self._random.choice(
            [("PUT", "/points"), ("POST", "/points/delete"), ("PATCH", "/collections"), (None, "")]
        )
        self.figures.broken += 1
        for _ in range(self._random.choice([1, 1, 8])):
            self._cluster.nodes[self._random.randrange(self._addresses)].fail(
                method=method,
                path_contains=path,
                skip=self._random.randint(0, 2),
                **self._random.choice(
                    [
                        {"drop": "reset"},
                        {"drop": "reset", "after": True},
                        {"drop": "close", "after": True},
                        {"status": 500, "after": True},
                        {"status": 503},
                    ]
                ),
            )

    def _cut(self) -> None:
        self._encoder.left = self._random.randint(0, 1)

    def _start_one(self) -> None:
        if self._away:
            node = self._random.choice(sorted(self._away))
            self._cluster.start(node)
            self._away.discard(node)

    def _calm(self) -> None:
        self._cluster.unfuse()
        for node in sorted(self._away):
            self._cluster.start(node)
        for node in sorted(self._frozen):
            self._thaw(node)
        self._away.clear()

    def _later(self, seconds: float, work: Any) -> None:
        timer = threading.Timer(seconds, work)
        timer.start()
        self._timers.append(timer)

    # -- what is left --

    def _end(self) -> None:
        if not self._source:  # where nothing is read, nothing is pruned
            self._grow(4)
        for _ in range(5):
            if self._ingest(prune=True):
                break
        else:
            raise AssertionError("the run does not succeed, though all nodes are up")
        self.figures.differences = self._differences()
        self.figures.passages = len(self._wanted())

    def _differences(self) -> int:
        wanted = self._wanted()
        differences = 0
        seen: set[str] = set()
        for copies in self._cluster.copies(self._name).values():
            everywhere = {str(key) for held in copies.values() for key in held}
            seen |= everywhere
            for held in copies.values():
                found = {str(key): record for key, record in held.items()}
                for key in everywhere:
                    if key not in wanted or key not in found or not _same(found[key], wanted[key]):
                        differences += 1
        return differences + len(wanted.keys() - seen)

    def _wanted(self) -> dict[str, Any]:
        """Every passage that the source gives, as an index in a folder has it."""
        self._references += 1
        store = Store(self._folder / f"{self._name}-{self._references}")
        given = list(self._source.values())
        retrieval.ingest(given, "docs", store=store, encoder=HashingEncoder(), **MAKING)
        with store.open("docs") as index:
            return {point.id: point for point in index.points()}


def _same(record: Any, point: Any) -> bool:
    """Whether a copy of a passage is what it should be: its payload and dense vector."""
    [dense] = [vector for name, vector in record.vector.items() if name.startswith("dense")]
    return bool(record.payload == point.payload and np.allclose(dense, point.dense, atol=1e-6))


@contextlib.contextmanager
def quick_retries() -> Iterator[None]:
    """Waits between attempts pass at once: the clock jumps."""
    ahead = 0.0

    def now() -> float:
        return time.monotonic() + ahead

    def sleep(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds
        time.sleep(0.001)

    def clock(**_: Any) -> Clock:
        return Clock(now, sleep)

    with mock.patch.object(client, "Clock", clock):
        yield
