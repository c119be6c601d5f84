"""What only some copies may have: noted in the collection's own metadata until all are alike.

A server that cannot reach all copies answers a deletion with an error and keeps what the living
copies did of it. What the others still hold may be on no copy that the next reader is shown, so
that nobody would know what to delete. The note, written before the deletion is sent, tells.

New passages whose write fails are on such copies too, and would stay where the source drops their
document before it is written again. They are noted when the write has failed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from retrieval.errors import RetrievalError, StoreDenied

if TYPE_CHECKING:
    from qdrant_client.models import Filter

PREFIX = "retrieval_unfinished_"
"""Of the names in the metadata: one a deletion, so that writers do not overwrite each other's."""
WRITE_PREFIX = f"{PREFIX}write_"
"""The same of a write that failed."""

logger = logging.getLogger("retrieval.index.server.index")


class Journal:
    """The notes of one collection; any thread may use it.

    Args:
        change: sets names in the collection's metadata, and removes those that are None.
        metadata: as they were when the collection was opened.
        applied: whether, after an error, some copies may have done what was asked.
    """

    def __init__(
        self,
        change: Callable[[dict[str, Any]], None],
        metadata: Mapping[str, Any],
        applied: Callable[[BaseException], bool],
    ) -> None:
        self._change = change
        self._applied = applied
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._unfinished = _notes(metadata)
        self._may_note = True

    @property
    def is_clear(self) -> bool:
        """Whether no deletion is known to be unfinished."""
        return not self._unfinished

    def unfinished(self, metadata: Mapping[str, Any]) -> dict[str, Filter]:
        """What has to be deleted again by the collection's metadata now, by the note's name."""
        from pydantic import ValidationError
        from qdrant_client import models

        with self._lock:
            self._unfinished = {
                name: note for name, note in _notes(metadata).items() if name not in self._done
            }
            notes = dict(self._unfinished)
        found = {}
        for name, note in notes.items():
            try:
                found[name] = models.Filter.model_validate(note["filter"])
            except (ValidationError, KeyError, TypeError):
                logger.warning("the metadata hold %s, which this version cannot read", name)
                with self._lock:
                    self._unfinished.pop(name, None)
        return found

    @contextlib.contextmanager
    def noted(self, where: Filter) -> Iterator[None]:
        """Keep a note of a deletion while the block sends it; it stays if the block fails."""
        name = PREFIX + secrets.token_hex(8)
        note = _note(where)
        if not self._write({name: note}):
            yield
            return
        try:
            yield
        except BaseException as error:
            if self._applied(error):
                with self._lock:
                    self._unfinished[name] = note
            else:
                self.done(name)
            raise
        self.done(name)

    def note_write(
        self, error: Exception, ids: list[str], change: Callable[[dict[str, Any]], None]
    ) -> None:
        """Note the points of a write that failed, by `change`, which may fail as well."""
        from qdrant_client import models

        if not self._applied(error):
            return
        name = WRITE_PREFIX + secrets.token_hex(8)
        note = _note(models.Filter(must=[models.HasIdCondition(has_id=list(ids))]))
        with self._lock:
            self._unfinished[name] = note
        try:
            if self._may_note:
                change({name: note})
        except RetrievalError as trouble:
            logger.warning(
                "a write failed and could not be noted: index the same documents again before any "
                "of them leave the source (%s)",
                trouble.problem,
            )

    def done(self, name: str) -> None:
        """Every copy has done what a note says."""
        with self._lock:
            self._done.add(name)
            self._unfinished.pop(name, None)

    def settle(self) -> None:
        """Remove the notes of what is done."""
        if self._done:
            self._write({})

    def _write(self, notes: dict[str, Any]) -> bool:
        """Add notes and remove those of what is done, in one request."""
        if not self._may_note:
            return False
        with self._lock:
            done = set(self._done)
        try:
            self._change({**notes, **dict.fromkeys(done)})
        except StoreDenied:
            self._may_note = False
            logger.warning(
                "the API key may not change the collection's metadata: a deletion that is cut off "
                "is not noted, and the next run cannot send it to a copy that missed it"
            )
            return False
        with self._lock:
            self._done -= done
        return True


def _note(where: Filter) -> dict[str, Any]:
    return {
        "filter": where.model_dump(mode="json", exclude_none=True),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _notes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: note
        for name, note in metadata.items()
        if name.startswith(PREFIX) and note is not None
    }
