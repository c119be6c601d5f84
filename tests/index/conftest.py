"""Manifests, passages and vectors to fill a store with."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retrieval.index.bm25 import bm25_info
from retrieval.types import EncoderInfo, Manifest, Passage, SplitterInfo


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Manifest]:
    def make(collection: str = "docs", dimension: int = 8, **changes: Any) -> Manifest:
        encoder = EncoderInfo("bge-test", "sha256:1", dimension, "cls", True, "q: ", "", 512)
        fields: dict[str, Any] = {
            "collection": collection,
            "encoder": encoder,
            "splitter": SplitterInfo(200, 20),
            "bm25": bm25_info("en"),
            **changes,
        }
        return Manifest(**fields)

    return make


@pytest.fixture(scope="session")
def passages() -> Callable[..., list[Passage]]:
    """Factory: `passages(n, start=0, text="…", **fields)`, documents d<start>, d<start+1> …"""

    def make(count: int, start: int = 0, text: str = "a cat", **fields: Any) -> list[Passage]:
        return [
            Passage(
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"d{i}#0")),
                document_id=f"d{i}",
                position=0,
                text=text,
                start=0,
                end=len(text),
                document_hash="sha256:a",
                **fields,
            )
            for i in range(start, start + count)
        ]

    return make


@pytest.fixture(scope="session")
def vectors() -> Callable[..., np.ndarray[Any, np.dtype[np.float32]]]:
    """Factory: `vectors(n, dimension=8, seed=0)`, normalised and random."""

    def make(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray[Any, Any]:
        rows = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make
