"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import InvalidInput
from retrieval.index.manifest import os_errors, sync_directory


@contextlib.contextmanager
def appearing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A place to write to, which takes the target's name when the block ends without an error.

    Raises:
        InvalidInput: the target exists and is not to be replaced; asked before the block begins.
        DiskFull, StoreDenied, StoreFault: it could not get its name; nothing is left behind.
    """
    if target.exists() and not overwrite:
        raise InvalidInput(
            f"the file {str(target)!r} exists already",
            fix="Choose another name, or give overwrite=True (--overwrite). Nothing was changed.",
        )
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        with os_errors(f"write {target}"):
            temporary.replace(target)
            sync_directory(target.absolute().parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
