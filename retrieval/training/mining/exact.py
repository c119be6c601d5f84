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
"""Of the float64 vectors of a block, and of the scores of two blocks."""
_DECIMALS = 6
_FIRST = 256
"""Rows of the first block, all of which are the best so far."""
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
        """(first row, float32 (at most `rows`, dimension)) from the beginning to the end; the first
        blocks are small, and each is twice as large as the one before."""
        with os_errors(f"read {self.path}"), self.path.open("rb") as file:
            start, size = 0, min(rows, _FIRST)
            while len(raw := file.read(size * self._row)):
                found = np.frombuffer(raw, dtype=self._dtype).reshape(-1, self.dimension)
                yield start, found.astype(np.float32)
                start, size = start + len(found), min(rows, 2 * size)


def nearest(
    queries: FloatArray, passages: VectorFile, k: int, *, block_bytes: int = BLOCK_BYTES
) -> tuple[NDArray[np.int32], FloatArray]:
    """The k passages with the largest inner products, of each query.

    Args:
        queries: float32 (n, dimension).
        passages: at least one.
        k: of each query; fewer where there are fewer passages.
        block_bytes: of the passages' float64 vectors, and of the scores, that are held at once.

    Returns:
        Rows int32 (n, k) and inner products float32 (n, k); best first, ties by row.
    """
    room = block_bytes // 8
    rows = max(1, min(room // queries.shape[1], room // len(queries)))
    wide = queries.astype(np.float64)
    at = np.zeros((len(queries), 0), dtype=np.int32)
    best = np.zeros((len(queries), 0), dtype=np.float32)
    for start, block in passages.blocks(rows):
        # The last digits depend on what else is in the blocks. Those of float64 are far behind
        # the rounding, so that what ties does so wherever it is.
        scores = np.round(wide @ block.T.astype(np.float64), _DECIMALS).astype(np.float32)
        least = best[:, -1:] if best.shape[1] == k else -np.inf
        row, column = np.nonzero(scores >= least)
        at, best = _merged(at, best, row, column + start, scores[row, column], k)
    return at, best


def _merged(
    at: NDArray[np.int32],
    best: FloatArray,
    row: NDArray[np.intp],
    places: NDArray[np.intp],
    scores: FloatArray,
    k: int,
) -> tuple[NDArray[np.int32], FloatArray]:
    """The best k of each row, of those so far and of new ones: of every row as many, or enough."""
    rows = np.concatenate([np.repeat(np.arange(len(at)), at.shape[1]), row])
    all_places = np.concatenate([at.ravel(), places.astype(np.int32)])
    values = np.concatenate([best.ravel(), scores])
    order = np.lexsort((all_places, -values, rows))
    counts = np.bincount(rows, minlength=len(at))
    firsts = np.cumsum(counts) - counts
    kept = order[firsts[:, None] + np.arange(min(k, int(counts.min())))]
    return all_places[kept], values[kept]
