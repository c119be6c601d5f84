"""Whether the service can do its work: models loaded, index reachable, writes possible."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from app.backend.models import Models
from app.backend.open_collections import OpenCollections
from app.backend.store_errors import for_client
from app.jobs.state_dir import state_folder
from app.settings.settings import Settings
from app.types import Readiness
from retrieval import Store
from retrieval.errors import CollectionNotFound, ModelFault, ModelNotFound, RetrievalError

log = logging.getLogger(__name__)

# A request of `/readyz` waits this long at most; the check itself goes on.
ANSWER_SECONDS = 2.0
# The embedded engine maps files into memory and must never meet a full disk.
LEAST_FREE_BYTES = 128 * 1024 * 1024


class Checks:
    """Looks at the parts, one check at a time; each check also tries again what was missing.

    Args:
        settings: of the service.
        store, collections, models: the parts.
    """

    def __init__(
        self, settings: Settings, store: Store, collections: OpenCollections, models: Models
    ) -> None:
        self._settings = settings
        self._store = store
        self._collections = collections
        self._models = models
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ready")
        self._logged = ""
        self._check: Future[dict[str, str]] | None = None

    async def ready(self) -> Readiness:
        """The result of a check: of the one that runs, or of a new one."""
        if self._check is None or self._check.done():
            self._check = self._pool.submit(self._problems)
        check = asyncio.wrap_future(self._check)
        done, _ = await asyncio.wait({check}, timeout=ANSWER_SECONDS)
        if not done:
            loading = not self._models.infos()
            part, what = ("models", "being loaded") if loading else ("index", "being asked")
            return Readiness(False, {part: f"It is still {what}."})
        problems = check.result()
        return Readiness(not problems, problems)

    def close(self) -> None:
        """End the thread of the checks."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        name = self._settings.collection
        exists, version = True, name
        try:
            status, version = self._collections.ask(
                name, lambda retriever: (retriever.index.status(), retriever.index.physical)
            )
            if status.state == "failed":
                problems["index"] = " ".join(status.notes) or "The engine reports a failure."
        except CollectionNotFound:
            exists = False
        except (ModelNotFound, ModelFault) as error:
            problems["models"] = str(error)
        except RetrievalError as error:
            problems["index"] = self._told(error)
        if not exists:
            try:
                loaded = self._models.loaded
                loaded.second_stage_for(loaded.default_encoder())
            except RetrievalError as error:
                problems["models"] = str(error)
            if self._settings.read_only:
                problems["index"] = (
                    f"There is no collection {name!r}, and the service is read-only."
                )
        if not self._settings.read_only and self._store.is_server and "index" not in problems:
            try:
                self._store.check_writable(version)
            except RetrievalError as error:
                problems["writes"] = self._told(error)
        if not self._settings.read_only and not self._store.is_server:
            problem = _not_writable(Path(self._store.location).absolute())
            if problem:
                problems["writes"] = problem
        if not self._settings.read_only:
            problem = _not_writable(state_folder(self._settings).absolute())
            if problem:
                problems["jobs"] = problem
        return problems

    def _told(self, error: RetrievalError) -> str:
        """A sentence for whoever asks; the error itself goes to the log, once while it lasts."""
        if str(error) != self._logged:
            self._logged = str(error)
            log.warning("not ready: %s", error)
        told = for_client(error, self._store.location)
        return f"{told.problem[:1].upper()}{told.problem[1:]}. {told.fix}"


def _not_writable(folder: Path) -> str:
    """Why nothing can be written to a store; empty where it can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # the store is made with its first collection
    if not folder.is_dir():
        return f"{folder} is not a folder."
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"The folder {folder} may not be written to by this user."
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        return (
            f"Only {free / 1e6:,.0f} MB are free in {folder}; "
            f"{LEAST_FREE_BYTES / 1e6:,.0f} MB are kept free."
        )
    return ""
