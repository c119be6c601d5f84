"""Many texts by slices, each tokenised while the one before it is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from retrieval.models.tokenization.tokenizer import Tokenized, cuts

FIRST = 1024
"""Texts in the first slice: few, so that the device starts early."""

SLICE = 16_384
"""Texts in a slice at most: bounds memory, whatever their number."""

SLICE_CHARS = 2**24
"""Characters in a slice at most: bounds memory, whatever the texts' length."""

_PIECE = 512
_PIECE_CHARS = 2**20
"""Texts tokenised between two looks at whether it is still wanted."""

Encode = Callable[[Sequence[str]], Tokenized]


def tokenized_slices(
    encode: Encode, texts: Sequence[str]
) -> Generator[tuple[int, Tokenized], None, None]:
    """Slices of `texts` in order, longer ones as it goes on, as `(place of the first, tokenised)`.

    While the caller works on a slice, a thread tokenises the next one, and no more than that one.
    A single slice's worth of texts is tokenised here, without a thread. To be closed by a caller
    that does not read to the end; whatever `encode` raises is raised.
    """
    bounds = list(_bounds([len(text) for text in texts]))
    ahead: _Ahead | None = None
    try:
        for place, (start, stop) in enumerate(bounds):
            tokenized = encode(texts[start:stop]) if ahead is None else ahead.result()
            ahead = None
            if place + 1 < len(bounds):
                ahead = _Ahead(encode, texts[slice(*bounds[place + 1])])
            yield start, tokenized
    finally:
        if ahead is not None:
            ahead.stop()


def _bounds(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start, most = 0, FIRST
    while start < len(sizes):
        chars = SLICE_CHARS * most // SLICE
        _, stop = next(cuts(sizes[start : start + most], most, chars))
        yield start, start + stop
        start, most = start + stop, min(4 * most, SLICE)


class _Ahead:
    """A slice that a separate thread tokenises."""

    def __init__(self, encode: Encode, texts: Sequence[str]) -> None:
        self._parts: list[Tokenized] = []
        self._error: BaseException | None = None
        self._wanted = True
        self._thread = threading.Thread(
            target=self._run, args=(encode, texts), name="tokeniser", daemon=True
        )
        self._thread.start()

    def result(self) -> Tokenized:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return _joined(self._parts)

    def stop(self) -> None:
        """End it, at the next piece of texts."""
        self._wanted = False
        self._thread.join()

    def _run(self, encode: Encode, texts: Sequence[str]) -> None:
        try:
            for start, stop in cuts([len(text) for text in texts], _PIECE, _PIECE_CHARS):
                if not self._wanted:
                    return
                self._parts.append(encode(texts[start:stop]))
        except BaseException as error:  # noqa: BLE001  (raised again by `result`)
            self._error = error


def _joined(parts: list[Tokenized]) -> Tokenized:
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    types = [part.type_ids for part in parts if part.type_ids is not None]
    return Tokenized(
        ids=np.concatenate([part.ids for part in parts]),
        offsets=offsets,
        # All parts come from one tokeniser and template: all have type ids, or none has.
        type_ids=np.concatenate(types) if types else None,
        full_lengths=np.concatenate([part.full_lengths for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
    )
