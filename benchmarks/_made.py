"""Passages for measuring an index: vectors, short texts, metadata and queries, on disk by blocks.

clustered: drawn from a mixture, with made words, see `_mixture.py`.

real: the passages of judged sets, cut to 64 tokens, with the starter's vectors; their queries.

Metadata are three keywords, `tenth`, `hundredth`, `thousandth`, of which a filter on one value lets
10%, 1% and 0.1% through, whatever the vector.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _mixture import DIMENSION, Mixture, asked_words, zipf_texts
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.evaluation.beir import load_beir
from retrieval.splitting.splitter import Splitter, passage_id
from retrieval.types import FloatArray, Passage

BLOCK = 20_000
SHARES = {"tenth": 10, "hundredth": 100, "thousandth": 1_000}
DEPTH = 100
"""How many exact neighbours are known of each query."""

REAL = ("scifact", "msmarco-dl20-pool", "cranfield", "cisi", "cacm", "npl", "pubmedqa",
        "musique-train100", "xquad-en")  # fmt: skip
REAL_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Made:
    """What was made in a folder. Vectors are float32, L2-normalised, and read as needed."""

    folder: Path
    kind: str
    size: int
    facts: dict[str, Any]

    @property
    def vectors(self) -> FloatArray:
        """(size, dimension), mapped from the disk."""
        found: FloatArray = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return found

    @property
    def queries(self) -> tuple[FloatArray, list[str]]:
        """Vectors (queries, dimension) and texts."""
        texts = json.loads((self.folder / "queries.json").read_text(encoding="utf-8"))
        return np.load(self.folder / "queries.npy"), texts

    def exact(self, share: str | None = None) -> FloatArray:
        """Cosines (queries, depth) of the true neighbours, best first, -1 where there are none.

        Args:
            share: among the passages that `where(share)` lets through; None: among all.
        """
        found: FloatArray = np.load(self.folder / f"exact-{share or 'all'}.npy")
        return found

    def blocks(self) -> Iterator[tuple[list[Passage], FloatArray]]:
        """All passages with their vectors, a block at a time."""
        vectors = self.vectors
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            texts = self._texts(start, stop)
            yield _passages(texts, start), np.asarray(vectors[start:stop])

    def _texts(self, start: int, stop: int) -> list[str]:
        if self.kind == "clustered":
            return zipf_texts(start // BLOCK, stop - start)
        with (self.folder / "texts.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for number, line in enumerate(file) if start <= number < stop]


def where(share: str) -> dict[str, str]:
    """A filter that lets 1 / SHARES[share] of the passages through."""
    return {share: "v3"}


def _metadata(number: int) -> dict[str, str]:
    # multiplied by an odd number: neighbours in the order of writing have different values
    mixed = number * 2_654_435_761 % 2**32 * 1_000 >> 32
    return {name: f"v{mixed % count}" for name, count in SHARES.items()}


def allowed(share: str, start: int, stop: int) -> NDArray[np.bool_]:
    """Which of these passages `where(share)` lets through, (stop - start,)."""
    value = where(share)[share]
    return np.array([_metadata(number)[share] == value for number in range(start, stop)])


def _passages(texts: Sequence[str], start: int) -> list[Passage]:
    return [
        Passage(
            passage_id(str(number), 0), str(number), 0, text, 0, len(text),
            metadata=_metadata(number), source=f"{number}.txt", document_hash="0" * 64,
        )
        for number, text in enumerate(texts, start)
    ]  # fmt: skip


# --- making ---------------------------------------------------------------------------------


def clustered(folder: Path, size: int, queries: int) -> Made:
    """Make `size` clustered vectors and that many queries, or take those that are there."""
    facts = {"size": size, "queries": queries, "kind": "clustered", "version": 2}
    if not _is_made(folder, facts):
        mixture = Mixture()
        with _Writer(folder, size) as out:
            for block, start in enumerate(range(0, size, BLOCK)):
                out.vectors[start : start + BLOCK] = mixture.draw(block, min(BLOCK, size - start))
        asked = mixture.draw(2**31, queries)
        _finish(folder, "clustered", size, asked, asked_words(min(size, BLOCK), queries), facts)
    return read(folder)


def real(
    folder: Path, data: Path, encode: Any, queries: int, *, sets: Sequence[str] = REAL,
    most: int | None = None,
) -> Made:  # fmt: skip
    """Passages and queries of judged sets, as many as there are, or those that lie there.

    Args:
        encode: `_vectors.Vectors`.
        most: passages at most, for --quick.
    """
    facts = {"queries": queries, "kind": "real", "sets": list(sets), "most": most, "version": 1}
    if not _is_made(folder, facts):
        texts, asked = _read_sets(data, encode, sets, most)
        chosen = np.random.default_rng(0).permutation(len(asked))[:queries]
        words = [asked[int(number)] for number in chosen]
        with _Writer(folder, len(texts)) as out:
            out.vectors[:] = encode.passages(texts)
        with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        _finish(folder, "real", len(texts), encode.queries(words), words, facts)
    return read(folder)


def _read_sets(
    data: Path, encode: Any, sets: Sequence[str], most: int | None
) -> tuple[list[str], list[str]]:
    splitter = Splitter(encode.encoder.token_counter, max_tokens=REAL_TOKENS, overlap_tokens=0)
    texts: dict[str, None] = {}
    asked: dict[str, None] = {}
    for name in sets:
        beir = load_beir(data / name)
        asked.update(dict.fromkeys(beir.queries.values()))
        for document in beir.documents() or ():
            if most is not None and len(texts) >= most:
                break
            if document.text.strip():
                texts.update(dict.fromkeys(one.content for one in splitter.split(document)))
    # sets in turn would be written one after the other, which no corpus is
    order = np.random.default_rng(1).permutation(len(texts))
    every = list(texts)
    return [every[int(number)] for number in order], list(asked)


class _Writer:
    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "made.json").unlink(missing_ok=True)
        self.vectors = np.lib.format.open_memmap(
            folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(size, DIMENSION)
        )

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.vectors.flush()


def _finish(
    folder: Path, kind: str, size: int, vectors: FloatArray, words: list[str], facts: dict[str, Any]
) -> None:
    np.save(folder / "queries.npy", vectors.astype(np.float32))
    (folder / "queries.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    made = Made(folder, kind, size, facts)
    for share in (None, *SHARES):
        np.save(folder / f"exact-{share or 'all'}.npy", neighbours(made, share))
    nearest = made.exact()
    known = {
        "made by": facts,
        "mean cosine of the 1st and 100th neighbour": [
            round(float(nearest[:, place].mean()), 3) for place in (0, DEPTH - 1)
        ],
        "local dimension": round(local_dimension(nearest), 1),
    }
    # last: without it the folder counts as unfinished
    found = {"kind": kind, "size": size, "facts": known}
    (folder / "made.json").write_text(json.dumps(found), encoding="utf-8")


def _is_made(folder: Path, facts: dict[str, Any]) -> bool:
    file = folder / "made.json"
    if not file.is_file():
        return False
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return bool(found["facts"]["made by"] == facts)


def read(folder: Path) -> Made:
    """What was made in this folder."""
    found = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    return Made(folder, found["kind"], found["size"], found["facts"])


def neighbours(made: Made, share: str | None) -> FloatArray:
    """The cosines of the true neighbours, see `Made.exact`; memory is that of a block."""
    queries, _ = made.queries
    best = np.full((len(queries), DEPTH), -1.0, dtype=np.float32)
    vectors = made.vectors
    for start in range(0, made.size, BLOCK):
        stop = min(start + BLOCK, made.size)
        rows = np.asarray(vectors[start:stop])
        if share is not None:
            rows = rows[allowed(share, start, stop)]
        joined = np.concatenate([best, queries @ rows.T], axis=1)
        best = -np.partition(-joined, DEPTH - 1, axis=1)[:, :DEPTH]
    return -np.sort(-best, axis=1)


def local_dimension(cosines: FloatArray) -> float:
    """How fast the number of neighbours grows with distance, by maximum likelihood.

    Args:
        cosines: (queries, depth) of true neighbours, best first.
    """
    distances = np.sqrt(np.maximum(2.0 - 2.0 * cosines.astype(np.float64), 1e-9))
    ratios = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    return float(1.0 / ratios.mean())
