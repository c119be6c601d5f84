"""A file's bytes within bounds, and their decoding. Problems are `Unreadable`."""

from __future__ import annotations

import codecs
import contextlib
from dataclasses import dataclass
from typing import BinaryIO

from retrieval.readers.guessing import guess, has_utf8

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


def read_bytes(file: BinaryIO) -> bytes:
    """A whole file.

    Raises:
        Unreadable: it is too large.
    """
    # None: one of the system's files that has nothing to say now, and would block
    data = file.read(MAX_FILE_BYTES + 1) or b""
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


@dataclass(frozen=True, slots=True)
class Decoded:
    r"""The text of a file, newlines as `\n`, without a byte order mark.

    notes: that its encoding was guessed, and which.
    """

    text: str
    notes: tuple[str, ...] = ()


def decode(data: bytes, encoding: str | None, declared: str | None = None) -> Decoded:
    """Decode a file.

    Args:
        encoding: the user's; used where there is no byte order mark.
        declared: what the file says of itself; tried where UTF-8 fails. Then it is guessed.

    Raises:
        Unreadable: not text in that encoding; says which was tried and where it failed.
    """
    name = choose_encoding(data, encoding)
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        if encoding is None and name == "utf-8":
            if declared and is_text_encoding(declared):
                return decode(data, declared)
            if not has_utf8(data) and (guessed := guess(data)) is not None:
                with contextlib.suppress(Unreadable):
                    return Decoded(decode(data, guessed).text, (guessed_as(guessed),))
        line = data.count(b"\n", 0, error.start) + 1 if name.startswith("utf-8") else None
        raise Unreadable(not_in(name, error), line) from error
    if "\0" in text:
        raise Unreadable(
            f"looks binary: a NUL character at offset {text.index(chr(0))}",
            text.count("\n", 0, text.index("\0")) + 1,
        )
    return Decoded(text.replace("\r\n", "\n").replace("\r", "\n"))


def guessed_as(name: str) -> str:
    """A sentence on an encoding that was guessed."""
    return f"is not UTF-8 and was read as {name}, a guess; give its encoding if that is wrong"


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
