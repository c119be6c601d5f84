"""The main loop of a worker process, which loads one engine and runs the batches it receives."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from retrieval.errors import RetrievalError
from retrieval.models.engines.base import Engine, Pending, TokenBatch

AHEAD = 2
"""Batches that are started before the first one's output is waited for."""


def serve(link: Connection, parent: int) -> NoReturn:
    """Answer what comes over `link` until its other end closes; then end the process.

    Messages are `("load", arguments of load_engine)`, once, and `("batch", arrays of a
    TokenBatch)`. Answers come in the order of the messages: `("done", (result, token_budget))` or
    `("error", (class, problem, fix, traceback))`; `("log", …)` may stand between them.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        _serve(_Answers(link), link)
    # At once: nothing here needs to be put in order, and nobody is left to wait for it.
    os._exit(0)


def _serve(answers: _Answers, link: Connection) -> None:
    engine: Engine | None = None
    started: deque[Pending] = deque()
    while True:
        # The next batch is started before the output of this one is waited for, if it is there.
        if started and (len(started) == AHEAD or not link.poll(0)):
            assert engine is not None
            answers.give(started.popleft(), engine)
            continue
        kind, content = link.recv()
        if kind == "load":
            try:
                engine = _load(content)
            except Exception as error:  # noqa: BLE001  (raised again in the parent)
                answers.fail(error)
            else:
                facts = (engine.name, engine.device, engine.dtype, engine.head)
                answers.send("done", (facts, engine.token_budget))
            continue
        started.append(_start(engine, TokenBatch(*content)))


def _load(options: dict[str, Any]) -> Engine:
    from retrieval.models.engines import load_engine

    return load_engine(**options)


def _start(engine: Engine | None, batch: TokenBatch) -> Pending:
    """A failure at the start is reported as one at the end is."""
    if engine is None:
        raise EOFError  # the parent knows that nothing was loaded
    try:
        return engine.submit(batch)
    except Exception as error:  # noqa: BLE001  (raised again in the parent)
        failure = error

    def fail() -> Any:
        raise failure

    return fail


class _Answers(logging.Handler):
    """Sends answers, and this library's log records of at least WARNING, to the parent."""

    def __init__(self, link: Connection) -> None:
        super().__init__(logging.WARNING)
        self._link = link
        self._sending = threading.Lock()
        logging.getLogger("retrieval").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record."""
        with contextlib.suppress(OSError):
            self.send("log", (record.name, record.levelno, record.getMessage()))

    def give(self, pending: Pending, engine: Engine) -> None:
        """Wait for an output and send it."""
        try:
            output = pending()
        except Exception as error:  # noqa: BLE001  (raised again in the parent)
            self.fail(error)
        else:
            self.send("done", (output, engine.token_budget))

    def fail(self, error: Exception) -> None:
        """Send an error."""
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, RetrievalError):
            content = (type(error).__name__, error.problem, error.fix, trace)
        else:
            content = (type(error).__name__, str(error).strip() or "no message", "", trace)
        self.send("error", content)

    def send(self, kind: str, content: object) -> None:
        """Send a message whole, whichever thread sends."""
        with self._sending:
            self._link.send((kind, content))


def _end_with(parent: int) -> NoReturn:
    """End when the parent has ended: a fork of it may hold the socket open."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)
