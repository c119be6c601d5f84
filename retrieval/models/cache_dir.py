"""What one start of a model leaves for later ones: compiled graphs, resolved tokenisers.

Only a cache: what cannot be kept or read again is made again, and no failure here is an error. An
entry is a folder that appears complete or not at all; one unused for `KEPT_DAYS` is dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

KEPT_DAYS = 60
_RESERVE_BYTES = 1 << 30
_SIZES = "sizes.json"


def default_cache_dir() -> Path | None:
    """The user's cache folder; None where there is no home folder."""
    try:
        return Path.home() / ".cache" / "two-stage-retrieval" / "models"
    except RuntimeError:
        return None


def entry_key(files: Iterable[Path], *parts: object) -> str:
    """A name for what is made from `files` (by path, size and time) and of `parts` (JSON)."""
    states = [
        (file.name, str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(files)
    ]
    return hashlib.sha256(json.dumps([states, parts]).encode()).hexdigest()[:32]


def find(entry: Path | None) -> Path | None:
    """The folder of an entry that is there and complete, marked as used; else None."""
    if entry is None:
        return None
    try:
        sizes = json.loads((entry / _SIZES).read_text("utf-8"))
        if any((entry / name).stat().st_size != size for name, size in sizes.items()):
            return None
    except (OSError, ValueError, AttributeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(entry)
    return entry


def keep(entry: Path | None, write: Callable[[Path], None], *, size: int) -> None:
    """Make an entry: `write` fills a folder, which then takes the entry's name.

    Args:
        entry: the folder to make; None keeps nothing.
        write: called with an empty folder beside it.
        size: bytes it will write; nothing is kept unless twice that and a GiB are free.
    """
    if entry is None:
        return
    draft: str | None = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(entry.parent).free < 2 * size + _RESERVE_BYTES:
            return
        draft = tempfile.mkdtemp(dir=entry.parent, prefix="draft-")
        write(Path(draft))
        sizes = {file.name: file.stat().st_size for file in Path(draft).iterdir()}
        (Path(draft) / _SIZES).write_text(json.dumps(sizes), "utf-8")
        if entry.exists():  # damaged, or made by another process meanwhile
            shutil.rmtree(entry)
        Path(draft).rename(entry)
        _drop_unused(entry.parent)
    except (OSError, RuntimeError):
        return
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _drop_unused(folder: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 86_400
    for entry in folder.iterdir():
        if entry.is_dir() and entry.stat().st_mtime < oldest:
            shutil.rmtree(entry, ignore_errors=True)
