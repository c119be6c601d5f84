"""Texts that say nearly the same in nearly the same words, without comparing each with each.

A text becomes the set of its shingles (Broder, On the resemblance and containment of documents,
1997), and two texts are near duplicates where the Jaccard index of their sets is high. Which pairs
can reach a threshold at all follows from their rarest shingles (prefix filtering: Bayardo et al.,
Scaling Up All Pairs Similarity Search, WWW 2007), so that the others are never looked at and none
is missed.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from retrieval._validate import number, whole_number

PASSAGE_WORDS = 3
"""Words in a shingle of passages."""
QUERY_WORDS = 1
"""Words in a shingle of queries: of six words, one that differs spoils half of the pairs."""

# Scripts that put no blanks between words: Han, kana, Thai, Lao, Khmer, Burmese.
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_ASCII_WORD = re.compile("[a-z0-9]+")


def normalised(text: str) -> str:
    """A text as it is compared: NFKC, letter case set aside, words joined by single blanks.

    Punctuation goes; a text that has nothing else stays as it is.

    Example:
        >>> from retrieval.training.near_duplicates import normalised
        >>> normalised("What’s a ＢＭ25 score?")
        'what s a bm25 score'
    """
    if text.isascii():  # the same, several times as fast
        folded, words = text.lower(), _ASCII_WORD
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        words = _words()
    return " ".join(words.findall(folded)) or " ".join(folded.split())


def shingles(text: str, words: int = PASSAGE_WORDS) -> frozenset[int]:
    """Hashes of the word n-grams of a text; of scripts without blanks, of character n-grams.

    Args:
        text: any text; it is compared as `normalised` writes it.
        words: n. Chinese, Japanese, Thai, Lao, Khmer and Burmese have n + 1 characters in its
            place, since their words are longer than one. What is shorter is one shingle.

    Returns:
        32-bit hashes, the same in every process; empty for a blank text.

    Example:
        >>> from retrieval.training.near_duplicates import shingles
        >>> len(shingles("The gate closes at ten.")), len(shingles("图书馆几点关门", words=1))
        (3, 6)
    """
    known = normalised(text)
    found: set[str] = set()
    for run in _RUN.findall(known):
        found.update(_grams(run, words + 1, ""))
    spaced = _RUN.sub(" ", known).split()
    if spaced:
        found.update(_grams(spaced, words, " "))
    return frozenset(zlib.crc32(gram.encode("utf-8", "replace")) for gram in found)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """The share of shingles that two texts have in common, of all that either has; 0 to 1.

    A text without shingles has nothing in common with any.

    Example:
        >>> from retrieval.training.near_duplicates import jaccard
        >>> jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 4}))
        0.5
    """
    if not one or not other:
        return 0.0
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class NearDuplicates:
    """Texts among which the near duplicates of others are looked for.

    Memory is that of the shingles of `texts`; what is looked for may be a stream.

    Args:
        texts: of the index.
        threshold: the least Jaccard index of near duplicates, above 0 up to 1.
        words: of a shingle, see `shingles`.

    Raises:
        InvalidInput: a threshold or a number of words out of bounds.

    Example:
        >>> from retrieval.training.near_duplicates import NearDuplicates
        >>> known = NearDuplicates(["When does the gate close?", "Who pays?"], 0.8, words=1)
        >>> known.of("when does the gate close, please")
        [(0, 0.8333333333333334)]
    """

    def __init__(
        self, texts: Iterable[str], threshold: float, *, words: int = PASSAGE_WORDS
    ) -> None:
        self._threshold = number(
            threshold,
            "threshold",
            above=0.0,
            most=1.0,
            expected="a number above 0, up to 1",
            fix="Give 0.8, for example.",
        )
        self._words = whole_number(words, "words")
        self._sets = [shingles(text, words) for text in texts]
        self._frequency = Counter(one for own in self._sets for one in own)
        self._by_shingle: defaultdict[int, list[int]] = defaultdict(list)
        for position, own in enumerate(self._sets):
            for one in self._rarest(own):
                self._by_shingle[one].append(position)

    def of(self, text: str) -> list[tuple[int, float]]:
        """Positions of the near duplicates of a text and their Jaccard indices, by position."""
        own = shingles(text, self._words)
        rarest = self._rarest(own)
        positions = {at for one in rarest for at in self._by_shingle.get(one, ())}
        near = ((position, jaccard(own, self._sets[position])) for position in sorted(positions))
        return [(position, share) for position, share in near if share >= self._threshold]

    def _rarest(self, own: frozenset[int]) -> list[int]:
        """So many that sets which share enough share one of these, in one order for all sets."""
        # Rounding may make the bound too high by one: a little more is looked at, none is missed.
        least = math.ceil(self._threshold * len(own) - 1e-9)
        order = sorted(own, key=lambda one: (self._frequency.get(one, 0), one))
        return order[: len(own) - least + 1]


def _grams(parts: Sequence[str], size: int, joint: str) -> Iterator[str]:
    if len(parts) <= size:
        yield joint.join(parts)
    for start in range(len(parts) - size + 1):
        yield joint.join(parts[start : start + size])


@functools.cache
def _words() -> re.Pattern[str]:
    """Letters and digits with their marks: Python's own `\\w` ends a Hindi word at its vowels."""
    above_ascii = map(chr, range(0x300, 0x10000))
    marks = "".join(one for one in above_ascii if unicodedata.category(one).startswith("M"))
    return re.compile(f"(?:[^\\W_]|[{marks}])+")
