"""What a text costs a model, estimated without its tokeniser.

Tokenising is what the model does next: doing it twice would cost more than a batch gains by an
exact count. English has about four characters a token, Chinese and Japanese about one; what lies
between, such as Cyrillic, is told by the bytes that UTF-8 needs. An estimate that is wrong for a
language is wrong for all its texts alike, and the rate that waiting times are computed from is
measured in the same unit. The model makes its own batches by exact counts.
"""

from __future__ import annotations

LEAST_TOKENS = 4
"""Of any text: special tokens, and what a call costs for even the shortest."""

CHARACTERS_PER_TOKEN = 4


def text_tokens(text: str, max_length: int) -> int:
    """About how many tokens a text has, from 4 to `max_length`."""
    if text.isascii():
        tokens = len(text) / CHARACTERS_PER_TOKEN
    else:
        head = text[: CHARACTERS_PER_TOKEN * max_length]
        # A Chinese character has three bytes, a Cyrillic one two, an ASCII one one.
        wide = (len(head.encode("utf-8", "surrogatepass")) - len(head)) / 2
        tokens = len(head) / CHARACTERS_PER_TOKEN + wide * (1 - 1 / CHARACTERS_PER_TOKEN)
    return max(LEAST_TOKENS, min(round(tokens), max_length))


def pair_tokens(query: str, passage: str, max_length: int) -> int:
    """About how many tokens a pair has, from 4 to `max_length`."""
    return min(
        text_tokens(query, max_length) + text_tokens(passage, max_length),
        max(LEAST_TOKENS, max_length),
    )
