"""Streams of events: comments while nothing happens, and what a stop of the service does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from sse_starlette.sse import AppStatus
from starlette.types import Message

from app.protocols.sse import event, event_stream


@pytest.mark.parametrize("ends_with_service", [True, False])
def test_a_stop_cuts_progress_and_lets_answers_finish(
    monkeypatch: pytest.MonkeyPatch, ends_with_service: bool
) -> None:
    monkeypatch.setattr(AppStatus, "should_exit", True)
    closed, sent = [], b""

    async def stream() -> None:
        commented = asyncio.Event()

        async def events() -> AsyncGenerator[bytes, None]:
            try:
                await commented.wait()
                yield event({"text": "grüße"}, name="done")
            finally:
                closed.append(True)

        async def send(message: Message) -> None:
            nonlocal sent
            sent += message.get("body", b"")
            if sent.startswith(b": keep-alive\n\n"):
                commented.set()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        response = event_stream(events(), keep_alive_s=0.05, ends_with_service=ends_with_service)
        await response({"type": "http", "method": "GET", "path": "/"}, receive, send)

    asyncio.run(asyncio.wait_for(stream(), 20))
    assert closed == [True]
    last = 'event: done\ndata: {"text":"grüße"}\n\n'.encode()
    assert sent.endswith(last) != ends_with_service
