"""A model in another process on its own device, which gets batches and answers with outputs.

The process is a fresh interpreter, not a fork: CUDA, OpenVINO's threads and locks held elsewhere do
not survive a fork. Nor does it run the caller's `__main__` again, so that scripts need no guard.

Parent and worker talk over one socket pair. A thread of the parent always reads, so that a worker
never waits for good to send an output, and so always comes to read the next batch: neither side
can block the other. The worker ends when the parent's end of the socket closes, however the parent
ended; when the worker ends, all callers that wait for it get the reason at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import retrieval.errors
from retrieval.errors import ModelFault, RetrievalError
from retrieval.models.engines.base import Head, Pending, TokenBatch
from retrieval.types import FloatArray

_log = logging.getLogger(__name__)

_START = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import sys
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
sys.path[:] = link.recv()
from retrieval.models.engines.worker_main import serve
serve(link, int(sys.argv[2]))
"""
_LAST_LINES = 100
_TOLD_LINES = 6
_PATIENCE = 5.0
"""Seconds that a worker gets to end once its socket is closed."""


class Worker:
    """A process for one device, starting at once. May be used from several threads.

    Args:
        device: where its engine will compute.

    Raises:
        ModelFault: the process cannot be started.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.token_budget = 1
        self._parent = os.getpid()
        self._lock = threading.Lock()  # held while a message is sent: answers come in that order
        self._waiting: deque[Future[Any]] = deque()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._closing = False
        self._end: tuple[str, str] | None = None
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        # -P: nothing in the current folder may pass for a standard module.
                        *(sys.executable or "python", "-P", "-X", "faulthandler", "-c", _START),
                        *(str(theirs.fileno()), str(self._parent)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                self._socket.close()
                raise ModelFault(
                    f"no process could be started for {device} with {sys.executable!r}: {error}",
                    fix="Free memory or processes, or use one device.",
                ) from error
        self._link = Connection(os.dup(self._socket.fileno()))
        self._reader = threading.Thread(
            target=self._read_lines, name=f"output of the worker on {device}", daemon=True
        )
        self._receiver = threading.Thread(
            target=self._receive, name=f"answers of the worker on {device}", daemon=True
        )
        self._reader.start()
        self._receiver.start()
        with contextlib.suppress(OSError):  # if it has ended already, its first answer will tell
            self._link.send([str(path) or str(Path.cwd()) for path in sys.path])

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def load(self, options: Mapping[str, Any]) -> Callable[[], RemoteEngine]:
        """Start to load an engine there; calling the result waits for it.

        Args:
            options: arguments of `load_engine`, without `device`.

        Raises:
            RetrievalError: by the result: what loading raised there, or a `ModelFault` where the
                process died.
        """
        facts = self.ask("load", {**options, "device": self.device})
        return lambda: RemoteEngine(self, facts.result())

    def ask(self, kind: str, content: object) -> Future[Any]:
        """Send a message; the future holds the answer, or raises as `load`."""
        if os.getpid() != self._parent:
            raise ModelFault(
                f"the worker on {self.device} belongs to process {self._parent}, and process "
                f"{os.getpid()}, a fork of it, cannot talk to it",
                fix="Load the model in the process that uses it, after the fork.",
            )
        future: Future[Any] = Future()
        with self._lock:
            if self._end is not None:
                raise self._fault()
            self._waiting.append(future)
            try:
                self._link.send((kind, content))
            except OSError:
                pass  # it has ended: the receiving thread fails all that wait
            except BaseException:
                # Half a message may have gone: what follows would not be understood.
                self._process.kill()
                raise
        return future

    def close(self) -> None:
        """End the process. May be called again."""
        if os.getpid() != self._parent:
            return  # a fork's copy: the process is not its child
        self._closing = True
        self._process.kill()  # it holds nothing that could be lost
        # Whichever thread drops the last reference to an engine comes by here.
        if threading.current_thread() not in (self._receiver, self._reader):
            self._receiver.join(2 * _PATIENCE)

    def _receive(self) -> None:
        try:
            while True:
                while not self._link.poll(1.0):
                    # A fork made while the worker was started may hold its end of the socket open.
                    if self._process.poll() is not None and not self._link.poll(0):
                        raise EOFError
                self._take(*self._link.recv())
        except (EOFError, OSError):
            pass
        finally:
            self._finish()

    def _take(self, kind: str, content: Any) -> None:
        if kind == "log":
            name, level, text = content
            logging.getLogger(name).log(level, "%s (in the worker on %s)", text, self.device)
            return
        future = self._waiting.popleft()
        if kind == "error":
            future.set_exception(_unpacked(self.device, *content))
            return
        answer, self.token_budget = content
        future.set_result(answer)

    def _finish(self) -> None:
        """Reap the process, and tell all who wait for it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._process.kill()
        status = self._process.wait()
        self._reader.join(_PATIENCE)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that is sending
        with self._lock:
            self._link.close()
            self._socket.close()
            self._end = self._obituary(status)
            while self._waiting:
                self._waiting.popleft().set_exception(self._fault())

    def _fault(self) -> ModelFault:
        assert self._end is not None
        problem, fix = self._end
        return ModelFault(problem, fix=fix)

    def _obituary(self, status: int) -> tuple[str, str]:
        who = f"the worker process {self.pid} on {self.device}"
        again = "load the model again"
        if self._closing:
            return f"{who} was closed", f"{again.capitalize()}."
        fix = f"Use fewer devices or one, or {again}."
        how = f"ended with exit code {status}"
        if status < 0:
            how = f"was ended by {_signal_name(-status)}"
            if status == -signal.SIGKILL:
                how += ", which the system sends when memory runs out"
                fix = f"Free memory, use fewer devices or a smaller token_budget, and {again}."
        if self._last_lines:
            how += f", after saying: {' | '.join(_telling(list(self._last_lines)))}"
        return f"{who} {how}", fix

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            # A limit, for progress bars without line ends.
            for line in iter(lambda: stdout.readline(4096), b""):
                text = line.decode("utf-8", "replace").strip()
                if text:
                    self._last_lines.append(text)
                    _log.debug("worker on %s: %s", self.device, text)


