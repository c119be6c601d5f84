"""Walking a tree of files; BEIR folders in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from retrieval.readers.files import Unreadable
from retrieval.readers.opening import SPECIAL, Within, list_folder, look


def walk(
    root: Path, on_unreadable: Callable[[Path, str], None], within: Within = None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Folders' regular files, sorted by name, hidden ones left out; each real folder once.

    Symbolic links to folders are followed after everything that is really there, so a folder is
    read under its own name where it has one below `root`, and a loop ends. A link that leads out
    of `within` is unreadable.
    """
    seen: set[tuple[int, int]] = set()
    linked: list[Path] = []

    def visit(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        waiting: list[Path] = [folder]
        while waiting:
            path = waiting.pop()
            try:
                status = look(path, within)
                is_folder = stat.S_ISDIR(status.st_mode)
                children = sorted(list_folder(path, within), reverse=True) if is_folder else []
            except Unreadable as bad:
                on_unreadable(path, bad.reason)
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status
            elif not is_folder:
                on_unreadable(path, SPECIAL)
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                for child in children:
                    if child.name.startswith("."):
                        continue
                    if child.is_symlink() and child.is_dir():
                        linked.append(child)
                    else:
                        waiting.append(child)

    yield from visit(root)
    while linked:
        batch = sorted(linked)
        linked.clear()
        for link in batch:
            yield from visit(link)


def is_beir(folder: Path) -> bool:
    """Whether a folder is one of BEIR: its corpus beside queries or judgements."""
    return (folder / "corpus.jsonl").is_file() and (
        (folder / "queries.jsonl").is_file() or (folder / "qrels").is_dir()
    )


def is_inside_beir(path: Path, root: Path, known: dict[Path, bool]) -> bool:
    """Whether the file belongs to a BEIR folder within the tree and is not its corpus."""
    folder = path.parent
    while True:
        if folder not in known:
            known[folder] = is_beir(folder)
        if known[folder]:
            return path != folder / "corpus.jsonl"
        if folder == root or folder == folder.parent:
            return False
        folder = folder.parent
