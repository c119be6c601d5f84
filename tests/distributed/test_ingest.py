"""Indexing with Ray, on a local Ray of two CPUs whose workers are killed on purpose.

Whatever is killed (a worker in the middle of encoding, one that writes, the owner of an embedded
store, the run itself), the collection ends as that of a run without Ray, point by point.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document, IngestReport, Store
from retrieval.distributed import ingest as ray_ingest
from retrieval.distributed import ingest_with_ray
from retrieval.distributed.cluster import limits, one_item_a_block, translated
from retrieval.distributed.messages import Counts
from retrieval.distributed.report import ReportTotals
from retrieval.errors import (
    CorpusError,
    Fault,
    InvalidInput,
    MissingExtra,
    StoreFault,
    UserError,
)
from retrieval.types import Encoding, IngestProgress, Problem

TESTS = Path(__file__).resolve().parent.parent

# Making its settings, Ray Data sets some that it has deprecated itself.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context")

SPLIT = {"max_tokens": 64, "overlap_tokens": 8}
SIZE = {"workers": 2, "cpus_per_worker": 0.5, "batch": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of two CPUs in a folder with a short name: its sockets lie there."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    with pytest.MonkeyPatch.context() as patch:
        # Local, and gone with the test: no token in the user's home, no report to Ray's makers.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", path)
        ray.init(
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=80 * 2**20,
            _temp_dir=folder,
            logging_level="ERROR",
        )
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield ray
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few documents make the collection, so that most go through the workers."""
    monkeypatch.setattr(ray_ingest, "SAMPLE_DOCUMENTS", 5)


class NotedEncoder(HashingEncoder):
    """Tells in a folder which process encodes, and takes its time over it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def encode_passages(self, passages: Any, *, progress: Any = None) -> Encoding:
        busy = self._folder / f"{os.getpid()}.busy"
        busy.touch()
        time.sleep(0.05)
        result = super().encode_passages(passages)
        busy.unlink()
        with (self._folder / f"{os.getpid()}.done").open("a") as file:
            file.write("x")
        return result


def encoding_in(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.busy")]


def named(title: str) -> list[int]:
    """Processes that Ray has given a title of that beginning."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(title.encode()):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has just ended
    return found


