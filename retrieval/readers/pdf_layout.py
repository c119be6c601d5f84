"""Placed lines of a page → paragraphs: which line goes on in the next, and where a break was meant.

A line was wrapped where the next line's first word would not have fitted on it any more; every
other break was meant. So prose becomes paragraphs, while lists, tables, code and verse keep their
lines. Where that is unclear, as for turned text, lines stay lines.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

HYPHEN = "\ufffe"
"""A hyphen at the end of a line: of the word, or only of its division (PDFium's own mark)."""

_CJK = "\u2e80-\u2fdf\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60"
_FIRST_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_WIDE = re.compile(rf"[{_CJK}]")
_ENDS_CJK = re.compile(rf"[{_CJK}]\Z")
_ENDS_SENTENCE = re.compile(r"[.!?…。！？][\"'”’»)\]」』）]*\Z")
_ENDS_HYPHEN = re.compile(r"[^\W\d_][-\u2010]\Z")
_ENDS_RANGE = re.compile(r"\d[-\u2010\u2013]\Z")
_ITEM = re.compile(r"(?:\[[x ]\]|[-–*+•‣◦▪·●○■]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)])[ \t]+\S")

# In heights of a line, or of what is usual on the page.
_SAME_LINE = 0.3
_BLANK = 0.2
_INDENT = 0.8
_GAP = 1.35
_OTHER_SIZE = 1.15
_SPREAD = 1.5


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and its position, in points from the lower left corner of the page.

    `height` is of its font, 0 where it is not known; `word` is the width of its first word.
    """

    text: str
    left: float
    right: float
    bottom: float
    height: float
    word: float


def first_word(text: str) -> str:
    """What cannot be divided at a line's end: a word, or a Chinese or Japanese character."""
    found = _FIRST_WORD.match(text)
    return found.group() if found else text[:1]


def paragraphs(lines: Sequence[Line]) -> str:
    """The text of a page: paragraphs with a blank line between, other lines below each other."""
    if not lines:
        return ""
    page = _Page(lines)
    out = [lines[0].text]
    for number, (before, line) in enumerate(pairwise(lines)):
        joint = page.joint(number, before, line)
        if joint == HYPHEN and not before.text.endswith(HYPHEN):
            out[-1] = out[-1][:-1]  # the mark takes the hyphen's place
        out += ["" if joint == HYPHEN and before.text.endswith(HYPHEN) else joint, line.text]
    return "".join(out)


class _Page:
    """What is usual on a page: the distance of lines, the width of letters, right margins."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        falls = [a.bottom - b.bottom for a, b in pairwise(lines) if _follows(a, b)]
        self._pitch = median(falls) if falls else 0.0
        self._letter = median(_letter_width(line) for line in lines)
        self._margins = self._right_margins()

    def joint(self, number: int, before: Line, line: Line) -> str:
        """What is between a line, the page's `number`-th, and the next."""
        height = min(before.height, line.height)
        if before.text.endswith(HYPHEN):
            return HYPHEN
        if height <= 0:
            return "\n"
        beside = line.left >= before.right - _BLANK * height
        if beside and abs(before.bottom - line.bottom) < _SAME_LINE * height:
            return " "
        if self._is_apart(before, line):
            # A sentence that goes on in the next column.
            goes_on = before.bottom < line.bottom and line.text[0].islower()
            return " " if goes_on and not _ENDS_SENTENCE.search(before.text) else "\n\n"
        if _ITEM.match(line.text):
            return "\n"
        ended = _ENDS_SENTENCE.search(before.text) is not None
        if not self._was_wrapped(number, before, line):
            return "\n\n" if ended else "\n"
        if ended and line.left - before.left > _INDENT * height:
            return "\n\n"
        if _ENDS_HYPHEN.search(before.text) and line.text[0].islower():
            return HYPHEN
        if _ENDS_RANGE.search(before.text) and line.text[0].isdigit():
            return ""
        both = _ENDS_CJK.search(before.text) and _WIDE.match(line.text)
        return "" if both else " "

    def _is_apart(self, before: Line, line: Line) -> bool:
        fall = before.bottom - line.bottom
        sizes = sorted((before.height, line.height))
        return fall < 0 or fall > _GAP * self._pitch or sizes[1] > _OTHER_SIZE * sizes[0]

    def _was_wrapped(self, number: int, before: Line, line: Line) -> bool:
        # Letters far apart: the cells of a table's row.
        if max(_letter_width(before), _letter_width(line)) > _SPREAD * self._letter:
            return False
        return before.right + _BLANK * before.height + line.word > self._margins[number]

    def _right_margins(self) -> list[float]:
        """For each line how far right the lines of its column reach."""
        margins: list[float] = []
        run: list[Line] = []
        for number, line in enumerate(self._lines):
            run.append(line)
            following = self._lines[number + 1 : number + 2]
            if not following or not _follows(line, following[0]):
                margins += _margins_within(run)
                run = []
        return margins


def _margins_within(run: Sequence[Line]) -> list[float]:
    """For each line how far right those reach that begin at its left end or further left.

    So indented lines are measured by the column, and columns not by a centred title above them.
    """
    ordered = sorted(run, key=lambda line: line.left)
    lefts = [line.left for line in ordered]
    reached = list(accumulate((line.right for line in ordered), max))
    return [reached[bisect_right(lefts, line.left + line.height) - 1] for line in run]


def _follows(before: Line, line: Line) -> bool:
    """Whether a line is below another in the same column, without a picture between them."""
    fall = before.bottom - line.bottom
    height = min(before.height, line.height)
    overlaps = line.left < before.right and before.left < line.right
    return _SAME_LINE * height <= fall < 4 * height and overlaps


def _letter_width(line: Line) -> float:
    # Chinese and Japanese characters are twice as wide as Latin ones.
    wide = 0 if line.text.isascii() else len(_WIDE.findall(line.text))
    return (line.right - line.left) / (len(line.text) + wide)
