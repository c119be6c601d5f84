"""Vectors of texts by the starter, kept in a folder so that a second run does not encode again."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.types import Encoder, FloatArray

FOLDER = Path(tempfile.gettempdir()) / "retrieval-benchmark-vectors"


class Vectors:
    """What an encoder makes of texts. The encoder is loaded when a text is new.

    Args:
        folder: where vectors are kept, float32 (n, dimension) in a file for each list of texts.
        load: makes the encoder.
        name: says which encoder it is; another name never gets this one's vectors.
    """

    def __init__(self, folder: Path, load: Callable[[], Encoder], name: str) -> None:
        self._folder, self._load, self._name = folder, load, name
        self._encoder: Encoder | None = None
        self.encoded = 0

    @property
    def encoder(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    def passages(self, texts: Sequence[str]) -> FloatArray:
        """(n, dimension)"""
        return self._kept("passages", texts, lambda t: self.encoder.encode_passages(t).vectors)

    def queries(self, texts: Sequence[str]) -> FloatArray:
        """(n, dimension), with the encoder's query instruction."""
        return self._kept("queries", texts, lambda t: self.encoder.encode_queries(t))

    def _kept(
        self, kind: str, texts: Sequence[str], encode: Callable[[Sequence[str]], FloatArray]
    ) -> FloatArray:
        key = hashlib.sha256(f"{self._name}\0{kind}".encode())
        for text in texts:
            key.update(f"\0{text}".encode())
        file = self._folder / f"{kind}-{len(texts)}-{key.hexdigest()[:24]}.npy"
        if not file.is_file():
            vectors = encode(texts)
            self.encoded += len(texts)
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(".draft.npy")
            np.save(draft, vectors)
            draft.replace(file)
        found: FloatArray = np.load(file)
        return found


def starter(folder: Path) -> Vectors:
    """The starter's vectors, kept in `folder`."""
    from retrieval.models.load import load_encoder

    # bf16 and fp32 machines differ in the last digits: a folder belongs to one machine
    return Vectors(folder, lambda: load_encoder("all-MiniLM-L6-v2"), "starter")


def add_vectors_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vectors-dir",
        type=Path,
        default=FOLDER,
        help="keeps the vectors of texts for the next run (a temporary folder)",
    )
