"""The connection to a Qdrant server: which of its nodes is asked, and how long it is tried.

Requests go to the first node that answers, in the order of the addresses. One that is away is left
for the next within about a second (`nodes.py`), also in the middle of a call, which is then made
there: writes are upserts of whole points and deletions, so that one done twice is done once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from retrieval.errors import RetrievalError, StoreFault
from retrieval.index.server.addresses import addresses, proxy_for, shown_proxy
from retrieval.index.server.errors import (
    Failure,
    FailureKind,
    failure_of,
    hidden,
    translated,
)
from retrieval.index.server.failover import Failover
from retrieval.index.server.nodes import Node
from retrieval.index.server.options import ServerOptions, options_of_each
from retrieval.index.server.retry import Clock, Exhausted, repeat

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Connection", "ServerOptions", "TooMuch"]

READ_S = 0.9
"""How long a read is tried after an outage began: somebody waits for the answer."""

FIRST_S = 2.0
"""The same before the server has ever answered: it may be starting."""

_NO_CONNECTION: frozenset[FailureKind] = frozenset({"away", "cut"})
_TRANSIENT: frozenset[FailureKind] = _NO_CONNECTION | {"slow", "busy"}
_MAY_BE_TOO_MUCH: frozenset[FailureKind] = frozenset({"slow", "large", "cut"})
"""A server that refuses a request for its size may close the connection while it is being sent."""

_STATES: dict[FailureKind, str] = {
    "away": "is not reachable",
    "cut": "broke the connection",
    "slow": "does not answer in time",
}

logger = logging.getLogger("retrieval.index.server.index")
_T = TypeVar("_T")
_LOCAL_GUARD = threading.RLock()


class Connection:
    """A client and what surrounds each of its calls: repeating, and errors in the library's words.

    Args:
        server: a URL, several (`http://a:6333,http://b:6333`) of nodes that know the same
            collections, or a client, which then stays open when the connection is closed.
        options: how a URL is reached; of a client only `retry_s`, `read_consistency` and
            `write_ordering` have an effect.
        clock: time, for tests.

    Raises:
        InvalidInput: no URL of a server, or a certificate that cannot be used.
    """

    def __init__(
        self,
        server: str | QdrantClient,
        options: ServerOptions,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.options = options
        self._closing = threading.Event()  # ends the waits of other threads
        self._clock = Clock(sleep=self._closing.wait) if clock is None else clock
        self._answered = False
        self._away_since: float | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._nodes: tuple[Node, ...] = ()
        self._each: tuple[Connection, ...] = (self,)
        if isinstance(server, str):
            urls = addresses(server)
            each = tuple(zip(urls, options_of_each(urls, options), strict=True))
            self.where = ",".join(urls)
            self._nodes = tuple(Node(url, one, alone=len(each) == 1) for url, one in each)
            self._failover = Failover(self._nodes)
            self._client = self._nodes[0].client
            if len(each) > 1:
                self._each = tuple(Connection(url, one, clock=clock) for url, one in each)
        else:
            self._client = server
            given = server.init_options
            self.where = str(given.get("url") or given.get("host") or given.get("location"))
        self.is_local = type(self._client._client).__name__ == "QdrantLocal"
        """The in-memory double: it scans everything, warns of parameters, and knows no threads."""
        self._guard: contextlib.AbstractContextManager[object] = (
            _LOCAL_GUARD if self.is_local else contextlib.nullcontext()
        )

    @functools.cached_property
    def reading(self) -> dict[str, Any]:
        """Arguments of every call that reads points."""
        from qdrant_client.models import ReadConsistencyType

        wanted = self.options.read_consistency
        return {"consistency": ReadConsistencyType(wanted) if isinstance(wanted, str) else wanted}

    @functools.cached_property
    def writing(self) -> dict[str, Any]:
        """Arguments of every call that writes points."""
        from qdrant_client.models import WriteOrdering

        wanted = self.options.write_ordering
        return {"wait": True, "ordering": None if wanted is None else WriteOrdering(wanted)}

    def read(self, what: str, call: Callable[[QdrantClient], _T]) -> _T:
        """An answer that somebody waits for: tried again, for seconds, only without connection.

        Args:
            what: for messages, as in "could not <what> on the Qdrant server at …".
            call: what to ask; repeating it must be safe.
        """
        within = READ_S if self._answered else FIRST_S
        if self._nodes:
            within = max(0.0, within - self._failover.known_s())
        return self._ask(what, call, _NO_CONNECTION, within, self.now(), waiting=True)

    def persist(
        self, what: str, call: Callable[[QdrantClient], _T], since: float | None = None
    ) -> _T:
        """A write, or a read of a long run: tried for `retry_s` while the server is away or busy.

        Writes are upserts of whole points and deletions, by id or by filter; one that is repeated
        because its answer was lost finds its work done, so that repeating is safe.
        """
        since = self.now() if since is None else since
        return self._ask(what, call, _TRANSIENT, self.options.retry_s, since, resumable=True)

    def attempt(self, what: str, call: Callable[[QdrantClient], _T], since: float) -> _T:
        """The same as `persist`, but what may be too large a request is raised at once.

        Raises:
            TooMuch: the request was too large, was not answered in time, or its connection broke.
        """
        within = self.options.retry_s
        return self._ask(
            what,
            call,
            _TRANSIENT - _MAY_BE_TOO_MUCH,
            within,
            since,
            resumable=True,
            splittable=True,
        )

    def error(self, failure: Failure, what: str, since: float) -> RetrievalError:
        """The error of a run that was tried for long enough."""
        return self._error(failure, what, self.now() - since, True)

    def now(self) -> float:
        """The time that deadlines are counted in."""
        return self._clock.now()

    def rest(self, seconds: float) -> None:
        """Wait; closing the connection ends it."""
        self._clock.sleep(seconds)

    def each(self) -> tuple[Connection, ...]:
        """A connection to each address, which asks that node alone; this one where there is one.

        They are closed with this one.
        """
        return self._each

    def close(self) -> None:
        """End what waits to be tried again, and close the client, unless it was given."""
        first, self._closed = not self._closed, True
        for one in self._each:
            if one is not self:
                one.close()
        self._closing.set()
        if first and self._nodes:
            self._failover.close()

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Leave no open connection behind where opening fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self,
        what: str,
        call: Callable[[QdrantClient], _T],
        transient: frozenset[FailureKind],
        within_s: float,
        since: float,
        *,
        resumable: bool = False,
        splittable: bool = False,
        waiting: bool = False,
    ) -> _T:
        def once() -> _T:
            if self._closed:
                raise StoreFault(
                    f"could not {what}: the connection to {self.where} is closed",
                    fix="Open the collection again.",
                )
            if self._nodes:
                answer = self._failover.ask(call, waiting)
            else:
                with self._guard:
                    answer = call(self._client)
            self._heard()
            return answer

        def again(error: Exception) -> float | None:
            if isinstance(error, RetrievalError):
                return None
            failure = failure_of(error)
            return failure.retry_after_s if failure.kind in transient else None

        try:
            return repeat(
                once, again, since=since, within_s=within_s, clock=self._clock,
                before_wait=lambda error: self._unheard(error, within_s),
            )  # fmt: skip
        except RetrievalError:
            raise
        except Exhausted as end:
            failure = self._failure(end.error)
            raise self._error(failure, what, end.seconds, resumable) from end.error
        except Exception as error:
            failure = self._failure(error)
            if splittable and failure.kind in _MAY_BE_TOO_MUCH:
                if failure.kind != "large":
                    self._unheard(error, within_s)
                raise TooMuch(failure) from error
            raise self._error(failure, what) from error

    def _error(
        self, failure: Failure, what: str, tried_s: float = 0.0, resumable: bool = False
    ) -> RetrievalError:
        where, proxy = self.where, None
        if self._nodes:
            node = self._nodes[0]
            failure = self._explained(failure, node)
            if failure.grpc:
                where += f" (gRPC port {self.options.grpc_port})"
            else:
                proxy = proxy_for(node.url, self.options.proxy)
        what = f"{what} on the Qdrant server at {where}"
        return translated(
            failure, what, tried_s=tried_s, resumable=resumable,
            proxy=None if proxy is None else shown_proxy(proxy),
        )  # fmt: skip

    def _explained(self, failure: Failure, node: Node) -> Failure:
        """A connection that ends at once, where TLS was expected of it."""
        ended = failure.kind == "cut" or (failure.grpc and failure.kind == "away")
        if self._answered or not ended or not node.url.startswith("http://"):
            return failure
        from retrieval.index.server.transport import speaks_tls

        port = node.options.grpc_port if failure.grpc else None
        assert not isinstance(port, tuple)
        if not speaks_tls(node.url, port):
            return failure
        return replace(failure, kind="tls", text="its port speaks TLS, and the URL says http://")

    def _failure(self, error: Exception) -> Failure:
        return hidden(failure_of(error), self.options.api_key)

    def _heard(self) -> None:
        self._answered = True
        if self._away_since is None:
            return
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            seconds = self.now() - since
            logger.info("the Qdrant server at %s answers again after %.0f s", self.where, seconds)

    def _unheard(self, error: Exception, within_s: float) -> None:
        with self._lock:
            warned, self._away_since = self._away_since is not None, self._away_since or self.now()
        if not warned:
            failure = self._failure(error)
            state = _STATES.get(failure.kind, "cannot answer now")
            logger.warning(
                "the Qdrant server at %s %s (%s); trying again for up to %.0f s",
                self.where, state, failure.text, within_s,
            )  # fmt: skip


class TooMuch(Exception):
    """A request that may pass in smaller parts."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
