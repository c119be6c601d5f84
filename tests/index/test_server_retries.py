"""Calls to a server that fails: what is repeated, for how long, in which parts."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from doubles.tcp_proxy import TcpProxy, tcp_proxy

from retrieval.errors import CollectionReplaced, DiskFull, RetrievalError, StoreDenied, StoreFault
from retrieval.index.point_store import DENSE, Nearest, PointData, SparseTerms
from retrieval.index.server.client import Connection
from retrieval.index.server.index import (
    ServerIndex,
    ServerOptions,
    delete_collection,
    read_manifest,
)
from retrieval.index.server.points import ServerPoints
from retrieval.index.server.retry import Clock
from retrieval.index.upsert_checks import point
from retrieval.types import Manifest

Manifests = Callable[..., Manifest]
NAME = "docs@v1"
AT = f"/collections/{NAME}/points"


class Time:
    """A clock that waiting moves, and nothing else: minutes pass in no time."""

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.on_wait = on_wait

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        self.on_wait()


@pytest.fixture(scope="module")
def running() -> Iterator[QdrantHttp]:
    with qdrant_http(grpc=True) as double:
        yield double


@pytest.fixture
def double(running: QdrantHttp, manifest: Manifests) -> Iterator[QdrantHttp]:
    """One server for all tests of the file, with an empty collection `docs`."""
    running.start()
    ServerIndex.create(running.url, "docs", manifest()).close()
    running.requests.clear()
    yield running
    running.faults.clear()
    running.start()
    delete_collection(running.url, "docs")


@pytest.fixture
def proxy(double: QdrantHttp) -> Iterator[TcpProxy]:
    with tcp_proxy(double.url) as between:
        yield between


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def points(
    request: pytest.FixtureRequest, double: QdrantHttp, clock: Time
) -> Iterator[ServerPoints]:
    """The points of `docs`, over either wire, where only waiting takes time."""
    options = ServerOptions(grpc=request.param, grpc_port=double.grpc_port)
    yield from _opened(double.url, options, _built(double), clock)


@pytest.fixture
def rest(double: QdrantHttp, clock: Time) -> Iterator[ServerPoints]:
    yield from _opened(double.url, ServerOptions(timeout_s=1), _built(double), clock)


def _opened(
    url: str, options: ServerOptions, manifest: Manifest, time: Time
) -> Iterator[ServerPoints]:
    connection = Connection(url, options, clock=Clock(lambda: time.now, time.sleep))
    points = ServerPoints(connection, NAME, manifest)
    assert points.count(None) == 0  # so that it has answered once
    yield points
    points.close()


def _built(double: QdrantHttp) -> Manifest:
    return read_manifest(double.url, "docs")


def _points(count: int, text: str = "cat") -> list[PointData]:
    rows = np.random.default_rng(0).standard_normal((count, 8), dtype=np.float32)
    return [
        point(
            str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))), rows[n], SparseTerms((n,), (1.0,)),
            {"document_id": f"d{n}", "position": n, "text": text},
        )
        for n in range(count)
    ]  # fmt: skip


def _sizes(double: QdrantHttp) -> list[int]:
    """Points in each write that came in whole."""
    return [len(request.json()["points"]) for request in double.calls("PUT", AT)]


# --- busy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_in_trouble_is_tried_again(
    points: ServerPoints, double: QdrantHttp, clock: Time, status: int
) -> None:
    double.fail(method="PUT", path_contains=AT, status=status, times=4)
    points.write(_points(5))
    assert points.count(None) == 5
    assert len(clock.waits) == 4
    assert _sizes(double) == [5] * 5  # whole each time: its size was not the trouble


def test_the_wait_that_is_asked_for_is_kept(
    points: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    double.fail(method="PUT", path_contains=AT, status=429, retry_after=42, times=2)
    points.write(_points(1))
    assert all(42 <= wait <= 46.2 for wait in clock.waits)
    assert len(clock.waits) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_it_may_be_a_date(rest: ServerPoints, double: QdrantHttp, clock: Time, status: int) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    double.fail(method="PUT", path_contains=AT, status=status, retry_after=moment)
    rest.write(_points(1))
    [wait] = clock.waits
    assert 40 < wait < 55


def test_a_wait_beyond_the_deadline_is_not_begun(
    points: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    double.fail(method="PUT", path_contains=AT, status=429, retry_after=3600, times=None)
    with pytest.raises(StoreFault, match="asks to wait 3600 s"):
        points.write(_points(1))
    assert clock.waits == []


def test_the_deadline(points: ServerPoints, double: QdrantHttp, clock: Time) -> None:
    double.fail(method="PUT", path_contains=AT, status=503, message="electing", times=None)
    with pytest.raises(StoreFault, match="electing; it was tried for 300 s") as caught:
        points.write(_points(3))
    assert clock.now == pytest.approx(300)
    assert "A run that is repeated goes on from there" in str(caught.value)
    assert double.url in str(caught.value)
    assert repr(NAME) in str(caught.value)


# --- refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, StoreFault), (422, StoreFault), (401, StoreDenied), (403, StoreDenied),
     (404, CollectionReplaced), (507, DiskFull)],
)  # fmt: skip
def test_what_is_refused_is_not_repeated(
    rest: ServerPoints, double: QdrantHttp, clock: Time, status: int, kind: type[RetrievalError]
) -> None:
    double.fail(method="PUT", path_contains=AT, status=status, message="a reason of its own")
    with pytest.raises(kind, match="a reason of its own"):
        rest.write(_points(3))
    assert clock.waits == []
    assert len(double.calls("PUT", AT)) == 1


def test_a_full_disk_is_not_waited_for(
    points: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    double.fail(
        method="PUT", path_contains=AT, status=500, message="No space left on device", times=None
    )
    with pytest.raises(DiskFull):
        points.write(_points(1))
    assert clock.waits == []


def test_a_real_refusal(points: ServerPoints, double: QdrantHttp, clock: Time) -> None:
    wrong = _points(2)
    short = point(wrong[1].id, np.ones(3, np.float32), wrong[1].sparse, wrong[1].payload)
    with pytest.raises(StoreFault, match="dimension"):
        points.write([wrong[0], short])
    assert clock.waits == []
    assert points.count(None) == 0


# --- too much at once -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413], ids=["server", "proxy"])
def test_a_batch_that_is_too_large_is_halved(manifest: Manifests, clock: Time, status: int) -> None:
    with qdrant_http(body_limit=4_000, body_limit_status=status) as small:
        ServerIndex.create(small.url, "docs", manifest()).close()
        for points in _opened(small.url, ServerOptions(), _built(small), clock):
            points.write(_points(64))
            assert points.count(None) == 64
        done = [r for r in small.calls("PUT", AT) if r.status == 200]
        assert all(r.size <= 4_000 for r in done)
        assert sum(len(r.json()["points"]) for r in done) == 64  # none of them twice
        assert clock.waits == []


def test_over_grpc_too(manifest: Manifests) -> None:
    with qdrant_http(grpc=True, grpc_message_limit=2_000) as small:
        options = ServerOptions(grpc=True, grpc_port=small.grpc_port)
        ServerIndex.create(small.url, "docs", manifest(), options=options).close()
        points = ServerPoints(Connection(small.url, options), NAME, _built(small))
        points.write(_points(64))
        assert points.count(None) == 64
        points.close()


def test_a_single_passage_that_is_too_large_is_named(manifest: Manifests) -> None:
    with qdrant_http(body_limit=4_000) as small:
        ServerIndex.create(small.url, "docs", manifest()).close()
        points = ServerPoints(Connection(small.url, ServerOptions()), NAME, _built(small))
        rows = _points(4)
        rows[2] = point(
            rows[2].id, rows[2].dense, rows[2].sparse, {**rows[2].payload, "text": "x" * 9_000}
        )
        with pytest.raises(StoreFault, match=r"document 'd2', position 2\) is too large") as caught:
            points.write(rows)
        assert "is larger than allowed" in str(caught.value)
        assert "smaller passages" in str(caught.value)
        assert points.count(None) == 2  # those before it
        points.close()


def test_a_batch_that_is_not_answered_in_time_is_halved(
    rest: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    """A real time-out of a second; whoever is slow with 40 points may be fast with 20."""
    slow = double.fail(
        method="PUT", path_contains=AT, times=None, delay=1.5,
        when=lambda request: len(request.json()["points"]) > 20,
    )  # fmt: skip
    rest.write(_points(40))
    assert slow.hits == 1
    assert _sizes(double) == [40, 20, 20]
    late = double.calls("PUT", AT)[0]
    while late.status is None:  # it is applied all the same, and finds its work done
        time.sleep(0.01)
    assert rest.count(None) == 40
    assert clock.waits == []


@pytest.mark.parametrize("status", [408, 504])
def test_a_time_out_that_the_server_tells_of(
    points: ServerPoints, double: QdrantHttp, clock: Time, status: int
) -> None:
    double.fail(
        method="PUT", path_contains=AT, status=status, times=None,
        when=lambda request: len(request.json()["points"]) > 3,
    )  # fmt: skip
    points.write(_points(12))
    assert _sizes(double) == [12, 6, 3, 3, 6, 3, 3]
    assert points.count(None) == 12


def test_one_passage_that_is_not_answered_is_waited_for(
    points: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    rule = double.fail(method="PUT", path_contains=AT, status=408, times=5)
    points.write(_points(2))
    assert rule.hits == 5
    assert _sizes(double) == [2, 1, 1, 1, 1, 1, 1]
    assert len(clock.waits) == 3  # halving alone needs none
    double.fail(method="PUT", path_contains=AT, status=408, times=None)
    with pytest.raises(StoreFault, match=r"document 'd0', position 0\),.*tried for 300 s"):
        points.write(_points(1))


def test_halving_does_not_outlast_the_deadline(
    rest: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    def hours_pass(request: Any) -> bool:
        clock.now += 120
        return True

    double.fail(method="PUT", path_contains=AT, status=408, times=None, when=hours_pass)
    with pytest.raises(StoreFault, match="no answer in time; it was tried for 3"):
        rest.write(_points(256))
    assert len(double.calls("PUT", AT)) == 3


# --- connections that break (real ones) -----------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("drop", ["reset", "close"])
def test_an_answer_that_is_lost(
    points: ServerPoints, double: QdrantHttp, drop: Any, after: bool
) -> None:
    """Applied or not: who repeats it finds the same points."""
    double.fail(method="PUT", path_contains=AT, drop=drop, after=after)
    points.write(_points(10))
    assert points.count(None) == 10
    double.fail(method="POST", path_contains=f"{AT}/delete", drop=drop, after=after)
    points.delete_ids([one.id for one in _points(4)])
    assert points.count(None) == 6


def test_a_connection_that_is_reset_in_the_middle_of_a_request(
    double: QdrantHttp, proxy: TcpProxy
) -> None:
    points = ServerPoints(Connection(proxy.url, ServerOptions()), NAME, _built(double))
    proxy.reset_after(3_000)
    points.write(_points(60, text="a long text " * 20))
    assert points.count(None) == 60
    proxy.reset_after(10, "down")  # in the middle of an answer
    points.write(_points(60))
    proxy.drop_connections()
    points.write(_points(60))
    assert points.count(None) == 60
    points.close()


def test_a_black_hole(double: QdrantHttp, proxy: TcpProxy) -> None:
    points = ServerPoints(Connection(proxy.url, ServerOptions(timeout_s=1)), NAME, _built(double))
    assert points.count(None) == 0
    proxy.delay(30)
    threading.Timer(1.3, proxy.delay, [0]).start()
    points.write(_points(8))
    assert points.count(None) == 8
    points.close()


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_server_that_goes_away_and_comes_back(
    double: QdrantHttp, caplog: pytest.LogCaptureFixture, grpc: bool
) -> None:
    caplog.set_level(logging.INFO, "retrieval.index.server.index")
    options = ServerOptions(grpc=grpc, grpc_port=double.grpc_port)
    points = ServerPoints(Connection(double.url, options), NAME, _built(double))
    points.write(_points(3))
    double.stop()
    threading.Timer(1.0, double.start).start()
    before = time.monotonic()
    points.write(_points(9))
    assert time.monotonic() - before > 0.9
    assert points.count(None) == 9
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    [warning, *again] = told  # once, not with every try
    # the double opens its ports one after the other: gRPC may be away once more
    assert len(again) <= grpc
    assert "trying again for up to 300 s" in warning.getMessage()
    assert "is not reachable" in warning.getMessage()
    assert "answers again after" in caplog.text
    points.close()


def test_a_server_that_stays_away(
    points: ServerPoints, double: QdrantHttp, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    double.stop()
    with pytest.raises(StoreFault, match="it was tried for 300 s") as caught:
        points.write(_points(3))
    assert clock.now == pytest.approx(300)
    assert "A run that is repeated" in str(caught.value)
    assert caplog.text.count("trying again") == 1
    with pytest.raises(StoreFault, match="it was tried for 300 s"):
        points.delete_ids([_points(1)[0].id])
    with pytest.raises(StoreFault, match="it was tried for 300 s"):
        points.scroll(None, None, 10)  # long runs read pages


# --- reads that somebody waits for ----------------------------------------------------------


def test_a_search_outlasts_a_moment_without_a_server(
    points: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    points.write(_points(3))
    request = Nearest(DENSE, _points(1)[0].dense, 2)
    expected = points.nearest([request])
    double.stop()
    clock.on_wait = lambda: double.start() if len(clock.waits) == 3 else None
    if points._place.connection.options.grpc:
        clock.on_wait = _then_ready(clock, double)
    assert points.nearest([request]) == expected


def _then_ready(clock: Time, double: QdrantHttp) -> Callable[[], None]:
    """A gRPC channel looks for a lost server in times of its own, which are real."""

    def wait() -> None:
        clock.now = 0.0
        if len(clock.waits) >= 3:
            double.start()
            time.sleep(0.1)

    return wait


def test_a_search_gives_up_within_a_second(
    points: ServerPoints, double: QdrantHttp, clock: Time
) -> None:
    double.stop()
    with pytest.raises(StoreFault, match="Check that the server runs") as caught:
        points.nearest([Nearest(DENSE, _points(1)[0].dense, 2)])
    assert 0.5 < clock.now < 1
    assert "A run that is" not in str(caught.value)


@pytest.mark.parametrize("status", [500, 429, 408])
def test_a_search_that_the_server_cannot_do_is_not_repeated(
    points: ServerPoints, double: QdrantHttp, clock: Time, status: int
) -> None:
    double.fail(method="POST", path_contains="/query", status=status)
    with pytest.raises(StoreFault):
        points.nearest([Nearest(DENSE, _points(1)[0].dense, 2)])
    assert clock.waits == []


def test_a_wrong_address_is_told_soon(double: QdrantHttp, manifest: Manifests) -> None:
    double.stop()
    time_ = Time()
    connection = Connection(
        double.url, ServerOptions(), clock=Clock(lambda: time_.now, time_.sleep)
    )
    with connection, pytest.raises(StoreFault, match="Check that the server runs"):
        ServerPoints(connection, NAME, manifest()).count(None)
    assert time_.now == pytest.approx(2)


# --- stopping -------------------------------------------------------------------------------


def test_an_interrupt_stops_at_once(points: ServerPoints, double: QdrantHttp, clock: Time) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.on_wait = interrupt
    double.fail(method="PUT", path_contains=AT, status=503, times=None)
    with pytest.raises(KeyboardInterrupt):
        points.write(_points(3))
    assert len(clock.waits) == 1


def test_closing_ends_the_waits_of_other_threads(double: QdrantHttp) -> None:
    points = ServerPoints(Connection(double.url, ServerOptions()), NAME, _built(double))
    points.count(None)
    double.fail(method="PUT", path_contains=AT, status=429, retry_after=250, times=None)
    failed: list[RetrievalError] = []

    def write() -> None:
        try:
            points.write(_points(1))
        except RetrievalError as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while not double.calls("PUT", AT):
        time.sleep(0.01)
    time.sleep(0.05)
    points.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "is closed" in str(failed[0])
