"""Single key presses: of a terminal without Enter, elsewhere the characters of standard input."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from retrieval.errors import InvalidInput

END = ""
"""What is read at the end of the input (Ctrl-D on a terminal)."""

ESCAPE = "\x1b"


@contextmanager
def single_keys() -> Iterator[Callable[[], str]]:
    """A function that waits for the next key; the terminal is as before when the block ends.

    Keys of several bytes, such as arrows, are one `ESCAPE`. Keys that are pressed while nobody
    waits are kept. Elsewhere than on a terminal blanks and line ends are passed over.
    """
    stream = sys.stdin
    if stream is None or not stream.isatty():
        yield _character
        return
    handle = stream.fileno()
    before = termios.tcgetattr(handle)

    def key() -> str:
        # each time: who stopped the program (Ctrl-Z) and went on has a terminal set otherwise
        tty.setcbreak(handle, termios.TCSADRAIN)
        return _key(handle)

    try:
        yield key
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _key(handle: int) -> str:
    first = os.read(handle, 1)
    if first in (b"", b"\x04"):
        return END
    if first == b"\x1b":
        _pass_over_sequence(handle)
        return ESCAPE
    more = 0 if first[0] < 0xC0 else 1 if first[0] < 0xE0 else 2 if first[0] < 0xF0 else 3
    for _ in range(more):  # of a character in UTF-8
        first += os.read(handle, 1)
    return first.decode("utf-8", "replace")


def _pass_over_sequence(handle: int) -> None:
    """Read what follows an Escape of a key such as an arrow: `[`, parameters, a letter."""

    def waiting() -> bool:
        return bool(select.select([handle], [], [], 0.05)[0])

    if waiting() and os.read(handle, 1) in (b"[", b"O"):
        while waiting() and not b"\x40" <= os.read(handle, 1) <= b"\x7e":
            pass


def _character() -> str:
    if sys.stdin is None:
        return END
    try:
        while (one := sys.stdin.read(1)).isspace():
            pass
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "the keys on standard input are not UTF-8 text", fix="Give the keys as text: 0, 1, 2 …"
        ) from error
    return one
