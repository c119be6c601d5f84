"""Files: walking a tree, reading bytes within bounds, decoding. Problems are `Unreadable`."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

# A file that becomes one document is held in memory several times over while it is read.
MAX_FILE_BYTES = 256 * 1024 * 1024
_HEAD_BYTES = 64 * 1024
_BOMS = (
    # UTF-32's little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unreadable(Exception):
    """Why a file, or one line of it, cannot be used; becomes a `Problem`."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        self.reason = reason
        self.line = line
        super().__init__(reason)


def walk(
    root: Path, on_unreadable: Callable[[Path, str], None]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Folders' regular files, sorted by name, hidden ones left out; each real folder once.

    Symbolic links to folders are followed after everything that is really there, so a folder is
    read under its own name where it has one below `root`, and a loop ends.
    """
    seen: set[tuple[int, int]] = set()
    linked: list[Path] = []

    def visit(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        waiting: list[Path] = [folder]
        while waiting:
            path = waiting.pop()
            try:
                status = path.stat()
                is_folder = stat.S_ISDIR(status.st_mode)
                children = sorted(path.iterdir(), reverse=True) if is_folder else []
            except OSError as error:
                on_unreadable(path, why(error))
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status
            elif not is_folder:
                on_unreadable(path, "is neither a file nor a folder (a pipe, socket or device)")
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


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        Unreadable: it is too large, or the system refuses.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable(why(error)) from error
    if len(data) > MAX_FILE_BYTES:
        raise Unreadable(
            f"is larger than {MAX_FILE_BYTES // 2**20} MiB, the most that is read as one document; "
            "split it, or write it as JSONL with one document a line"
        )
    return data


def choose_encoding(head: bytes, encoding: str | None) -> str:
    """By the byte order mark; without one as the user says; else UTF-8. `head` starts the file.

    Raises:
        Unreadable: the file is binary, or in an encoding that nothing names.
    """
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    if encoding is None and b"\0" in head[:_HEAD_BYTES]:
        raise Unreadable(
            f"looks binary: a NUL byte at offset {head.index(0)}; expected text in UTF-8 "
            "(UTF-16 is read where it starts with a byte order mark, or with encoding='utf-16-le')"
        )
    return encoding or "utf-8"


def decode(data: bytes, encoding: str | None, declared: str | None = None) -> str:
    r"""The text of a file, newlines as `\n`, without a byte order mark.

    Args:
        encoding: the user's; used where there is no byte order mark.
        declared: what the file says of itself; tried where UTF-8 fails.

    Raises:
        Unreadable: not text in that encoding; says which was tried and where it failed.
    """
    name = choose_encoding(data, encoding)
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        if encoding is None and name == "utf-8" and declared and is_text_encoding(declared):
            return decode(data, declared)
        line = data.count(b"\n", 0, error.start) + 1 if name.startswith("utf-8") else None
        raise Unreadable(not_in(name, error), line) from error
    if "\0" in text:
        raise Unreadable(
            f"looks binary: a NUL character at offset {text.index(chr(0))}",
            text.count("\n", 0, text.index("\0")) + 1,
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def not_in(encoding: str, error: UnicodeDecodeError) -> str:
    """A sentence on bytes that are not text in `encoding`."""
    name = "utf-8" if encoding == "utf-8-sig" else encoding
    byte = error.object[error.start : error.start + 1].hex()
    return (
        f"was read as {name.upper()}, but byte 0x{byte} at offset {error.start} does not belong "
        "there; give its encoding (such as latin-1 or gb18030) if it is text"
    )


def is_text_encoding(name: str) -> bool:
    """Whether Python has a codec of that name that turns bytes into text."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        return False
    return True


def why(error: OSError) -> str:
    """A sentence on what the operating system refused."""
    return f"cannot be read: {(error.strerror or str(error)).lower()}"
