"""Passages' token ids, kept so that a passage that was read once is not tokenised again.

In memory only: reading 50 passages of 300 tokens takes the tokeniser 1% of what scoring them takes
a small cross-encoder on a CPU, so that keeping ids with a collection would not be felt.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import whole_number

KEY_BYTES = 16
ENTRY_BYTES = 320
"""What an entry takes beside its ids: the key, the array's and the table's own parts."""

Tokenize = Callable[[Sequence[str]], Iterable[NDArray[np.int32]]]
"""Texts → the bare ids of each, in order."""


class TokenCache:
    """Bare token ids by a hash of the text; what was not used for the longest time is dropped.

    May be used from several threads. Ids that are handed out can only be read.

    Args:
        max_bytes: size of all that is kept; 0 keeps nothing.

    Raises:
        InvalidInput: `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int) -> None:
        whole_number(
            max_bytes,
            "token_cache_bytes",
            least=0,
            fix="Give a size in bytes, or 0 to keep no token ids.",
        )
        self.max_bytes = max_bytes
        self._kept: OrderedDict[bytes, NDArray[np.int32]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that are taken, at most `max_bytes`."""
        return self._bytes

    def ids(self, texts: Sequence[str], tokenize: Tokenize) -> list[NDArray[np.int32]]:
        """The ids of each text, int32; those that are not kept come from `tokenize`.

        Args:
            texts: each of them once.
            tokenize: called with the texts that are not kept, if there are any.
        """
        if not self.max_bytes:
            return list(tokenize(texts))
        keys = [_key(text) for text in texts]
        with self._lock:
            found = [self._kept.get(key) for key in keys]
            for key, ids in zip(keys, found, strict=True):
                if ids is not None:
                    self._kept.move_to_end(key)
        missing = [place for place, ids in enumerate(found) if ids is None]
        if missing:
            # Outside the lock: two threads may read the same text, but none waits for the other.
            made = tokenize([texts[place] for place in missing])
            for place, ids in zip(missing, made, strict=True):
                found[place] = ids
                self._put(keys[place], ids)
        return [ids for ids in found if ids is not None]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _put(self, key: bytes, ids: NDArray[np.int32]) -> None:
        ids.flags.writeable = False
        size = ids.nbytes + ENTRY_BYTES
        if size > self.max_bytes:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = ids
            self._bytes += size
            while self._bytes > self.max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.nbytes + ENTRY_BYTES


def _key(text: str) -> bytes:
    # surrogatepass: lone surrogates are not text, but two different ones are different.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
