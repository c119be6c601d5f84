"""Candidates from plain texts: FlagEmbedding's candidate pool, a BEIR corpus, or the passages of
the examples themselves. Texts and vectors lie in files, and the search is exact."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from retrieval._files import os_errors
from retrieval.errors import CorpusError, InvalidInput
from retrieval.training.mining.candidates import Found, MiningQuery, Text, text_key
from retrieval.training.mining.exact import QUERIES, VectorFile, nearest
from retrieval.training.mining.settings import MiningSettings
from retrieval.types import Encoder, FloatArray

_ENCODED_AT_ONCE = 512
"""Passages of a call of the encoder, which sorts them by length; what a killed run loses."""


class PlainPool:
    """Texts, each once, and the nearest of them to queries by the encoder's vectors.

    Args:
        passages: the texts; of equal ones the first stays.
        folder: for files; those of an earlier run with the same texts and encoder are gone on with.
        encoder: makes the vectors.
        settings: how deep is looked; `dense` is the only source.

    Raises:
        InvalidInput: the settings name another source.
        CorpusError: there is no text.
        DiskFull, StoreDenied, StoreFault: the files cannot be written.
    """

    def __init__(
        self,
        passages: Iterable[Text],
        folder: Path,
        encoder: Encoder,
        settings: MiningSettings,
    ) -> None:
        check_sources(settings)
        self._encoder = encoder
        self._depth = settings.rank_to
        self._texts = _TextFile(passages, folder)
        model = hashlib.sha256(repr(encoder.info).encode()).hexdigest()
        self.fingerprint = f"{self._texts.digest}/{model}"
        name = f"vectors-{self._texts.digest[:12]}-{model[:12]}.f16"
        self._vectors = VectorFile(folder / name, encoder.info.dimension)
        self._met: dict[str, int] = {}  # text → row, of the last batch
        self._block = -1
        self._found = (np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))

    def prepare(
        self, queries: VectorFile, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """See `Candidates`: the vectors of all passages."""
        self._queries = queries
        self._vectors.fill(
            len(self._texts),
            self._encode,
            block=_ENCODED_AT_ONCE,
            progress=None if progress is None else partial(progress, "encoding passages"),
        )

    def find(
        self, queries: Sequence[MiningQuery], first: int
    ) -> list[tuple[MiningQuery, list[Found]]]:
        """See `Candidates`."""
        answers = []
        self._met = {}
        for place, query in enumerate(queries, start=first):
            rows, scores = self._nearest(place)
            found = [
                Found(self._texts.at(row), "dense", rank, score)
                for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
            ]
            self._met.update(zip((one.passage.text for one in found), rows, strict=True))
            answers.append((query, found))
        return answers

    def vectors(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """See `Candidates`: in half precision, a cosine is off by some 1e-4."""
        rows = {text: self._met[text] for text in texts if text in self._met}
        return {text: self._vectors.rows(row, row + 1)[0] for text, row in rows.items()}

    def close(self) -> None:
        """Close its files."""
        self._texts.close()

    def sample(self, most: int) -> Iterator[str]:
        """At most so many of the texts, at equal distances."""
        step = max(1, -(-len(self._texts) // most))
        return (self._texts.at(row).text for row in range(0, len(self._texts), step))

    def _encode(self, start: int, stop: int) -> FloatArray:
        texts = [one.text for one in self._texts.read(start, stop)]
        return self._encoder.encode_passages(texts).vectors

    def _nearest(self, place: int) -> tuple[list[int], list[float]]:
        """Rows and scores for the query at that place; those of its block are kept."""
        block = place // QUERIES
        if block != self._block:
            vectors = self._queries.rows(block * QUERIES, (block + 1) * QUERIES)
            self._found = nearest(vectors, self._vectors, self._depth)
            self._block = block
        at, scores = self._found
        row = place % QUERIES
        return at[row].tolist(), scores[row].tolist()


def check_sources(settings: MiningSettings) -> None:
    """Raise InvalidInput where plain texts are to be searched otherwise than by vectors."""
    if list(settings.shares()) != ["dense"]:
        raise InvalidInput(
            f"sources is {settings.sources!r}, and plain texts are searched by vectors alone",
            fix="Index them (retrieval index) and mine from the collection, or leave sources out.",
        )


class _TextFile:
    """Texts on disk, read by their number; each is there once."""

    def __init__(self, passages: Iterable[Text], folder: Path) -> None:
        self._ends = array("Q", [0])
        known: set[bytes] = set()
        digest = hashlib.sha256()
        fresh = folder / "texts.new"
        with os_errors(f"write {fresh}"), fresh.open("wb") as file:
            for one in passages:
                key = bytes.fromhex(text_key(one.text)[1:])
                if key in known or not one.text.strip():
                    continue
                known.add(key)
                line = json.dumps([one.text, one.id]).encode() + b"\n"
                file.write(line)
                digest.update(line)
                self._ends.append(self._ends[-1] + len(line))
        if not known:
            raise CorpusError(
                "there is no passage to mine from",
                fix='Give a file with a JSON object a line: {"text": "…"}.',
            )
        self.digest = digest.hexdigest()
        # named for what it holds: vectors of other texts can never be taken for its own
        path = folder / f"texts-{self.digest[:12]}.jsonl"
        with os_errors(f"write {path}"):
            fresh.replace(path)
            self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def at(self, row: int) -> Text:
        """The text with that number."""
        self._file.seek(self._ends[row])
        text, id_ = json.loads(self._file.readline())
        return Text(text, id_)

    def read(self, start: int, stop: int) -> list[Text]:
        """Texts one after the other."""
        self._file.seek(self._ends[start])
        return [Text(*json.loads(line)) for line in islice(self._file, stop - start)]
