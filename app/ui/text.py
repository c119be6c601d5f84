"""Text for the page: escaping, times, snippets and highlighted query terms. Pure functions."""

from __future__ import annotations

import re
from html import escape as _escape

SNIPPET_CHARACTERS = 300

_WORD = re.compile(r"\w+", re.UNICODE)
# Chinese, Japanese and Korean scripts are written without blanks between words.
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MAX_TERMS = 64

# Words that are in almost every question and would colour whole passages.
_STOP_TEXT = (
    "a about an and any are as at be by can could do does for from get has have how i if in into "
    "is it its me my no not of on or should so some something than that the their them then "
    "there these this to use using want was what when where which who why will with without "
    "would you your"
)
_STOP_WORDS = frozenset(_STOP_TEXT.split())


def escape(text: object) -> str:
    """Text as HTML that shows it literally, in element content and in quoted attributes.

    `@` is escaped as well: the HTML component replaces a literal `@children` in its content.
    """
    return _escape(str(text), quote=True).replace("@", "&#64;")


def duration(ms: float) -> str:
    """A time for people: in seconds from ten of them on."""
    if ms >= 10_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def query_terms(query: str) -> frozenset[str]:
    """The words of a query worth highlighting, casefolded; of Chinese text, character pairs."""
    terms: set[str] = set()
    for match in _WORD.finditer(query[:2000].casefold()):
        word = match.group()
        if _CJK.search(word):
            terms.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) > 1 and word not in _STOP_WORDS:
            terms.add(_stem(word))
        if len(terms) >= _MAX_TERMS:
            break
    return frozenset(terms)


def spans(text: str, terms: frozenset[str]) -> list[tuple[int, int]]:
    """Where `terms` occur in `text`: (start, end) in characters, in order, not overlapping."""
    if not terms:
        return []
    found: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        word = match.group()
        if _CJK.search(word):
            found += _pairs(word, match.start(), terms)
        elif _stem(word.casefold()) in terms:
            found.append(match.span())
        elif "_" in word:
            # identifiers: `copy_tree` holds the query's word `copy`
            offset = match.start()
            for part in word.split("_"):
                if part and _stem(part.casefold()) in terms:
                    found.append((offset, offset + len(part)))
                offset += len(part) + 1
    return found


def highlight(text: str, terms: frozenset[str], best: tuple[int, int] | None = None) -> str:
    """Escaped text with the terms in `<mark>`.

    Args:
        text: what to show, not yet escaped.
        terms: from `query_terms`.
        best: a part, offsets in `text`, that is set off for the eye and announced for the ear.
    """
    if best is not None:
        start, end = best
        return (
            f"{highlight(text[:start], terms)}"
            '<span class="tsr-best"><span class="tsr-sr">[best part begins] </span>'
            f"{highlight(text[start:end], terms)}"
            '<span class="tsr-sr"> [best part ends]</span></span>'
            f"{highlight(text[end:], terms)}"
        )
    pieces: list[str] = []
    at = 0
    for start, end in spans(text, terms):
        pieces += [escape(text[at:start]), "<mark>", escape(text[start:end]), "</mark>"]
        at = end
    pieces.append(escape(text[at:]))
    return "".join(pieces)


def snippet(text: str, terms: frozenset[str], *, length: int = SNIPPET_CHARACTERS) -> str:
    """About `length` characters of `text` with the most different terms; "…" marks a cut.

    White space is folded to single blanks. Nothing is escaped yet.
    """
    folded = " ".join(text.split())
    if len(folded) <= length:
        return folded
    start = _densest(folded, terms, length)
    end = min(len(folded), start + length)
    if start:
        # begin at a word, or the cut looks like damage
        blank = folded.find(" ", start, start + 24)
        start = blank + 1 if blank != -1 else start
    if end < len(folded):
        blank = folded.rfind(" ", max(start, end - 24), end)
        end = blank if blank != -1 else end
    return ("… " if start else "") + folded[start:end] + (" …" if end < len(folded) else "")


def _densest(text: str, terms: frozenset[str], length: int) -> int:
    places = spans(text, terms)
    best_start, best_score = 0, 0
    for index, (first, _) in enumerate(places):
        start = max(0, first - 40)
        inside = set()
        for begin, end in places[index:]:
            if end > start + length:
                break
            inside.add(text[begin:end].casefold())
        if len(inside) > best_score:
            best_start, best_score = start, len(inside)
    # Passages mostly say what they are about at their beginning: leave it only for more terms.
    head = {text[b:e].casefold() for b, e in places if e <= length}
    return best_start if best_score > len(head) else 0


def _stem(word: str) -> str:
    """Light English stemming, for colouring only: copy, copies, copied, copying → cop."""
    for suffix in ("ing", "ied", "ies", "ed", "es", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] in "ey":
        word = word[:-1]
    # run, running; fill, filling
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _pairs(word: str, offset: int, terms: frozenset[str]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    folded = word.casefold()
    for i in range(len(word)):
        size = 2 if folded[i : i + 2] in terms else 1 if folded[i] in terms else 0
        if not size:
            continue
        start, end = offset + i, min(offset + i + size, offset + len(word))
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
