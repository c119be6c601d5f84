"""Collections that are opened once and shared; what they are made with."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from hashing_encoder import HashingEncoder

import retrieval
from app.backend.lazy import Lazy
from app.backend.open_collections import OpenCollections
from app.backend.threads import Workers
from app.batching.deadline import Cancelled, Control, controlled
from app.errors import Conflict, DeadlinePassed
from retrieval import Document, Store
from retrieval.errors import CollectionNotFound, InvalidInput, StoreFault

T = TypeVar("T")
WORDS = ["oak", "bee", "ant", "fox", "owl"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "store"
    for name in ("docs", "more"):
        documents = [Document(word, f"the {word} of {name}") for word in WORDS]
        retrieval.ingest(documents, name, store=folder, encoder=HashingEncoder())
    return folder


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(filled, tmp_path / "store"))


@pytest.fixture
def opened() -> list[str]:
    return []


@pytest.fixture
def collections(store: Store, opened: list[str]) -> Iterator[OpenCollections]:
    encoder = HashingEncoder()

    def opener(version: str) -> retrieval.TwoStageRetriever:
        opened.append(version)
        return retrieval.open(version, store=store, encoder=encoder, reranker=None)

    made = OpenCollections(store, opener, check_seconds=0.0)
    yield made
    made.close()


def in_threads(count: int, call: Callable[[int], T]) -> list[T]:
    """What the calls return, all begun at once; the first error is raised."""
    barrier = threading.Barrier(count)

    def work(number: int) -> T:
        barrier.wait(20)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count), timeout=30))


@contextmanager
def beside(call: Callable[[], object]) -> Iterator[None]:
    """The call runs in a thread beside the block, and has ended after it; its error is raised."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        yield
        running.result(20)


# --- opening --------------------------------------------------------------------------------


def test_a_collection_is_opened_once_whoever_asks(
    collections: OpenCollections, opened: list[str]
) -> None:
    assert collections.opened("docs") is None

    def count(number: int) -> int:
        with collections.using("docs") as retriever:
            return retriever.count()

    assert in_threads(16, count) == [5] * 16
    assert opened == ["docs@v1"]
    assert collections.opened("docs") is not None
    assert collections.opened("more") is None


def test_what_is_not_there_leaves_nothing_behind(
    collections: OpenCollections, opened: list[str]
) -> None:
    for _ in range(3):
        with pytest.raises(CollectionNotFound), collections.using("none"):
            pass
    assert opened == []
    assert collections._held == {}
    with pytest.raises(InvalidInput, match="Leave the version out: 'docs'"):
        collections.manifest("docs@v1")


def test_what_was_made_since_is_found(collections: OpenCollections, store: Store) -> None:
    with pytest.raises(CollectionNotFound), collections.using("new"):
        pass
    retrieval.ingest([Document("a", "b")], "new", store=store, encoder=HashingEncoder())
    with collections.using("new") as retriever:
        assert retriever.count() == 1


# --- writing --------------------------------------------------------------------------------


def test_searches_and_writes_at_once_lose_nothing(collections: OpenCollections) -> None:
    writers = threading.Semaphore(0)
    seen: list[int] = []

    def write(first: int) -> None:
        for number in range(first, first + 4):
            with (
                collections.writing("docs", "a test", patience_s=30),
                collections.using("docs") as retriever,
            ):
                retrieval.ingest([Document(f"d{number}", f"word {number}")], retriever)
        writers.release()

    def search() -> None:
        while not writers.acquire(blocking=False):
            with collections.using("docs") as retriever:
                retriever.search("word", rerank=False)
                seen.append(retriever.count())

    in_threads(5, lambda number: write(100 * number) if number < 3 else search())
    with collections.using("docs") as retriever:
        assert retriever.count() == 17
        assert retriever.search("word 203", top_k=1).hits[0].passage.document_id == "d203"
    assert len(seen) > 3
    assert min(seen) >= 5


def test_a_writer_waits_for_its_turn_but_not_for_ever(collections: OpenCollections) -> None:
    go, inside = threading.Event(), threading.Event()

    def long() -> None:
        with collections.writing("docs", "the long one", patience_s=1):
            inside.set()
            assert go.wait(20)

    def wait(control: Control, patience_s: float) -> None:
        with controlled(control), collections.writing("docs", "another", patience_s=patience_s):
            raise AssertionError("two writers at once")

    cancelled = Control()
    cancelled.cancelled.set()
    with beside(long):
        assert inside.wait(20)
        with pytest.raises(Conflict, match=r"is being written to \(the long one\)"):
            wait(Control(), 0.1)
        with pytest.raises(DeadlinePassed):
            wait(Control(deadline=time.monotonic() + 0.1), 30)
        with pytest.raises(Cancelled):
            wait(cancelled, 30)
        with collections.writing("more", "another collection", patience_s=0):
            pass
        go.set()
    with collections.writing("docs", "its turn", patience_s=0):
        pass


