"""Walking a tree of files; BEIR folders in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from retrieval.readers.files import Unreadable
from retrieval.readers.ignoring import Ignored
from retrieval.readers.opening import SPECIAL, Within, list_folder, look
from retrieval.readers.options import ReadOptions

_USUAL = ReadOptions()
_LEADS_OUT = (
    "is a link that leads out of the folder, and is not followed unless follow_links is given "
    "(--follow-links)"
)


def walk(
    root: Path,
    on_unreadable: Callable[[Path, str], None],
    within: Within = None,
    options: ReadOptions = _USUAL,
    on_left_out: Callable[[Path], None] = lambda _: None,
) -> Iterator[tuple[Path, os.stat_result]]:
    """Folders' regular files, sorted by name; each real folder once.

    Symbolic links to folders are followed after everything that is really there, so a folder is
    read under its own name where it has one below `root`, and a loop ends. A link that leads out
    of `within`, or without `follow_links` out of `root`, is unreadable. Hidden files, and what
    `Ignored` leaves out, are passed over without `all_files`.
    """
    # os.path asks, and not pathlib, which raises where it may not look: that is said by `look`
    seen: set[tuple[int, int]] = set()
    linked: list[tuple[Path, Ignored]] = []
    real = Path(os.path.realpath(root))

    def leads_out(path: Path) -> bool:
        return (
            within is None
            and not options.follow_links
            and os.path.islink(path)  # noqa: PTH114
            and not Path(os.path.realpath(path)).is_relative_to(real)
        )

    def visit(top: Path, rules: Ignored) -> Iterator[tuple[Path, os.stat_result]]:
        waiting: list[tuple[Path, Ignored]] = [(top, rules)]
        while waiting:
            path, ignored = waiting.pop()
            try:
                if path != root and leads_out(path):
                    raise Unreadable(_LEADS_OUT)
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
                own = ignored if options.all_files else ignored.of(path, children, within)
                names = frozenset(child.name for child in children)
                for child in children:
                    below = os.path.isdir(child)  # noqa: PTH112
                    if not options.all_files:
                        if child.name.startswith("."):
                            continue
                        if own.leaves_out(child, is_folder=below, siblings=names):
                            on_left_out(child)
                            continue
                    is_link = below and os.path.islink(child)  # noqa: PTH114
                    (linked if is_link else waiting).append((child, own))

    yield from visit(root, Ignored())
    while linked:
        batch = sorted(linked, key=lambda one: one[0])
        linked.clear()
        for link, rules in batch:
            yield from visit(link, rules)


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
