"""Exact search in blocks finds what one product finds; a file that is half written goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.training.mining.exact import VectorFile, nearest
from retrieval.types import FloatArray


def vectors(rows: int, dimension: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


def written(path: Path, rows: FloatArray, dtype: str = "float32") -> VectorFile:
    file = VectorFile(path, rows.shape[1], dtype)
    file.fill(len(rows), lambda start, stop: rows[start:stop], block=7)
    return file


@pytest.mark.parametrize("block_bytes", [1, 200, 1000, 32 * 2**20])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_blocks_find_what_one_product_finds(tmp_path: Path, block_bytes: int, k: int) -> None:
    passages, queries = vectors(43, 6), vectors(9, 6, seed=1)
    file = written(tmp_path / "v", passages)
    at, scores = nearest(queries, file, k, block_bytes=block_bytes)
    whole = queries @ passages.T
    expected = np.argsort(-whole, axis=1, kind="stable")[:, :k]
    assert np.array_equal(at, expected)
    assert np.allclose(scores, np.take_along_axis(whole, expected, 1), atol=1e-5)


def test_equal_vectors_come_by_row(tmp_path: Path) -> None:
    rows = np.tile(vectors(1, 4), (12, 1))
    for k in (3, 12):
        at, _ = nearest(rows[:1], written(tmp_path / "v", rows), k, block_bytes=64)
        assert at.tolist() == [list(range(k))]


def test_a_half_written_block_is_written_again_and_whole_ones_are_not(tmp_path: Path) -> None:
    rows = vectors(20, 4)
    path = tmp_path / "v"
    whole = written(path, rows).path.read_bytes()
    # one block of 7, some rows of the next, and half a row
    path.write_bytes(whole[: 4 * 4 * 10 + 5])
    asked: list[tuple[int, int]] = []

    def encode(start: int, stop: int) -> FloatArray:
        asked.append((start, stop))
        return rows[start:stop]

    VectorFile(path, 4, "float32").fill(20, encode, block=7)
    assert asked == [(7, 14), (14, 20)]
    assert path.read_bytes() == whole
    asked.clear()
    VectorFile(path, 4, "float32").fill(20, encode, block=7)
    assert asked == []


def test_float16_halves_the_file_and_keeps_the_order(tmp_path: Path) -> None:
    passages, queries = vectors(300, 32), vectors(5, 32, seed=1)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    half = written(tmp_path / "half", passages, "float16")
    assert half.path.stat().st_size == 300 * 32 * 2
    at, _ = nearest(queries, half, 3)
    assert np.array_equal(at, np.argsort(-(queries @ passages.T), axis=1)[:, :3])
