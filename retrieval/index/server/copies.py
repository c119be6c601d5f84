"""The copies of the points of one collection on a server: whether they are the same.

A page of a scroll that asks for agreement (`consistency`) ends early where copies differ, so ids
are read without, and agreement is asked for by id.
"""

from __future__ import annotations

import heapq
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from retrieval.errors import StoreFault
from retrieval.index.point_store import PointData
from retrieval.index.server.client import Connection
from retrieval.index.server.conversion import point_of
from retrieval.index.server.deletes import Deletes
from retrieval.index.server.errors import failure_of
from retrieval.index.server.journal import WRITE_PREFIX, Journal
from retrieval.index.server.place import Place

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_PAGE = 1_000
_WHOLE = 256
"""Points with all their vectors that are asked for at once."""

_MOST_SPARED = 100_000
"""Ids that a deletion may name as to be spared: about 4 of the 32 MB that a server takes."""

_FEWER = "enough active replicas"
"""What a server says of a copy that it knows to be out of date, and makes anew of an active one."""

logger = logging.getLogger("retrieval.index.server.index")
_T = TypeVar("_T")


class _Ask(Protocol):
    def __call__(self, action: str, call: Callable[[QdrantClient], _T], /) -> _T: ...


class ServerCopies:
    """`retrieval.index.point_store.Copies` on a server. `number`: copies of each point."""

    def __init__(self, place: Place, deletes: Deletes, number: int, journal: Journal) -> None:
        self._place = place
        self._deletes = deletes
        self._number = number
        self._journal = journal
        self._resuming = threading.Lock()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses that are known, each of which may show other copies."""
        return tuple(node.where for node in self._place.connection.each())

    def seen(
        self, fields: list[str] | None, where: models.Filter | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Points that any of the nodes shows, in id order, each once.

        A node that does not answer is passed over: what it alone holds is out of date to the
        server, or `agreed` cannot be answered without it.
        """
        nodes = self._place.connection.each()
        if len(nodes) == 1:
            yield from self._scroll(self._place.persist, fields, where)
            return
        silent: list[str] = []
        pages = [self._of_node(node, fields, where, silent) for node in nodes]
        last = ""
        for key, found in groupby(heapq.merge(*pages, key=itemgetter(0)), key=itemgetter(0)):
            last = key
            yield next(found)
        if len(silent) == len(nodes):
            for key, payload in self._scroll(self._place.persist, fields, where, last or None):
                if key != last:
                    yield key, payload

    def agreed(self, ids: Sequence[str], fields: list[str] | None) -> dict[str, dict[str, Any]]:
        """Of points whose payloads (these fields of them) are the same on all copies, those."""
        payload: bool | list[str] = True if fields is None else fields or False
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), _PAGE):
            records = self._alike(ids[start : start + _PAGE], payload)
            found |= {str(record.id): record.payload or {} for record in records}
        return found

    def points(self, ids: Sequence[str]) -> list[PointData]:
        """Whole points whose payloads are the same on all copies; others are left out.

        Vectors follow from the payload, and nodes of unlike processors may round them otherwise:
        where only they differ, one copy's are as good as another's.
        """
        found: list[PointData] = []
        for start in range(0, len(ids), _WHOLE):
            some = ids[start : start + _WHOLE]
            records = {str(one.id): one for one in self._alike(some, True, vectors=True)}
            if rest := [one for one in some if one not in records]:
                same = self.agreed(rest, None)
                records |= {
                    str(one.id): one for one in self._retrieve(self._place.persist, list(same))
                }
            found += [self._whole(records[one]) for one in some if one in records]
        return found

    def by_node(self, ids: Sequence[str]) -> list[list[PointData]]:
        """Whole points as each of `nodes` shows them; none of a node that does not answer."""
        shown: list[list[PointData]] = []
        for node in self._place.connection.each():
            records: list[models.Record] = []
            try:
                for start in range(0, len(ids), _WHOLE):
                    records += self._retrieve(self._ask_of(node), ids[start : start + _WHOLE])
            except StoreFault as error:
                logger.warning("the node %s is left out: %s", node.where, error.problem)
                records = []
            shown.append([self._whole(record) for record in records])
        return shown

    def counts(self) -> list[int | None]:
        """How many points each of `nodes` counts; None where it does not answer."""
        found: list[int | None] = []
        for node in self._place.connection.each():
            try:
                answer = self._ask_of(node)(
                    "count",
                    lambda client: client.count(self._place.collection, exact=True),
                )
                found.append(answer.count)
            except StoreFault:
                found.append(None)
        return found

    def clear(self, where: models.Filter) -> None:
        """Delete what a filter matches and nobody was ever told to be stored."""
        self._delete(where)

    def unfinished(self) -> int:
        """How many deletions were begun and not seen to their end, by what is noted now."""
        return len(self._journal.unfinished(self._place.metadata()))

    def resume(self) -> None:
        """Send deletions again that were begun, by any writer, and not seen to their end.

        What all copies have alike is spared: either the deletion reached none of them, and whoever
        repeats that run sees what to delete, or it has been written again since. Of a write that
        failed, what not all copies have goes: nobody was told that it is stored.
        """
        if self._journal.is_clear:
            return
        with self._resuming:
            for name, where in self._journal.unfinished(self._place.metadata()).items():
                self._delete_again(where, written=name.startswith(WRITE_PREFIX))
                self._journal.done(name)
            self._journal.settle()

    def settle(self) -> None:
        """Forget deletions that are done."""
        self._journal.settle()

    def _delete_again(self, where: models.Filter, *, written: bool) -> None:
        from qdrant_client import models

        ids = [key for key, _ in self.seen(["document_id"], where)]
        # no fields: what is there in two versions was there before the write, and is spared
        spared = list(self.agreed(ids, [] if written else ["document_id", "document_hash"]))
        if len(spared) > _MOST_SPARED:
            logger.warning(
                "a deletion that was cut off matches %s passages of %s that are whole, and is not "
                "repeated: delete them anew",
                f"{len(spared):,}", self._place.collection,
            )  # fmt: skip
            return
        if spared:
            rest = models.HasIdCondition(has_id=list(spared))
            where = models.Filter(must=[where], must_not=[rest])
        self._delete(where)

    def _of_node(
        self,
        node: Connection,
        fields: list[str] | None,
        where: models.Filter | None,
        silent: list[str],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            yield from self._scroll(self._ask_of(node), fields, where)
        except StoreFault as error:
            silent.append(node.where)
            logger.warning("the node %s is passed over: %s", node.where, error.problem)

    def _scroll(
        self,
        ask: _Ask,
        fields: list[str] | None,
        where: models.Filter | None,
        after: str | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        own, limits = self._place.own(where), self._place.limits
        payload = True if fields is None else fields

        def page() -> tuple[list[models.Record], Any]:
            fitting, size, start = limits.filter(own), limits.page(_PAGE), after
            return ask(
                "read",
                lambda client: client.scroll(
                    self._place.collection, scroll_filter=fitting, limit=size, offset=start,
                    with_payload=payload, with_vectors=False,
                ),
            )  # fmt: skip

        while True:
            records, following = limits.ask(page)
            yield from ((str(record.id), record.payload or {}) for record in records)
            if following is None:
                return
            after = str(following)

    def _alike(
        self, ids: Sequence[str], payload: bool | list[str], *, vectors: bool = False
    ) -> list[models.Record]:
        """Points that are the same on all copies, or on all that are up to date to the server."""
        from qdrant_client.models import ReadConsistencyType

        if not ids:
            return []
        fewer: list[Any] = [ReadConsistencyType.ALL, *range(self._number - 1, 0, -1)]

        def up_to_date(client: QdrantClient) -> list[models.Record]:
            for wanted in fewer:
                try:
                    return self._by_id(
                        client, ids, wanted, with_payload=payload, with_vectors=vectors
                    )
                except Exception as error:
                    if wanted == 1 or _FEWER not in failure_of(error).text:
                        raise
            raise AssertionError

        def ask(client: QdrantClient) -> list[models.Record]:
            try:
                return up_to_date(client)
            except Exception as error:
                if failure_of(error).kind not in ("busy", "slow") or not self._noticed(client):
                    raise
            return up_to_date(client)

        what = "compare the copies of"
        return self._place.limits.ask(lambda: self._place.persist(what, ask))

    def _noticed(self, client: QdrantClient) -> bool:
        """Let the server notice copies that do not answer; False where it must not go without.

        It learns from a write that misses them, not from a read, and makes them anew once their
        node is back. So it is asked to delete a point that does not exist, of every shard.
        """
        from qdrant_client import models

        nobody = models.HasIdCondition(has_id=[str(uuid.uuid4())])
        try:
            client.delete(
                self._place.collection,
                points_selector=models.FilterSelector(filter=models.Filter(must=[nobody])),
                **self._place.connection.writing,
            )
        except Exception:  # noqa: BLE001  (the first error says more)
            return False
        return True

    def _by_id(
        self, client: QdrantClient, ids: Sequence[str], consistency: Any, **asked: Any
    ) -> list[models.Record]:
        """Points by their ids; where reading is rationed for two tokens, not for one each."""
        from qdrant_client import models

        name, limits = self._place.collection, self._place.limits
        if not limits.rationed:
            return client.retrieve(name, list(ids), consistency=consistency, **asked)
        found: list[models.Record] = []
        size = limits.page(len(ids))
        for start in range(0, len(ids), size):
            some = list(ids[start : start + size])
            given = models.Filter(must=[models.HasIdCondition(has_id=list(some))])
            # one page, of which what differs is missing
            found += client.scroll(
                name, scroll_filter=limits.filter(given), limit=len(some),
                consistency=consistency, **asked,
            )[0]  # fmt: skip
        return found

    def _retrieve(self, ask: _Ask, ids: Sequence[str]) -> list[models.Record]:
        if not ids:
            return []
        return ask(
            "read",
            lambda client: client.retrieve(
                self._place.collection, list(ids), with_payload=True, with_vectors=True
            ),
        )

    def _ask_of(self, node: Connection) -> _Ask:
        """Calls to one node, which another can do without: tried for seconds."""

        def ask(action: str, call: Callable[[QdrantClient], _T], /) -> _T:
            return node.read(self._place.what(action), call)

        return ask

    def _whole(self, record: models.Record) -> PointData:
        return point_of(record, self._place.names)

    def _delete(self, where: models.Filter) -> None:
        self._deletes.send(self._place.own(where) or where)
