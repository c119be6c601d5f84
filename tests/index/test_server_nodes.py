"""Several addresses of one server: nodes that refuse, freeze and come back; real sockets."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from doubles.tcp_proxy import TcpProxy, tcp_proxy

from retrieval.errors import StoreFault
from retrieval.index.server.client import Connection
from retrieval.index.server.index import ServerIndex, ServerOptions, delete_collection
from retrieval.types import Manifest

Manifests = Callable[..., Manifest]


class Nodes:
    """One server behind three addresses, each of which can be refused or frozen."""

    def __init__(self, double: QdrantHttp, rest: list[TcpProxy], grpc: list[TcpProxy]) -> None:
        self.double = double
        self.rest = rest
        self.grpc = grpc

    @property
    def url(self) -> str:
        return ",".join(node.url for node in self.rest)

    def options(self, grpc: bool, **more: float) -> ServerOptions:
        ports = tuple(node.port for node in self.grpc)
        return ServerOptions(grpc=grpc, grpc_port=ports, **more)

    def cut(self, number: int) -> None:
        self.rest[number].cut()
        self.grpc[number].cut()

    def freeze(self, number: int, seconds: float = 60.0) -> None:
        self.rest[number].delay(seconds)
        self.grpc[number].delay(seconds)

    def restore(self, number: int) -> None:
        for node in (self.rest[number], self.grpc[number]):
            node.delay(0)
            node.restore()

    def used(self, number: int, grpc: bool) -> int:
        """Bytes that went to a node."""
        return (self.grpc if grpc else self.rest)[number].carried["up"]


@pytest.fixture(scope="module")
def double() -> Iterator[QdrantHttp]:
    with qdrant_http(grpc=True) as running:
        yield running


@pytest.fixture
def nodes(double: QdrantHttp, manifest: Manifests) -> Iterator[Nodes]:
    ServerIndex.create(double.url, "docs", manifest()).close()
    double.requests.clear()
    with ExitStack() as stack:
        rest = [stack.enter_context(tcp_proxy(double.url)) for _ in range(3)]
        grpc = [stack.enter_context(tcp_proxy(double.grpc_port)) for _ in range(3)]
        yield Nodes(double, rest, grpc)
        for proxy in rest + grpc:
            proxy.delay(0)  # what it holds back keeps it from closing
    double.faults.clear()
    delete_collection(double.url, "docs")


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def grpc(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def _seconds(call: Callable[[], object]) -> float:
    before = time.monotonic()
    call()
    return time.monotonic() - before


def _until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def _counts(index: ServerIndex) -> bool:
    with suppress(StoreFault):
        return index.count() == 0
    return False


@pytest.mark.parametrize("how", ["refused", "frozen"])
def test_a_node_that_is_away_is_left_and_used_again(
    nodes: Nodes, grpc: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retrieval.index.server.index")
    with ServerIndex.open(nodes.url, "docs", options=nodes.options(grpc)) as index:
        assert index.count() == 0
        assert nodes.used(1, grpc) == 0
        (nodes.cut if how == "refused" else nodes.freeze)(0)
        assert _seconds(index.count) < (0.5 if how == "refused" else 2.0)
        assert _seconds(index.count) < 0.3  # known by now
        assert nodes.used(1, grpc) > 0
        with ServerIndex.open(nodes.url, "docs", options=nodes.options(grpc)) as other:
            assert _seconds(other.count) < 0.5  # by all of the process
        assert caplog.text.count("is left") == 1
        nodes.restore(0)

        def again() -> bool:
            before = nodes.used(0, grpc)
            index.count()
            return nodes.used(0, grpc) > before + 50

        _until(again)
        _until(lambda: "is used again after" in caplog.text)
        nodes.cut(1)
        nodes.cut(2)
        assert _seconds(index.count) < 0.5


def test_a_slow_node_that_lives_is_not_left(nodes: Nodes, grpc: bool) -> None:
    with ServerIndex.open(nodes.url, "docs", options=nodes.options(grpc)) as index:
        nodes.double.fail(path_contains="/count", delay=2.5)
        assert 2.4 < _seconds(index.count) < 5
        assert nodes.used(1, grpc) == 0
        assert len(nodes.double.calls(path_contains="/count")) == 1


def test_a_search_fails_within_a_second_while_no_node_answers(nodes: Nodes, grpc: bool) -> None:
    def fails() -> None:
        with pytest.raises(StoreFault) as caught:
            index.count()
        assert caught.value.retry_after_s is not None

    with ServerIndex.open(nodes.url, "docs", options=nodes.options(grpc)) as index:
        index.count()
        nodes.cut(0)
        nodes.freeze(1)
        nodes.cut(2)
        fails()
        for _ in range(3):
            assert _seconds(fails) < 1
        nodes.restore(2)
        _until(lambda: _counts(index))


def test_the_only_node_that_says_nothing_is_given_up(nodes: Nodes, grpc: bool) -> None:
    def fails() -> None:
        with pytest.raises(StoreFault, match="says nothing") as caught:
            index.count()
        assert caught.value.retry_after_s is not None

    alone = ServerOptions(grpc=grpc, grpc_port=nodes.grpc[0].port)
    with ServerIndex.open(nodes.rest[0].url, "docs", options=alone) as index:
        index.count()
        nodes.freeze(0)
        assert _seconds(fails) < 8  # of a timeout of 60 s
        assert _seconds(fails) < 1.5
        nodes.restore(0)
        _until(lambda: _counts(index))


def test_a_write_goes_on_at_another_node(nodes: Nodes, grpc: bool) -> None:
    with Connection(nodes.url, nodes.options(grpc, retry_s=20)) as connection:
        done = connection.persist("count", lambda client: client.count("docs"))
        assert done.count == 0
        nodes.freeze(0)
        nodes.cut(1)
        assert _seconds(lambda: connection.persist("count", lambda c: c.count("docs"))) < 3
        nodes.cut(2)
        threading.Timer(1.5, nodes.restore, [1]).start()
        assert connection.persist("count", lambda client: client.count("docs")).count == 0


def test_each_address_can_be_asked_alone(nodes: Nodes, grpc: bool) -> None:
    with Connection(nodes.url, nodes.options(grpc)) as connection:
        for number, one in enumerate(connection.each()):
            before = nodes.used(number, grpc)
            one.read("count", lambda client: client.count("docs"))
            assert nodes.used(number, grpc) > before


def test_a_node_that_cannot_reach_the_others_is_passed_over(nodes: Nodes, grpc: bool) -> None:
    with ServerIndex.open(nodes.url, "docs", options=nodes.options(grpc)) as index:
        nodes.double.fail(path_contains="/count", status=500, grpc_code="INTERNAL")
        assert index.count() == 0
        assert len(nodes.double.calls(path_contains="/count")) >= 2


def test_connections_are_kept_on_loopback_too(double: QdrantHttp, nodes: Nodes) -> None:
    proxy = nodes.rest[0]
    with ServerIndex.open(proxy.url, "docs") as index:
        index.count()
        before = proxy.accepted
        for _ in range(5):
            index.count()
        assert proxy.accepted == before