class RemoteEngine:
    """The engine of a `Worker`; ends it when it is closed, freed, or when the program ends.

    Args:
        worker: one that has loaded an engine.
        facts: what the engine said of itself: name, device, dtype and head.
    """

    def __init__(self, worker: Worker, facts: tuple[str, str, str, Head]) -> None:
        self._worker = worker
        self.name, self.device, self.dtype, self.head = facts
        # Its threads hold the worker, not this object.
        self._closer = weakref.finalize(self, worker.close)

    @property
    def token_budget(self) -> int:
        """See `engines.base.Engine.token_budget`; as of its last answer."""
        return self._worker.token_budget

    @property
    def pid(self) -> int:
        """The worker process's id."""
        return self._worker.pid

    def run(self, batch: TokenBatch) -> FloatArray:
        """See `engines.base.Engine.run`."""
        return self.submit(batch)()

    def submit(self, batch: TokenBatch) -> Pending:
        """See `engines.base.Engine.submit`.

        Raises:
            ModelFault: the device failed, or the process died or was closed.
        """
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        future = self._worker.ask("batch", arrays)
        return lambda: np.asarray(future.result(), dtype=np.float32)

    def close(self) -> None:
        """End the worker process. May be called again."""
        self._closer()


def _unpacked(device: str, kind: str, problem: str, fix: str, trace: str) -> RetrievalError:
    """The error that was raised in a worker, as one of the same class."""
    found = getattr(retrieval.errors, kind, None)
    if isinstance(found, type) and issubclass(found, RetrievalError):
        # Some classes make their text from other arguments: here it is made already.
        error = found.__new__(found)
        RetrievalError.__init__(error, problem, fix=fix)
    else:
        error = ModelFault(
            f"the worker on {device} failed with {kind}: {problem}",
            fix="Try another device, dtype='fp32', or a smaller token_budget.",
        )
    error.add_note(f"In the worker on {device}:\n{trace.rstrip()}")
    return error


def _telling(lines: list[str]) -> list[str]:
    """The important part of a process's last output: how a crash began, or how a traceback
    ended."""
    for place, line in enumerate(lines):
        if line.startswith("Fatal Python error"):
            return lines[place : place + _TOLD_LINES]
    return lines[-_TOLD_LINES:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
