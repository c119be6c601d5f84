"""Files that a user asks for: refused where one exists, otherwise whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from retrieval._files import atomic_path, os_errors
from retrieval.errors import InvalidInput


@contextlib.contextmanager
def new_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A path to write to; the file takes the target's name when the block ends without an error.

    Raises:
        InvalidInput: the target exists and is not to be replaced; checked before the block begins.
        DiskFull, StoreDenied, StoreFault: it could not be written; nothing is left behind.
    """
    if target.exists() and not overwrite:
        raise InvalidInput(
            f"the file {str(target)!r} exists already",
            fix="Choose another name, or give overwrite=True (--overwrite). Nothing was changed.",
        )
    with os_errors(f"write {target}"), atomic_path(target) as temporary:
        yield temporary
