"""The threads of an indexing run: order, bounds, failures, interrupts, progress."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder

from retrieval.errors import DiskFull, InvalidInput
from retrieval.index.bm25 import bm25_info
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.ingestion import SourceSize, ingest_documents, pipeline
from retrieval.ingestion.queues import Channel, Flow, Stopped
from retrieval.ingestion.seen_documents import SeenDocuments
from retrieval.ingestion.throughput import Throughput
from retrieval.splitting.splitter import Splitter
from retrieval.types import Document, Encoding, IngestProgress, IngestReport, Layout, Manifest


def open_index(store: Path, layout: Layout = Layout()) -> EmbeddedIndex:  # noqa: B008  (frozen)
    encoder = HashingEncoder()
    splitter = Splitter(encoder.token_counter, max_tokens=40, overlap_tokens=8)
    manifest = Manifest("docs", encoder.info, splitter.info, bm25_info("english"), layout)
    return EmbeddedIndex.open_or_create(store, "docs", manifest)


def run(index: Any, documents: Any, encoder: Any = None, **options: Any) -> IngestReport:
    encoder = encoder or HashingEncoder()
    return ingest_documents(
        documents,
        index=index,
        encoder=encoder,
        splitter=Splitter(encoder.token_counter, max_tokens=40, overlap_tokens=8),
        **options,
    )


def documents(count: int, words: int = 20) -> Iterator[Document]:
    for number in range(count):
        yield Document(f"d{number}", " ".join(f"w{(number + i) % 97}" for i in range(words)))


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("retrieval-")]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("retrieval-"):
            thread.join(5)
    assert threads() == []


class Hooked(HashingEncoder):
    """An encoder that calls `before(passages, progress)` before it encodes."""

    def __init__(self, before: Callable[[Sequence[str], Any], object]) -> None:
        super().__init__()
        self._before = before

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        self._before(passages, progress)
        return super().encode_passages(passages, progress=progress)


class Watched:
    """An index whose calls can be made to fail or be listened to."""

    def __init__(self, index: EmbeddedIndex, **hooks: Callable[[], None]) -> None:
        self._index = index
        self._hooks = hooks
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._index, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments[0] if arguments else None))
            if name in self._hooks:
                self._hooks[name]()
            return found(*arguments, **options)

        return call


def test_the_stages_run_in_threads_of_their_own_and_the_encoder_in_the_callers(
    tmp_path: Path,
) -> None:
    where: dict[str, set[str]] = {"read": set(), "encode": set(), "write": set(), "tell": set()}

    def note(what: str) -> None:
        where[what].add(threading.current_thread().name)

    encoder = Hooked(lambda *_: note("encode"))

    def source() -> Iterator[Document]:
        for document in documents(50):
            note("read")
            yield document

    with open_index(tmp_path) as index:
        watched = Watched(index, upsert=lambda: note("write"))
        run(watched, source(), encoder, window=8, progress=lambda event: note("tell"))
    me = threading.current_thread().name
    assert where == {
        "read": {"retrieval-reader"}, "encode": {me}, "write": {"retrieval-writer"}, "tell": {me},
    }  # fmt: skip


def test_encoding_goes_on_while_a_write_is_slow(tmp_path: Path) -> None:
    encoding_during_write = threading.Event()
    writing = threading.Event()

    encoder = Hooked(lambda *_: writing.is_set() and encoding_during_write.set())

    def slow() -> None:
        writing.set()
        assert encoding_during_write.wait(10)

    with open_index(tmp_path) as index:
        report = run(Watched(index, upsert=slow), documents(30), encoder, window=8)
    assert report.new == 30


def test_reading_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "READ_AHEAD_CHARACTERS", 20_000)
    monkeypatch.setattr(pipeline, "PREPARED_CHARACTERS", 20_000)
    given = 0
    most_ahead = 0
    encoded = 0

    def source() -> Iterator[Document]:
        nonlocal given
        for document in documents(1500):
            given += 1
            yield document

    def measure(passages: Sequence[str], progress: Any) -> None:
        nonlocal most_ahead, encoded
        time.sleep(0.01)
        most_ahead = max(most_ahead, given - encoded)
        encoded += len(passages)

    with open_index(tmp_path) as index:
        run(index, source(), Hooked(measure), window=50)
    # Two queues of 20,000 characters at 460 or more a document, states asked for 256 at once,
    # and one window at hand.
    assert 50 <= most_ahead < 256 + 2 * 20_000 // 460 + 2 * 50


def test_states_are_asked_for_some_documents_at_a_time(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        run(index, documents(600))
        watched = Watched(index)
        run(watched, documents(600))
    asked = [ids for name, ids in watched.calls if name == "document_states"]
    assert sum(map(len, asked)) == 600
    assert all(0 < len(ids) <= pipeline.STATES_AT_ONCE for ids in asked)


@pytest.mark.parametrize("call", ["upsert", "document_states", "delete_stale", "optimize"])
@pytest.mark.parametrize("error", [DiskFull("the disk is full", fix="Free some."), KeyError("x")])
def test_a_failure_of_the_index_is_raised_as_it_is(
    call: str, error: Exception, tmp_path: Path
) -> None:
    with open_index(tmp_path) as index:
        run(index, documents(20, words=200))
        before = {passage.id for passage in index.passages()}
        calls = 0

        def fail() -> None:
            nonlocal calls
            calls += 1
            if calls == (1 if call == "optimize" else 2) or call == "document_states":
                raise error

        with pytest.raises(type(error)) as raised:
            run(Watched(index, **{call: fail}), documents(20, words=90), window=4)
        assert raised.value is error
        left = {passage.document_id for passage in index.passages()}
        assert left == {f"d{n}" for n in range(20)}  # old or new passages of each, never neither
        report = run(index, documents(20, words=90), window=4)
        assert report.read == 20
        assert len(before) > index.count() > 0


def test_everything_before_a_failing_document_is_written(tmp_path: Path) -> None:
    def source() -> Iterator[Document]:
        yield from documents(100)
        raise RuntimeError("the source is broken")

    with open_index(tmp_path) as index:
        with pytest.raises(RuntimeError, match="broken"):
            run(index, source(), window=64)
        assert {p.document_id for p in index.passages()} == {f"d{n}" for n in range(100)}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no memory")])
def test_an_interrupt_or_a_failing_encoder_stops_at_once(
    error: BaseException, tmp_path: Path
) -> None:
    calls = itertools.count(1)

    def fail(*_: Any) -> None:
        if next(calls) == 6:
            raise error

    endless = (Document(f"d{number}", "some text") for number in itertools.count())
    with open_index(tmp_path) as index:
        with pytest.raises(type(error)):
            run(index, endless, Hooked(fail), window=4)
        assert 4 <= index.count() <= 20
        assert threads() == []


def test_a_progress_callback_that_fails_is_heard(tmp_path: Path) -> None:
    def fail(event: IngestProgress) -> None:
        raise ZeroDivisionError

    with open_index(tmp_path) as index, pytest.raises(ZeroDivisionError):
        run(index, documents(10), progress=fail)


def test_a_slow_source_is_written_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_IDLE_S", 0.05)
    with open_index(tmp_path) as index:
        written = threading.Event()
        watched = Watched(index, upsert=written.set)

        def source() -> Iterator[Document]:
            yield Document("a", "first")
            assert written.wait(10), "the first document waits for a full window"
            yield Document("b", "second")

        assert run(watched, source()).new == 2


def test_duplicates_by_content_are_counted_and_named(tmp_path: Path) -> None:
    # As copies of a file: the same text under another path.
    same = [Document(f"same{n}", "the same text", metadata={"path": f"{n}"}) for n in range(15)]
    other = Document("other", "another text")
    with open_index(tmp_path) as index:
        report = run(index, [*same[:5], other, *same[5:], Document("blank", " ")])
        assert (report.new, report.duplicates) == (16, 14)
        assert report.duplicate_examples == tuple((f"same{n}", "same0") for n in range(1, 11))
        assert run(index, same).duplicates == 14  # unchanged ones too
        assert run(index, same[:1]).duplicates == 0


def test_progress_knows_the_rate_and_the_time_that_remains(tmp_path: Path) -> None:
    def slowly(passages: Sequence[str], progress: Any) -> None:
        for done in range(0, len(passages), 10):
            time.sleep(0.03)
            progress(done, len(passages))

    events: list[IngestProgress] = []
    with open_index(tmp_path) as index:
        run(index, documents(300), Hooked(slowly), window=100, progress=events.append)
    middle = [e for e in events if e.total_documents == 300 and 0 < e.documents < 300]
    assert middle
    assert all(e.passages_per_second > 0 for e in middle)
    left = [e.remaining_seconds for e in middle]
    assert left[0] is not None
    assert 0.1 < left[0] < 60
    assert None not in left
    assert events[-1].documents == 300
    assert events[-1].remaining_seconds == 0.0


def test_pace_is_that_of_the_last_minute() -> None:
    now = 0.0
    throughput = Throughput(clock=lambda: now)
    assert throughput.passages_per_second == 0.0
    assert throughput.remaining(100.0) is None
    for second in range(1, 121):
        now = float(second)
        fast = max(0, second - 60)
        throughput.note(second + 9 * fast, 10.0 * second + 90.0 * fast)
    assert throughput.passages_per_second == pytest.approx(10.0)
    assert throughput.remaining(6_600.0 + 1_000.0) == pytest.approx(10.0)
    assert throughput.remaining(None) is None
    assert throughput.remaining(0.0) == 0.0


def test_the_size_of_a_source_says_how_much_was_read(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.md").write_text("x" * 980)
    (tmp_path / "film.mp4").write_bytes(b"0" * 100_000)  # is not read, so does not count
    size = SourceSize(tmp_path)
    assert size.share() is None
    size._count()
    shares = []
    for number in range(10):
        size.read(Document(f"{number}.md", "x" * 980, source=str(tmp_path / f"{number}.md")))
        shares.append(size.share())
    assert shares == pytest.approx([(n + 1) / 10 for n in range(10)], abs=0.01)


def test_a_channel_is_bounded_and_stops(tmp_path: Path) -> None:
    flow = Flow()
    channel: Channel[int] = Channel(flow, 10)
    assert channel.put(1, 100)  # one is always let through
    assert not channel.put(2, 1, timeout=0.01)
    assert channel.take(5) == [1]
    assert channel.take(timeout=0.01) == []
    assert not channel.ended
    channel.end(ValueError("x"))
    assert channel.take() == []
    assert channel.ended
    assert isinstance(channel.error, ValueError)
    flow.stop()
    with pytest.raises(Stopped):
        channel.put(3, 1)


def test_the_ledger_leaves_no_file_and_forgets_nothing(tmp_path: Path) -> None:
    before = set(Path("/var/tmp").glob("etilqs*")) | set(Path("/tmp").glob("etilqs*"))
    seen = SeenDocuments()
    ids = [f"document {number}" for number in range(200_000)]
    assert all(seen.add_id(one) for one in ids)
    assert not seen.add_id(ids[77])
    assert seen.has_ids([ids[5], "unknown", "half \ud800"]) == {ids[5]}
    after = set(Path("/var/tmp").glob("etilqs*")) | set(Path("/tmp").glob("etilqs*"))
    assert after <= before  # the file has no name, so that a killed process leaves none
    seen.judge({"a": 0, "b": 0})
    seen.judge({"b": 2})
    assert list(seen.judged(0)) == [["a"]]
    seen.close()


def test_a_collection_with_more_vectors_needs_an_encoder_that_gives_them(tmp_path: Path) -> None:
    with open_index(tmp_path, Layout(lexical=True)) as index:
        with pytest.raises(InvalidInput, match="encode_all"):
            run(index, documents(3))
        assert index.count() == 0
