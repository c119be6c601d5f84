"""Collections to look after."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from retrieval.index.bm25 import bm25_info
from retrieval.index.collection import CollectionIndex
from retrieval.splitting.splitter import passage_id
from retrieval.types import (
    EncoderInfo,
    LexicalWeights,
    Manifest,
    Passage,
    SplitterInfo,
)

DIMENSION = 16


def make_manifest(name: str = "docs", **changes: Any) -> Manifest:
    info = EncoderInfo("test", "sha256:test", DIMENSION, "cls", True, "", "", 64)
    return Manifest(name, info, SplitterInfo(64, 0), bm25_info("en"), **changes)


def passage(document: str, position: int, of: int, text: str) -> Passage:
    return Passage(
        id=passage_id(document, position),
        document_id=document,
        position=position,
        text=text,
        start=position * 10,
        end=position * 10 + len(text),
        metadata={"parity": "even" if position % 2 == 0 else "odd", "deep": {"x": 0.1 + 0.2}},
        source=f"/{document}.txt",
        document_hash=hashlib.sha256(document.encode()).hexdigest(),
        document_passages=of,
    )


def fill(index: CollectionIndex, count: int, *, tenant: str | None = None, seed: int = 0) -> None:
    """`count` passages, two a document, with all that the layout asks for."""
    rng = np.random.default_rng(seed + len(tenant or ""))
    layout = index.manifest.layout
    passages = [
        passage(f"d{n // 2}", n % 2, 2 if n // 2 < count // 2 else 1, f"a cat number {n % 37}")
        for n in range(count)
    ]
    rows = rng.standard_normal((count, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lexical = None
    if layout.lexical:
        lexical = [
            LexicalWeights(
                np.array([n, n + 5], dtype=np.int32), np.array([0.5, 1.25], dtype=np.float32)
            )
            for n in range(count)
        ]
    tokens = None
    if layout.token_dimension is not None:
        tokens = []
        for n in range(count):
            one = rng.standard_normal((2 + n % 3, layout.token_dimension)).astype(np.float32)
            tokens.append(one / np.linalg.norm(one, axis=1, keepdims=True))
    for start in range(0, count, 500):
        part = slice(start, start + 500)
        index.upsert(
            passages[part],
            rows[part],
            lexical=None if lexical is None else lexical[part],
            token_vectors=None if tokens is None else tokens[part],
            tenant=tenant,
        )
