"""Passages' token ids, kept so that a passage that was read once is not tokenised again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval._files import atomic_write, os_errors
from retrieval._validate import whole_number
from retrieval.errors import InvalidInput, StoreFault

KEY_BYTES = 16
ENTRY_BYTES = 320
"""What an entry takes beside its ids: the key, the array's and the table's own parts."""

FORMAT = 1

Tokenize = Callable[[Sequence[str]], Iterable[NDArray[np.int32]]]
"""Texts → the bare ids of each, in order."""


class TokenCache:
    """Bare token ids by a hash of the text; what was not used for the longest time is dropped.

    May be used from several threads. Ids that are handed out can only be read.

    Args:
        max_bytes: size of all that is kept; 0 keeps nothing.
        fingerprint: gives the fingerprint of the tokeniser whose ids these are; called only to
            save or load.

    Raises:
        InvalidInput: `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int, fingerprint: Callable[[], str]) -> None:
        whole_number(
            max_bytes,
            "token_cache_bytes",
            least=0,
            fix="Give a size in bytes, or 0 to keep no token ids.",
        )
        self.max_bytes = max_bytes
        self._fingerprint = fingerprint
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that is kept to a file, which appears complete or not at all.

        Raises:
            StoreDenied, DiskFull, StoreFault: the file cannot be written; one that was there
                stays as it was.
        """
        path = Path(path)
        with self._lock:
            entries = list(self._kept.items())  # least recently used first, as they are read back
        offsets = np.zeros(len(entries) + 1, dtype=np.int64)
        np.cumsum([len(ids) for _, ids in entries], out=offsets[1:])
        arrays: dict[str, NDArray[np.generic]] = {
            "format": np.asarray([FORMAT], dtype=np.int64),
            "fingerprint": np.frombuffer(self._fingerprint().encode(), dtype=np.uint8),
            "keys": np.frombuffer(b"".join(key for key, _ in entries), dtype=np.uint8),
            "offsets": offsets,
            "ids": np.concatenate([np.zeros(0, dtype=np.int32), *(ids for _, ids in entries)]),
        }
        with os_errors(f"write the token ids to {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

    def load(self, path: str | os.PathLike[str]) -> int:
        """Add what a file holds, the most recently used first to stay; how many texts it holds.

        Raises:
            InvalidInput: there is no such file, or another tokeniser's ids are in it.
            StoreDenied: no permission.
            StoreFault: the file is damaged, or of another format; nothing is taken from it.
        """
        path = Path(path)
        fingerprint, keys, offsets, ids = _read(path)
        own = self._fingerprint()
        if fingerprint != own:
            raise InvalidInput(
                f"the token ids in {path} were made by the tokeniser {fingerprint[:23]}…, but "
                f"this model's is {own[:23]}…",
                fix="Load the file with the model it was made with, or delete it and save again.",
            )
        count = len(offsets) - 1
        for place in range(count):
            key = keys[place * KEY_BYTES : (place + 1) * KEY_BYTES]
            # A copy: a view would keep the whole file in memory for one text that stays.
            self._put(key, ids[offsets[place] : offsets[place + 1]].copy())
        return count

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


def _read(path: Path) -> tuple[str, bytes, NDArray[np.int64], NDArray[np.int32]]:
    if not path.is_file():
        raise InvalidInput(
            f"there is no file of token ids at {path}",
            fix="Give a file that TokenCache.save wrote, or go on without one.",
        )
    with os_errors(f"read the token ids from {path}"):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                names = ("format", "fingerprint", "keys", "offsets", "ids")
                form, fingerprint, keys, offsets, ids = (stored[name] for name in names)
        except OSError:
            raise
        except Exception as error:  # whatever numpy and zipfile raise on damaged files
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if form.tolist() != [FORMAT]:
        raise _damaged(path, f"it has the format {form.tolist()}, expected [{FORMAT}]")
    types = (fingerprint.dtype, keys.dtype, offsets.dtype, ids.dtype)
    if types != (np.uint8, np.uint8, np.int64, np.int32) or len(offsets) < 1:
        raise _damaged(path, "its arrays have other types than they were written with")
    count = len(offsets) - 1
    if (
        len(keys) != count * KEY_BYTES
        or offsets[0] != 0
        or offsets[-1] != len(ids)
        or bool((np.diff(offsets) < 0).any())
        or bool((ids < 0).any())
    ):
        raise _damaged(path, "its arrays do not fit each other")
    return fingerprint.tobytes().decode("utf-8", "replace"), keys.tobytes(), offsets, ids


def _damaged(path: Path, why: str) -> StoreFault:
    return StoreFault(
        f"the token ids in {path} cannot be read ({why})",
        fix="Delete the file and save it again: it only saves the tokeniser work.",
    )
