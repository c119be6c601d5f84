"""What clients read where the store fails: neither its address nor advice for who runs the service.

The log has the error as it was, with the request's id.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from retrieval.errors import (
    DiskFull,
    ManifestCorrupt,
    RetrievalError,
    StoreDenied,
    StoreFault,
    StoreLocked,
)

log = logging.getLogger(__name__)

_TELL = "Tell who runs the service; its log says more."


@contextlib.contextmanager
def for_clients(location: str) -> Iterator[None]:
    """Errors of the block as clients may read them.

    Args:
        location: of the store: a folder, a URL, or several with commas.
    """
    try:
        yield
    except RetrievalError as error:
        told = for_client(error, location)
        if told is error:
            raise
        log.warning("%s", error)
        raise told from error


def for_client(error: RetrievalError, location: str) -> RetrievalError:
    """An error as clients may read it: the same object where there is nothing to leave out."""
    if isinstance(error, StoreFault):
        wait = error.retry_after_s
        if wait is None:
            return StoreFault("the store of the collections failed", fix=_TELL)
        fix = f"Try again in {max(1.0, wait):.0f} s."
        return StoreFault(
            "the store of the collections does not answer now", fix=fix, retry_after_s=wait
        )
    if isinstance(error, StoreDenied):
        return StoreDenied("the store of the collections does not let the service in", fix=_TELL)
    if isinstance(error, DiskFull):
        return DiskFull("the store of the collections is full; nothing was lost", fix=_TELL)
    if isinstance(error, ManifestCorrupt):
        return ManifestCorrupt("the collection's own description cannot be read", fix=_TELL)
    if isinstance(error, StoreLocked):
        return StoreLocked("another process has the collection open", fix=_TELL)
    problem, fix = _without(error.problem, location), _without(error.fix, location)
    if (problem, fix) != (error.problem, error.fix):
        error.problem, error.fix = problem, fix
        error.args = (f"{problem}. {fix}",)
    return error


def _without(text: str, location: str) -> str:
    for place in (location, *location.split(",")):
        for phrase in (" on the Qdrant server at ", " at ", " in "):
            text = text.replace(f"{phrase}{place}", "")
        if len(place) > 1:
            text = text.replace(place, "the store")
    return text
