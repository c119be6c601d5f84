"""Where a text may be divided: headings, code fences, blocks and lines; sentences and words.

Lines are read once for the whole text; sentences, clauses and words are looked for only inside the
stretch where a passage is about to end, so the cost is linear and memory small.
Positions are offsets in characters; a boundary is the position where the next unit begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEAD = 240
"""Longer lines are not looked at for marks: no heading, fence or list marker is that long."""

_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_SETEXT = re.compile(r" {0,3}(={2,}|-{3,})[ \t]*")
_FENCE = re.compile(r"[ \t]{0,12}(`{3,}(?=[^`]*$)|~{3,})(.*)")
_DELIMITERS = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
"""The line below a table's head (GitHub Flavored Markdown, section 4.10)."""
_MOST_HEAD = 1000
_ITEM = re.compile(r"[ \t]{0,12}(?:(?:[-*+•]|\d{1,3}[.)])[ \t]+\S|\||>>> )")

# The look-behind lets a match begin only at the first mark of a run: no quadratic retries.
_SENTENCE = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++|(?<![。！？；．])[。！？；．]++[”’」』）】》〉\"']*+\s*+"
)
_CLAUSE = re.compile(r"[,;:]\s++|[，、：][”’」』）】》〉]*+\s*+")
_WORD = re.compile(r"(?<!\s)\s++")
_LAST_WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|\.)*\Z")
_NUMBERED = re.compile(r"(?:\A|\n)[ \t]*\d{1,3}\Z")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


ABBREVIATIONS = _words(
    "al approx ca capt cf co corp dept dr e.g eg est etc gen gov hon i.e ie inc jr lt ltd m.sc "
    "messrs mr mrs ms mt ph.d prof resp rev sen sgt sr st u.k u.s viz vs"
)
# Abbreviations before a number, words elsewhere: "see fig. 3", but "I said no. Then …".
NUMBER_ABBREVIATIONS = _words("art ch eq fig figs no nos nr p pp sec tab vol")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading from `start` to `end`, its underline included; level 1 is the highest."""

    start: int
    end: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table's rows from `start` to `end`, and the row that names their columns."""

    start: int
    end: int
    head: str


@dataclass(slots=True)
class Structure:
    """Boundaries of a text by its lines, each list in rising order.

    blocks: where a paragraph, list, fence or heading begins, unless right below a heading, which
    stays with what it heads. sections: where a heading begins, likewise. items: list items, table
    rows, paragraphs within code. lines: others.
    fences: (start, end) of code. tables: those that have a head.
    """

    headings: list[Heading] = field(default_factory=list)
    fences: list[tuple[int, int]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    sections: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def find_structure(text: str) -> Structure:
    """Read the lines of a text: markdown's ATX and setext headings, fences, lists, paragraphs."""
    found = Structure()
    fence = ""  # the mark that opened the code we are in
    fence_start = 0
    blank = True  # the line before was blank
    glued = False  # only a heading, and blank lines, are before
    above: tuple[int, str, bool] | None = None  # the line before, if it may be a setext heading
    for start, end in _lines(text):
        line = text[start : min(end, start + _HEAD)]
        at = start + len(line) - len(line.lstrip())  # a unit begins after its indentation
        if fence:
            if _closes(line, fence):
                found.fences.append((fence_start, end))
                fence, blank, glued, above = "", True, False, None
            else:
                if line.strip():
                    (found.items if blank else found.lines).append(at)
                blank = not line.strip()
            continue
        if not line.strip() and end - start <= _HEAD:
            blank, above = True, None
            continue
        underline = _SETEXT.fullmatch(line) if above is not None else None
        if underline is not None and above is not None:
            level = 1 if underline.group(1)[0] == "=" else 2
            found.headings.append(Heading(above[0], end, level, above[1]))
            if not above[2]:
                found.sections.append(above[0])
            blank, glued, above = True, True, None
            continue
        heading = _ATX.fullmatch(line) if end - start < _HEAD else None
        opened = _FENCE.fullmatch(line)
        if not glued and (blank or heading or opened):
            found.blocks.append(at)
        elif not glued:
            (found.items if _ITEM.match(line) else found.lines).append(at)
        above = None
        if heading is not None and heading.group(2):
            found.headings.append(Heading(at, end, len(heading.group(1)), heading.group(2)))
            if not glued:
                found.sections.append(at)
            blank, glued = True, True
            continue
        if opened is not None:
            fence, fence_start = opened.group(1), at
        elif (blank or glued) and end - start < _HEAD and _may_be_title(line):
            above = (at, line.strip(), glued)
        blank = glued = False
    if fence:
        found.fences.append((fence_start, len(text)))
    found.tables = list(_tables(text, found.fences)) if "|" in text else []
    return found


def _tables(text: str, fences: list[tuple[int, int]]) -> Iterator[Table]:
    """Tables outside of code: a row, the line of dashes below it, and rows up to a blank line."""
    code = iter(fences)
    skipped = next(code, None)
    head = ""
    rows: tuple[int, int, str] | None = None  # start and end so far, and the head
    for start, end in _lines(text):
        while skipped is not None and skipped[1] <= start:
            skipped = next(code, None)
        in_code = skipped is not None and skipped[0] <= start
        line = "" if in_code or end - start > _MOST_HEAD else text[start:end]
        is_row = "|" in line or (end - start > _MOST_HEAD and rows is not None and not in_code)
        if rows is not None and is_row:
            rows = (rows[0], end, rows[2])
        elif rows is not None:
            yield Table(*rows)
            rows = None
        elif "|" in head and is_row and "-" in line and _DELIMITERS.fullmatch(line):
            rows = (end, end, " ".join(head.strip().strip("|").split()))
        head = line
    if rows is not None:
        yield Table(*rows)


def find_headings(text: str) -> Iterator[Heading]:
    """The headings of a text, in order."""
    yield from find_structure(text).headings


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, end
        start = end + 1


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return mark.startswith(fence) and not mark.strip(fence[0])


def _may_be_title(line: str) -> bool:
    return not line.startswith("    ") and not _ITEM.match(line) and not _SETEXT.fullmatch(line)


# --- inside a line --------------------------------------------------------------------------


def sentence_starts(text: str, start: int, end: int) -> Iterator[int]:
    """Where sentences begin in (start, end], in English, Chinese and what is punctuated alike."""
    for match in _SENTENCE.finditer(text, start, end):
        position = match.end()
        if position < len(text) and not _is_abbreviation(text, match.start(), position):
            yield position


def clause_starts(text: str, start: int, end: int) -> Iterator[int]:
    """Where something begins after a comma, colon or their like, in (start, end]."""
    return (match.end() for match in _CLAUSE.finditer(text, start, end))


def word_starts(text: str, start: int, end: int) -> Iterator[int]:
    """Where a word begins after blank space, in (start, end]."""
    return (match.end() for match in _WORD.finditer(text, start, end))


def _is_abbreviation(text: str, dot: int, following: int) -> bool:
    """Whether the full stop at `dot` ends a word, not a sentence."""
    if text[dot] != "." or text[dot + 1] == ".":
        return False
    if text[following].islower():
        return True
    before = text[max(0, dot - 16) : dot]
    if _NUMBERED.search(before):
        return True  # "1. First": a numbered line
    last = _LAST_WORD.search(before)
    if last is None:
        return False
    word = last.group().lower()
    if len(word) == 1:
        return word != "i"  # initials: "J. Smith"
    if word in NUMBER_ABBREVIATIONS:
        return text[following].isdigit()
    return word in ABBREVIATIONS
