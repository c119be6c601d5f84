"""What a tokeniser loses or takes apart, and people ask for by its very letters: numbers, versions,
dates, part numbers, addresses, paths, C++, .NET, #tags.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_LETTERS = "A-Za-z0-9_\u00c0-\u024f"
_LONGEST = 100
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")  # e.g, i.e, u.s.a
# Letters and digits, with signs between them; before them one of a tag, a framework or a mention.
_NAME = re.compile(
    rf"(?<![{_LETTERS}])(?:[#@.]|--)?[{_LETTERS}]+(?:[-.,:/\\+#@~&'=]+[{_LETTERS}]+)*(?:\+\+|\#)?"
)
_LIKELY = re.compile(r"[\d#@+\\_=/:]|\.\w|--\w")
_OTHER_DIGITS = re.compile(r"(?![0-9])\d")
_DIGITS = re.compile(r"\d+")
_VERSION = re.compile(r"\d+(?:[.:/-]\d+)+")
_GLUED = re.compile(r"([^\W\d_]+)(\d+)")  # ISO9001
_LEAST_GLUED = 3  # letters or digits, so that p53 stays one word
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
# Signs that no sentence has between or before its words.
_SIGNED = re.compile(r"[#@+\\_]|^--|^\.|\w\.\w|\w/\w|\w:\w|#$|\w=\w")
_WORDS_OF_TEXT = re.compile(r"[^\W\d_]+(?:[-,:'&~/]+[^\W\d_]+)*")


def normalised(text: str) -> str:
    """A text in which what looks alike is alike: composed accents, full width, ligatures (NFKC),
    digits of every script."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)
    return _OTHER_DIGITS.sub(lambda found: str(unicodedata.decimal(found.group())), text)


def exact_words(text: str, *, numbers: bool) -> list[str]:
    """The words of a normalised text that are asked for by their very letters, in lower case.

    Args:
        numbers: also plain numbers, which the multilingual tokeniser drops.

    Example:
        >>> exact_words("C++ 17 on 10.0.0.17, see ISO-9001.", numbers=False)
        ['c++', '10.0.0.17', 'iso-9001']
        >>> exact_words("端口8080", numbers=True)
        ['8080']
    """
    return list(_words(text, numbers))


def _words(text: str, numbers: bool) -> Iterator[str]:
    # most of a text has neither digits nor signs, and costs nothing so
    likely = " ".join(part for part in text.split() if _LIKELY.search(part))
    for found in _NAME.finditer(likely):
        word = found.group().lower()
        if len(word) > _LONGEST or word.isalpha() or _ABBREVIATION.fullmatch(word):
            continue
        digits = _DIGITS.findall(word)
        yield from _parts(word, digits, numbers)
        if word.isdigit():
            continue
        yield from (one for one in _VERSION.findall(word) if one != word)
        if _THOUSANDS.fullmatch(word):
            yield word.replace(",", "")
        elif digits or (_SIGNED.search(word) and not _WORDS_OF_TEXT.fullmatch(word)):
            yield word


def _parts(word: str, digits: list[str], numbers: bool) -> Iterator[str]:
    """Numbers that a tokeniser has not: all of them, or those right beside letters, with these."""
    glued = _GLUED.fullmatch(word)
    if numbers:
        yield from digits
    elif glued and len(glued.group(2)) >= _LEAST_GLUED:
        yield glued.group(2)
    if glued and len(glued.group(1)) >= _LEAST_GLUED:
        yield glued.group(1)