@contextmanager
def killing(*looks: Any) -> Iterator[list[int]]:
    """SIGKILL one process that each look finds, as soon as it finds one; the killed ones."""
    killed: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        waiting = list(looks)
        while waiting and not over.wait(0.005):
            for look in list(waiting):
                for pid in look()[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    waiting.remove(look)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def write_source(root: Path) -> None:
    (root / "sub").mkdir(parents=True)
    for number in range(25):
        text = "\n\n".join(f"Paragraph {j} of {number}. " + "filler " * 25 for j in range(5))
        (root / ("sub" if number % 3 else ".") / f"d{number}.md").write_text(
            f"# T{number}\n\n{text}"
        )
    rows = "\n".join(
        f'{{"_id": "{n % 25}", "text": "row {n} of thing{n}", "n": {n}}}' for n in range(30)
    )
    (root / "rows.jsonl").write_text(rows)
    (root / "empty.txt").write_text("")


def points(store: Store | Path | str, collection: str = "docs") -> dict[str, Any]:
    with Store.of(store).open(collection) as index:
        return {point.id: point for point in index.points()}


def assert_equal_points(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for key, point in found.items():
        assert point.payload == expected[key].payload
        assert point.sparse == expected[key].sparse
        np.testing.assert_array_equal(point.dense, expected[key].dense)


@pytest.fixture
def server() -> Iterator[QdrantHttp]:
    with qdrant_http() as running:
        yield running


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing_on_a_server(
    cluster: Any, server: QdrantHttp, tmp_path: Path
) -> None:
    source, notes = tmp_path / "source", tmp_path / "notes"
    write_source(source)
    notes.mkdir()

    class Stopped(Exception):
        pass

    def stop(progress: IngestProgress) -> None:
        if progress.documents >= 8:
            raise Stopped

    with pytest.raises(Stopped):  # the run itself
        ingest_with_ray(source, "ray", store=server.url, encoder=lambda: NotedEncoder(notes),
                        progress=stop, **SIZE, **SPLIT)  # fmt: skip
    there = len(points(server.url, "ray"))
    looks = (
        lambda: encoding_in(notes),
        lambda: named("ray::MapWorker(MapBatches(Write"),
    )
    seen: list[IngestProgress] = []
    with killing(*looks) as killed:
        report = ingest_with_ray(source, "ray", store=server.url,
                                 encoder=lambda: NotedEncoder(notes), progress=seen.append,
                                 **SIZE)  # fmt: skip
    assert len(set(killed)) == 2, "one worker that encoded, one that wrote"

    plain = retrieval.ingest(source, "plain", store=server.url, encoder=HashingEncoder(), **SPLIT)
    assert_equal_points(points(server.url, "ray"), points(server.url, "plain"))
    assert 0 < there < len(points(server.url, "plain")), "the first run was stopped on its way"
    assert report.read == plain.read == 50
    assert report.new + report.unchanged == plain.new
    assert report.unchanged > 0, "what the first run did was not done again"
    assert sorted(map(str, report.failed)) == sorted(map(str, plain.failed))
    assert len(report.failed) == 6
    assert seen[-1].documents == report.read
    assert seen[-1].passages == report.passages
    ours, theirs = (Store(server.url).manifest(name) for name in ("ray", "plain"))
    # (Which fields have an index follows from the first documents, of which there were few here.)
    assert replace(ours, collection="", created="", id="", storage=theirs.storage) == replace(
        theirs, collection="", created="", id=""
    )


@pytest.mark.slow
def test_an_embedded_store_has_one_owner_that_may_be_killed_too(
    cluster: Any, tmp_path: Path
) -> None:
    """An update, of documents that a program made: new, changed, shorter, unchanged, repeated."""

    def text(n: int, words: int = 200) -> str:
        return f"Document {n}. " + f"word{n} " * words

    before = [Document(f"d{n}", text(n), source=f"memory:{n}") for n in range(40)]
    after = [
        *(replace(one, text=text(n, 20)) if n % 2 else one for n, one in enumerate(before)),
        *(Document(f"new{n}", text(n)) for n in range(20)),
        Document("d0", "the first of its id is kept"),
        Document("blank", " "),
    ]
    for store in ("ray", "plain"):
        retrieval.ingest(before, store=tmp_path / store, encoder=HashingEncoder(), **SPLIT)
    with killing(lambda: named("ray::Owner")) as killed:
        report = ingest_with_ray(after, store=tmp_path / "ray", encoder=HashingEncoder, **SIZE)
    assert killed, "the owner was killed"
    plain = retrieval.ingest(after, store=tmp_path / "plain", encoder=HashingEncoder())
    assert_equal_points(points(tmp_path / "ray"), points(tmp_path / "plain"))
    # A document that is written again, after its writer was killed, may count as there.
    assert report.read == plain.read - 1, "the repeated one is reported before it is read"
    assert report.new + report.changed + report.unchanged == 60
    assert sorted(map(str, report.failed)) == sorted(map(str, plain.failed))
    until = time.monotonic() + 30
    while named("ray::Owner") and time.monotonic() < until:
        time.sleep(0.05)
    assert named("ray::Owner") == [], "the owner ends with the run"


# --- what is refused, before Ray starts -----------------------------------------------------


def test_a_loaded_encoder_cannot_travel(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"HashingEncoder.*cannot be sent to other machines"):
        ingest_with_ray([], store=tmp_path, encoder=HashingEncoder())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prune": True}, "prune was given with Ray"),
        ({"batch": 0}, "batch is 0"),
        ({"on_error": "stop"}, "on_error is 'stop'"),
        ({"store": "ftp://host"}, "the store is 'ftp://host'"),
        ({"source": "no/such/folder"}, "there is no file or folder"),
        ({"encoding": "latin-1"}, "text already"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        ingest_with_ray(**{"source": [], "store": tmp_path, **options})


def test_ray_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"two-stage-retrieval\[scale\]"):
        ingest_with_ray([], store=tmp_path)


def test_with_raise_the_first_problem_ends_the_run() -> None:
    first = IngestReport("docs", 0, 0, 0, 0, (), 0, 0, 0, 0.0)
    total = ReportTotals(first, "raise", None, 0.0)
    bad = Counts(problems=(Problem("a.md", "is empty"),))
    with pytest.raises(CorpusError, match=r"a\.md: is empty"):
        total.add(bad)


def test_what_a_worker_died_of_is_said_in_a_sentence() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.exceptions import RayActorError

    own = StoreFault("the disk burns", fix="Run.")
    assert translated(own) is own
    fault = translated(RayActorError(error_msg="The actor died.\nIt was killed by SIGKILL."))
    assert isinstance(fault, Fault)
    assert "RayActorError: It was killed by SIGKILL" in str(fault)
    assert "run again to go on" in fault.fix


def test_rays_settings_are_left_as_they_were() -> None:
    data = pytest.importorskip("ray.data", reason="ray is not installed")
    context = data.DataContext.get_current()
    before = context.target_max_block_size, context.print_on_execution_start
    with one_item_a_block():
        assert context.target_max_block_size == 1
    assert (context.target_max_block_size, context.print_on_execution_start) == before
    assert limits(max_restarts=3) in ({"max_restarts": 3}, {}), "as this version of Ray takes them"
