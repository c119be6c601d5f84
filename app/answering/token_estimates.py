"""Estimates of the tokens of a text, where the language model's tokenizer is not known.

Estimated from above: a run of ASCII letters counts a token for each four letters, every digit and
every other sign one, a run of blanks beyond a single space one, and everything outside ASCII half
a token for each byte of UTF-8 (one and a half for a Chinese character, one for a Cyrillic or
accented letter). What is built to fit by this count fits.
"""

from __future__ import annotations

import re

MESSAGE_TOKENS = 8
"""What a chat template puts around a message, at most."""

_LETTERS = re.compile(r"[A-Za-z]+")
_BLANKS = re.compile(r"[ \t]{2,}|[\r\n]+[ \t]*|\t")
_SINGLES = re.compile(r"[\x21-\x40\x5b-\x60\x7b-\x7e]")
_OTHER = re.compile(r"[^\x00-\x7f]+")


def estimate_tokens(text: str) -> int:
    """Tokens of a text, rather too many than too few; 0 for an empty one."""
    letters = sum((len(run) + 3) // 4 for run in _LETTERS.findall(text))
    blanks = sum(1 + len(run) // 8 for run in _BLANKS.findall(text))
    singles = len(_SINGLES.findall(text))
    others = sum((len(run.encode(errors="replace")) + 1) // 2 for run in _OTHER.findall(text))
    return letters + blanks + singles + others
