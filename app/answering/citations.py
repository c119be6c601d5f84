"""Which sources an answer cites: `[1]`, `[1][3]`, `[1, 3]`, `[2-4]`, and `【1】`."""

from __future__ import annotations

import re
from dataclasses import dataclass

# "[ 1 ]" is how a source has numbers in brackets; it is not a citation.
_MARKER = re.compile(r"\[(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\]|【(\d{1,3})(?:†[^】\n]{0,80})?】")
_PART = re.compile(r"(\d{1,3})(?:\s*[–-]\s*(\d{1,3}))?")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cited:
    """marks: the sources an answer cites, in the order it first does, each with where.

    marks: number → (start, end) of each marker in the answer. unknown: numbers that no source has.
    """

    marks: dict[int, tuple[tuple[int, int], ...]]
    unknown: tuple[int, ...]


def cited(answer: str, sources: int) -> Cited:
    """Read the citations of a whole answer; brackets in code are not citations.

    Args:
        answer: as the model wrote it.
        sources: number of sources in the prompt, which count from 1.
    """
    code = [found.span() for found in _CODE.finditer(answer)]
    marks: dict[int, tuple[tuple[int, int], ...]] = {}
    unknown: list[int] = []
    for found in _MARKER.finditer(answer):
        if any(start <= found.start() < end for start, end in code):
            continue
        for n in _numbers(found[1] or found[2]):
            if 1 <= n <= sources:
                marks[n] = (*marks.get(n, ()), found.span())
            elif n not in unknown:
                unknown.append(n)
    return Cited(marks, tuple(unknown))


def without_citations(answer: str) -> str:
    """An earlier answer without its numbers, which are those of other sources."""
    return _MARKER.sub("", answer)


def _numbers(inside: str) -> list[int]:
    numbers: list[int] = []
    for part in _PART.finditer(inside):
        first, last = int(part[1]), int(part[2] or part[1])
        # two numbers that are not a range, such as a phone number, are cited one by one
        numbers += range(first, last + 1) if first <= last <= first + 20 else (first, last)
    return list(dict.fromkeys(numbers))
