"""SIGKILL anywhere in indexing, updating and pruning, on both engines: after running again the
collection equals, point by point and bit by bit, that of a run that was not killed.

The killed process is forked by `crash_zygote.py`. The server is a double in this process, which
survives its client; the embedded store survives as what the process left on disk.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crash_zygote import PHASES, opened, run
from doubles.qdrant_http import qdrant_http

from retrieval.index.collection import CollectionIndex
from retrieval.index.point_store import PointData

TESTS = Path(__file__).parents[1]
KILLS = 12

Points = list[tuple[Any, ...]]


class Zygote:
    """The process that forks what is killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "crash_zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "PATH": "/usr/bin:/bin"},
        )
        assert self._answer() == "ready"

    def attempt(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        assert answer["code"] in (0, -9), "the child failed by itself; see its traceback above"
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


class Lab:
    """Stores of one engine: a fresh one for each attempt, filled as its phase begins."""

    def __init__(self, engine: str, place: Callable[[str], str], zygote: Zygote) -> None:
        self.engine = engine
        self._place = place
        self._zygote = zygote
        self._made = 0
        self._before: list[PointData] = []
        self.wanted: dict[str, Points] = {}
        for phase in PHASES:
            with self._begun(phase) as index:
                report = run(index, phase)
                assert not report.failed
                self.wanted[phase] = contents(index)
                if phase == "ingest":
                    self._before = list(index.points())
            assert phase != "prune" or report.pruned == 12
        assert len({len(points) for points in self.wanted.values()}) == 3

    def kill_and_go_on(self, phase: str, **when: Any) -> bool:
        """Whether the run was killed before its end; what comes after must be as without."""
        collection = self._name()
        if phase != "ingest":
            self._fill(collection)
        ended = self._zygote.attempt(
            engine=self.engine,
            place=self._place(collection),
            collection=collection,
            phase=phase,
            **when,
        )
        with opened(self.engine, self._place(collection), collection) as index:
            report = run(index, phase)
            assert not report.failed
            assert contents(index) == self.wanted[phase], (phase, when)
        self._drop(collection)
        return bool(ended["code"] == -9)

    def measured(self, phase: str) -> dict[str, Any]:
        """Steps and seconds of a run in a child that nothing kills."""
        collection = self._name()
        if phase != "ingest":
            self._fill(collection)
        return self._zygote.attempt(
            engine=self.engine, place=self._place(collection), collection=collection, phase=phase
        )

    def _name(self) -> str:
        self._made += 1
        return f"c{self._made}"

    def _begun(self, phase: str) -> CollectionIndex:
        collection = self._name()
        if phase != "ingest":
            self._fill(collection)
        return opened(self.engine, self._place(collection), collection)

    def _fill(self, collection: str) -> None:
        with opened(self.engine, self._place(collection), collection) as index:
            index.write_points(self._before)

    def _drop(self, collection: str) -> None:
        if self.engine == "embedded":
            shutil.rmtree(self._place(collection))


def contents(index: CollectionIndex) -> Points:
    """All points, with all their bits."""
    return [
        (
            point.id,
            point.dense.tobytes(),
            point.sparse.indices,
            point.sparse.values,
            json.dumps(point.payload, sort_keys=True),
        )
        for point in index.points()
    ]


@contextmanager
def ram_or(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is one: what a killed process has written to a file is
    there on any file system, and waiting for a disk would be most of these tests."""
    ram = Path("/dev/shm")
    if ram.is_dir() and os.access(ram, os.W_OK) and shutil.disk_usage(ram).free > 2**31:
        with tempfile.TemporaryDirectory(dir=ram) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module", params=["embedded", "server"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, zygote: Zygote
) -> Iterator[Lab]:
    if request.param == "embedded":
        with ram_or(tmp_path_factory) as folder:
            yield Lab("embedded", lambda collection: str(folder / collection), zygote)
        return
    with qdrant_http() as server:
        yield Lab("server", lambda collection: server.url, zygote)


@pytest.mark.parametrize("phase", PHASES)
def test_killed_after_any_step(lab: Lab, phase: str) -> None:
    """After each single write, flush, delete or request of the run."""
    steps = lab.measured(phase)["steps"]
    assert steps >= 4
    killed = [lab.kill_and_go_on(phase, step=step) for step in range(1, steps + 1)]
    assert all(killed)


@pytest.mark.slow
def test_killed_at_any_time(lab: Lab) -> None:
    """At random moments, spread evenly over the runs' durations."""
    chance = random.Random(4)
    seconds = {phase: lab.measured(phase)["seconds"] for phase in PHASES}
    killed = 0
    for number in range(KILLS):
        phase = PHASES[number % len(PHASES)]
        killed += lab.kill_and_go_on(phase, seconds=chance.uniform(0.0, seconds[phase]))
    # A run that is faster than the measured one ends before the kill.
    assert killed > KILLS // 2
