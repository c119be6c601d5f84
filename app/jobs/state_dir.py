"""The service's state folder: jobs, and uploads until a job takes them over."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from app.settings.settings import Settings
from retrieval.errors import DiskFull, RetrievalError, StoreDenied

UPLOADING = "upload-"
"""How folders of uploads are called that no job has taken over yet."""


def state_folder(settings: Settings) -> Path:
    """Where the service keeps uploads and jobs; beside an embedded store, else in this folder."""
    if settings.state_dir is not None:
        return settings.state_dir
    local = "://" not in settings.store
    store = Path(settings.store).absolute() if local else Path(".retrieval").absolute()
    return store.with_name(f"{store.name}-state")


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Errors of the system in a block that writes to a folder, as the library's.

    Raises:
        DiskFull, StoreDenied
    """
    try:
        yield
    except RetrievalError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk of {str(folder)!r} is full, and the job cannot be written there",
                fix="Make room, or choose another folder with the setting state_dir.",
            ) from error
        raise StoreDenied(
            f"the folder {str(folder)!r} cannot be used: {error.strerror or error}",
            fix="Give the service the right to write there, or set state_dir to another folder.",
        ) from error
