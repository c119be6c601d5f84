"""Cutting a text to a number of its tokens, as text: for prompts that are tokenised as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer


@dataclass(frozen=True, slots=True)
class CutText:
    """The beginning of a text, and how many tokens of it are missing; 0 where it is whole."""

    text: str
    missing: int


def cut_text(backend: BackendTokenizer, text: str, most: int) -> CutText:
    """As much of a text from its start as its first `most` tokens cover.

    Args:
        backend: the tokeniser, without truncation.
        text: without lone surrogates.
        most: tokens to keep.
    """
    if len(text.encode()) <= most:  # a token has at least one byte
        return CutText(text, 0)
    encoding = backend.encode(text, add_special_tokens=False)
    if len(encoding.ids) <= most:
        return CutText(text, 0)
    return CutText(text[: encoding.offsets[most - 1][1]], len(encoding.ids) - most)
