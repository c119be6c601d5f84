"""What all wire formats need: the caller, and calls that end when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.types import Caller

T = TypeVar("T")

ANYONE = Caller()


class ClientGone(Exception):
    """The client closed the connection; no answer can be sent."""


def caller_of(request: Request) -> Caller:
    """The caller, as the guard in front of all routes identified it; anybody where there are no
    keys."""
    caller = getattr(request.state, "caller", ANYONE)
    assert isinstance(caller, Caller)
    return caller


async def until_gone(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """The call's result; the call is cancelled, and leaves the queue, once the client has gone.

    The request's body must have been read.

    Raises:
        ClientGone: the client has gone.
    """
    work = asyncio.ensure_future(call)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientGone
    finally:
        for task in (work, gone):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
