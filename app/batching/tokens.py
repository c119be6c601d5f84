"""What a text costs a model, estimated without its tokenizer, and how fast the model reads.

Tokenizing is what the model does next: doing it twice would cost more than a batch gains by an
exact count. English has about four characters a token, Chinese and Japanese about one; scripts
between them, such as Cyrillic, show in the bytes that UTF-8 needs. An estimate that is wrong for a
language is wrong for all its texts alike, and a model's rate is measured in the same unit. The
model makes its own batches by exact counts.
"""

from __future__ import annotations

LEAST_TOKENS = 4
"""Tokens of any text: special tokens, and what a call costs for even the shortest."""

CHARACTERS_PER_TOKEN = 4

KEPT = 0.9
"""What of the older measurements a rate keeps at each new one: about ten batches count."""

COLD_BATCHES = 2
"""Not measured: a model's first batches may compile it, or fill its caches."""


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


class Rate:
    """Tokens per second of a model: an exponentially weighted mean over its batches.

    Batches count by their tokens and seconds, so that a few full ones outweigh many short ones,
    whose time is mostly what any call costs.

    Args:
        enough: tokens that recent batches must have had together before the rate is trusted.
    """

    def __init__(self, enough: float) -> None:
        self._enough = enough
        self._cold = COLD_BATCHES
        self._tokens = self._seconds = 0.0
        self._seconds_per_token = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """Take a measured batch into the mean; from one thread."""
        if self._cold:
            self._cold -= 1
            return
        self._tokens = KEPT * self._tokens + tokens
        self._seconds = KEPT * self._seconds + seconds
        known = self._tokens >= self._enough
        self._seconds_per_token = self._seconds / self._tokens if known else 0.0

    def seconds(self, tokens: float) -> float:
        """Seconds that this number of tokens will take; 0 while too little was measured. From any
        thread."""
        return tokens * self._seconds_per_token