def test_who_asks_while_a_collection_is_made_waits_for_it(
    collections: OpenCollections, store: Store
) -> None:
    making, asked = threading.Event(), threading.Event()
    counted: list[int] = []

    def ask() -> None:
        assert making.wait(20)
        asked.set()
        with collections.using("new") as retriever:
            counted.append(retriever.count())

    with (
        beside(ask),
        collections.writing("new", "a test", patience_s=1),
        collections.making("new"),
    ):
        making.set()
        assert asked.wait(20)
        time.sleep(0.1)
        documents = [Document("a", "b"), Document("c", "d")]
        retrieval.ingest(documents, "new", store=store, encoder=HashingEncoder())
        assert counted == []
    assert counted == [2]


# --- deleting and closing -------------------------------------------------------------------


def test_deleting_waits_for_searches_and_lets_nobody_in(
    collections: OpenCollections, store: Store
) -> None:
    inside, go = threading.Event(), threading.Event()
    found: list[int] = []

    def search() -> None:
        with collections.using("docs") as retriever:
            inside.set()
            assert go.wait(20)
            found.append(len(retriever.search("oak").hits))

    def delete() -> None:
        with collections.writing("docs", "it is being deleted", patience_s=1):
            collections.delete("docs")

    with beside(search):
        assert inside.wait(20)
        with beside(delete):
            end = time.monotonic() + 20
            while not collections._held["docs"].leaving:
                assert time.monotonic() < end
                time.sleep(0.01)
            gone = pytest.raises(CollectionNotFound, match="is being deleted")
            with gone, collections.using("docs"):
                pass
            assert store.names() == ["docs", "more"]
            go.set()
    assert found == [5]
    assert store.names() == ["more"]
    with pytest.raises(CollectionNotFound), collections.using("docs"):
        pass


def test_a_search_that_does_not_end_keeps_its_collection(
    collections: OpenCollections, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.backend.open_collections.LEAVE_SECONDS", 0.1)
    with collections.using("docs") as retriever:
        with (
            collections.writing("docs", "a test", patience_s=1),
            pytest.raises(Conflict, match="nothing was deleted"),
        ):
            collections.delete("docs")
        assert retriever.search("oak").hits
    assert store.names() == ["docs", "more"]
    with collections.using("docs") as retriever:
        assert retriever.count() == 5


def test_closing_lets_go_of_every_store(collections: OpenCollections, store: Store) -> None:
    for name in ("docs", "more"):
        with collections.using(name):
            pass
    collections.close()
    collections.close()
    with store.open("docs"), store.open("more"):
        pass
    with pytest.raises(CollectionNotFound, match="being stopped"), collections.using("docs"):
        pass


# --- made once ------------------------------------------------------------------------------


def test_a_value_is_made_once_and_a_failure_is_remembered_for_a_while() -> None:
    now, calls = [0.0], list[int]()

    def make() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise StoreFault("it is away", fix="Wait.")
        return "made"

    lazy = Lazy(make, retry_s=5.0, clock=lambda: now[0])
    for now[0] in (0.0, 4.9, 5.0, 9.9):
        with pytest.raises(StoreFault, match="away"):
            lazy.get()
    assert (len(calls), lazy.value) == (2, None)
    with lazy.held():
        pass  # after which the failure is forgotten
    assert in_threads(8, lambda _: lazy.get()) == ["made"] * 8
    assert (len(calls), lazy.value) == (3, "made")


# --- threads --------------------------------------------------------------------------------


def test_a_call_that_nobody_waits_for_is_cancelled() -> None:
    workers = Workers("test", 1)
    begun, release = threading.Event(), threading.Event()
    never: list[int] = []

    def hold() -> None:
        begun.set()
        assert release.wait(20)

    async def go() -> None:
        control = Control()
        call = partial(control.cancelled.wait, 20)
        with pytest.raises(DeadlinePassed):
            await workers.run(control, call, until=time.monotonic() + 0.1)
        assert await workers.run(Control(), lambda: 7) == 7
        # what still waits for the thread never begins
        first = asyncio.create_task(workers.run(Control(), hold))
        assert await asyncio.to_thread(begun.wait, 20)
        second = asyncio.create_task(workers.run(Control(), lambda: never.append(1)))
        await asyncio.sleep(0)  # it runs up to where it waits
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        await first
        await workers.run(Control(), lambda: None)

    asyncio.run(go())
    workers.close()
    assert never == []
