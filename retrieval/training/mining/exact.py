"""Exact search among vectors that lie in a file: blocks of queries against blocks of passages.

Memory is that of one block of each and of the best so far, whatever the number of vectors. Files
are read, not mapped: the pages of a mapped file would count as this process' memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval._files import os_errors
from retrieval.types import FloatArray

BLOCK_BYTES = 32 * 2**20
"""Of the float32 vectors of a block, and of the scores of two blocks."""
_DECIMALS = 6
QUERIES = 1024
"""Queries of a block: the file of passages is read once for each."""


class VectorFile:
    """Vectors of one dimension in a file, written in blocks; a run that was killed goes on.

    A block is written whole or cut off, so that every block is encoded with the same texts as in a
    run that was not killed, and has the same bits.

    Args:
        path: of the file, rows one after the other.
        dimension: of each vector.
        dtype: float16 halves disk and reading; a cosine then is off by some 1e-4.
    """

    def __init__(self, path: Path, dimension: int, dtype: str = "float16") -> None:
        self.path = path
        self.dimension = dimension
        self._dtype = np.dtype(dtype)
        self._row = dimension * self._dtype.itemsize

    def __len__(self) -> int:
        return self.path.stat().st_size // self._row if self.path.exists() else 0

    def fill(
        self,
        total: int,
        encode: Callable[[int, int], FloatArray],
        *,
        block: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write what is missing.

        Args:
            total: vectors in the end.
            encode: rows (start, stop) → float32 (stop - start, dimension).
            block: rows of a call of `encode`.
            progress: called with the vectors that are there, and all.

        Raises:
            DiskFull, StoreDenied, StoreFault: they cannot be written.
        """
        with os_errors(f"write {self.path}"), self.path.open("ab") as file:
            there = len(self)
            if there < total:
                there -= there % block
            file.truncate(there * self._row)
            for start in range(there, total, block):
                rows = encode(start, min(start + block, total))
                file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
                if progress is not None:
                    progress(min(start + block, total), total)

    def rows(self, start: int, stop: int) -> FloatArray:
        """float32 (stop - start, dimension), fewer where the file ends."""
        with os_errors(f"read {self.path}"), self.path.open("rb") as file:
            file.seek(start * self._row)
            raw = file.read((stop - start) * self._row)
        found = np.frombuffer(raw, dtype=self._dtype).reshape(-1, self.dimension)
        return found.astype(np.float32)

    def blocks(self, rows: int) -> Iterator[tuple[int, FloatArray]]:
        """(first row, float32 (at most `rows`, dimension)) from the beginning to the end."""
        with os_errors(f"read {self.path}"), self.path.open("rb") as file:
            start = 0
            while len(raw := file.read(rows * self._row)):
                found = np.frombuffer(raw, dtype=self._dtype).reshape(-1, self.dimension)
                yield start, found.astype(np.float32)
                start += len(found)


def nearest(
    queries: FloatArray, passages: VectorFile, k: int, *, block_bytes: int = BLOCK_BYTES
) -> tuple[NDArray[np.int32], FloatArray]:
    """The k passages with the largest inner products, of each query.

    Args:
        queries: float32 (n, dimension).
        passages: at least one.
        k: of each query; fewer where there are fewer passages.
        block_bytes: of the passages' float32 vectors, and of the scores, that are held at once.

    Returns:
        Rows int32 (n, k) and inner products float32 (n, k); best first, ties by row.
    """
    dimension = queries.shape[1]
    rows = max(1, min(block_bytes // (4 * dimension), block_bytes // (4 * max(len(queries), 1))))
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    at = np.zeros((len(queries), 0), dtype=np.int32)
    for start, block in passages.blocks(rows):
        scores = queries @ block.T
        # the last digits depend on what else is in the blocks: equal texts tie wherever they are
        np.round(scores, _DECIMALS, out=scores)
        keep = min(k, scores.shape[1])
        # of equal ones the first: far below the last digit, the place in the block decides
        keys = scores - np.arange(scores.shape[1]) * 1e-12
        places = np.argpartition(keys, scores.shape[1] - keep, axis=1)[:, -keep:]
        best = np.concatenate([best, np.take_along_axis(scores, places, 1)], axis=1)
        at = np.concatenate([at, (places + start).astype(np.int32)], axis=1)
        order = np.lexsort((at, -best), axis=1)[:, :k]
        best = np.take_along_axis(best, order, 1)
        at = np.take_along_axis(at, order, 1)
    return at, best
