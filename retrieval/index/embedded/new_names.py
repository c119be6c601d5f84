"""Which names a new collection may have in a folder, beside what `check_name` says."""

from __future__ import annotations

import os
import re
from pathlib import Path

from retrieval.errors import CollectionExists, InvalidInput
from retrieval.index.manifest import split_name

# Windows takes them for devices, with any suffix, and drops a name's last dots: a store on a share
# or carried to such a machine would lose the collection.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def check_new_name(root: Path, collection: str) -> None:
    """Refuse the name of a new collection that could not be kept apart in this store or another.

    Raises:
        InvalidInput: not a name of a folder everywhere.
        CollectionExists: the file system does not tell it from another collection's.
    """
    if _DEVICE.fullmatch(collection) or collection.endswith("."):
        what = "ends with a dot" if collection.endswith(".") else "names a device"
        raise InvalidInput(
            f"the collection name {collection!r} {what} on Windows, so the store could not be "
            "read there",
            fix="Choose another name, for example 'docs'. Nothing was changed.",
        )
    for entry in os.listdir(root):  # noqa: PTH208  (names alone)
        try:
            other = split_name(entry)[0]
        except InvalidInput:
            continue
        if other != collection and other.lower() == collection.lower() and folds(root / entry):
            raise CollectionExists(
                f"the file system of {root} does not tell the name {collection!r} from "
                f"{other!r}, which is there already",
                fix=f"Use {other!r}, or choose a name that differs in more than upper and lower "
                "case. Nothing was changed.",
            )


def folds(path: Path) -> bool:
    """Whether a path that exists leads somewhere by a name that is not its own there."""
    swapped = path.with_name(path.name.swapcase())
    if swapped == path or not (path.exists() and swapped.exists()):
        return False
    names = os.listdir(path.parent)  # noqa: PTH208
    return not (path.name in names and swapped.name in names)


def is_called(path: Path) -> bool:
    """Whether what is at a path has that very name: `Docs` may lead to `docs`."""
    return not folds(path) or path.name in os.listdir(path.parent)  # noqa: PTH208
