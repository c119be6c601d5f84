"""Opening a backend beside serving, so that clients are answered while models load."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Protocol

from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)


class Lifecycle(Protocol):
    """What is opened and closed: `app.backend.backend.RetrievalBackend` is one."""

    def open(self) -> None:
        """Load what the first request needs. Raises the library's errors."""
        ...

    def close(self) -> None:
        """Let running calls end, write what must be written, free the rest."""
        ...


@contextlib.asynccontextmanager
async def opened(part: Lifecycle | None) -> AsyncIterator[None]:
    """Open in a thread beside the block, and close after it; None does neither.

    What opening raises is logged: `/readyz` says it, too, and the first request tries again.
    """
    if part is None:
        yield
        return

    async def load() -> None:
        try:
            await asyncio.to_thread(part.open)
        except RetrievalError as error:
            log.error("not ready: %s", error)
        except Exception:
            log.exception("not ready")

    loading = asyncio.create_task(load())
    try:
        yield
    finally:
        await loading
        await asyncio.to_thread(part.close)
