"""Deletions on a server, of points of the collection that was opened alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval.errors import RetrievalError
from retrieval.index.server.errors import OverLimit, failure_of
from retrieval.index.server.journal import Journal
from retrieval.index.server.place import Place
from retrieval.index.server.reads import Reads

if TYPE_CHECKING:
    from qdrant_client import models

_PAGE = 500
"""Ids of a page, where a server does not delete by a filter."""


class Deletes:
    """What a `PointStore` deletes.

    Args:
        journal: where each deletion is noted before it is sent; None where there is one copy of
            each point.
    """

    def __init__(self, place: Place, reads: Reads, journal: Journal | None) -> None:
        self._place = place
        self._reads = reads
        self._journal = journal

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        from qdrant_client import models

        if not ids:
            return
        try:
            self._delete(models.Filter(must=[models.HasIdCondition(has_id=list(ids))]))
        except OverLimit as refusal:
            if refusal.most is not None or len(ids) == 1:
                raise
            # more than a minute's tokens
            middle = len(ids) // 2
            self.delete_ids(ids[:middle])
            self.delete_ids(ids[middle:])

    def delete_matching(self, where: models.Filter) -> None:
        """Delete what a filter matches."""
        try:
            self._delete(where)
        except OverLimit as refusal:
            if refusal.most is not None:
                raise
            # more than a minute's tokens: one page of ids after the other
            while page := self._reads.page(None, _PAGE, self._place.own(where), False)[0]:
                self.delete_ids([str(record.id) for record in page])

    def send(self, where: models.Filter) -> None:
        """Delete what a filter matches, of any build and without a note."""
        from qdrant_client import models

        def delete() -> None:
            fitting = self._place.limits.filter(where)
            assert fitting is not None
            selector = models.FilterSelector(filter=fitting)
            self._place.persist(
                "delete from",
                lambda client: client.delete(
                    self._place.collection,
                    points_selector=selector,
                    **self._place.connection.writing,
                ),
            )

        self._place.limits.ask(delete)

    def _delete(self, where: models.Filter) -> None:
        own = self._place.own(where) or where
        if self._journal is None:
            self.send(own)
            return
        with self._journal.noted(own):
            self.send(own)


def may_be_applied(error: BaseException) -> bool:
    """Whether some copies may have done what a failed call asked; a refused one did nothing."""
    cause = error.__cause__
    if isinstance(error, OverLimit):
        return False
    if not isinstance(error, RetrievalError) or not isinstance(cause, Exception):
        return True
    if isinstance(cause, RetrievalError):
        return False
    return failure_of(cause).kind in ("away", "cut", "slow", "busy", "full")
