"""Models do not survive a fork: their threads stay in the parent, and the child would wait."""

from __future__ import annotations

import os

from retrieval.errors import ModelFault


class LoadedHere:
    """Which process loaded a model."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def check(self, model: str) -> None:
        """Refuse a process that was forked from it.

        Raises:
            ModelFault: says what to do.
        """
        if os.getpid() != self._process:
            raise ModelFault(
                f"{model} was loaded in process {self._process}, and process {os.getpid()}, a fork "
                "of it, cannot run it: its threads stayed behind",
                fix="Load models, and open retrievers, in the process that uses them (Celery: the "
                "signal worker_process_init; gunicorn: no --preload), or start workers with the "
                "multiprocessing method 'spawn'.",
            )
