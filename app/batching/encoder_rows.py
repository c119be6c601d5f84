"""What an encoder says of texts, one by one: requests are joined into batches of such rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from app.batching.cache import ByteCache
from app.types import Observer, TextKind
from retrieval.types import Encoder, Encoding, FloatArray, LexicalWeights

ARRAY_BYTES = 112
"""What a numpy array takes beside its numbers."""

ROW_BYTES = 160


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a text; texts that want the same share a call of the model."""

    kind: TextKind
    lexical: bool = False
    token_vectors: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is one vector alone."""
        return not (self.lexical or self.token_vectors)


@dataclass(frozen=True, slots=True)
class Row:
    """What the model says of one text. tokens: -1 where it was not counted."""

    vector: FloatArray
    tokens: int
    truncated: bool
    lexical: LexicalWeights | None = None
    token_vectors: FloatArray | None = None


QueryCache: TypeAlias = ByteCache[Row]


def query_cache(max_bytes: int, observer: Observer | None = None) -> QueryCache:
    """A cache of query vectors; may be shared by several encoders."""
    return ByteCache("queries", max_bytes, _row_bytes, observer=observer)


def rows_of(encoding: Encoding) -> list[Row]:
    """A row for each text."""
    lexical, token_vectors = encoding.lexical, encoding.token_vectors
    return [
        Row(
            vector,
            int(encoding.tokens[index]),
            bool(encoding.truncated[index]),
            None if lexical is None else lexical[index],
            None if token_vectors is None else token_vectors[index],
        )
        for index, vector in enumerate(encoding.vectors)
    ]


def vectors_of(rows: Sequence[Row | None], dimension: int) -> FloatArray:
    """float32 (n, dimension); a copy. No row may be None."""
    vectors = np.empty((len(rows), dimension), dtype=np.float32)
    for index, row in enumerate(rows):
        assert row is not None
        vectors[index] = row.vector
    return vectors


def encoding_of(
    rows: Sequence[Row | None], texts: Sequence[str], wanted: Wanted, encoder: Encoder
) -> Encoding:
    """The rows of `texts` as one; counts tokens where the model did not. Copies everything."""
    tokens = np.empty(len(rows), dtype=np.int64)
    truncated = np.empty(len(rows), dtype=np.bool_)
    lexical, token_vectors = [], []
    for index, row in enumerate(rows):
        assert row is not None
        tokens[index], truncated[index] = row.tokens, row.truncated
        if row.tokens < 0:
            tokens[index] = _count(encoder, texts[index], wanted.kind)
            truncated[index] = tokens[index] > encoder.info.max_length
        # Copies: what a cache keeps must not change with what a caller does.
        if row.lexical is not None:
            lexical.append(_copied(row.lexical))
        if row.token_vectors is not None:
            token_vectors.append(row.token_vectors.copy())
    return Encoding(
        vectors_of(rows, encoder.info.dimension),
        tokens,
        truncated,
        lexical if wanted.lexical else None,
        token_vectors if wanted.token_vectors else None,
    )


def own_row(row: Row) -> Row:
    """A copy that keeps no larger array alive (a row of a batch is a view of it)."""
    vectors = row.token_vectors
    return Row(
        row.vector.copy(),
        row.tokens,
        row.truncated,
        None if row.lexical is None else _copied(row.lexical),
        None if vectors is None else vectors.copy(),
    )


def _copied(weights: LexicalWeights) -> LexicalWeights:
    return LexicalWeights(weights.indices.copy(), weights.values.copy())


def _count(encoder: Encoder, text: str, kind: TextKind) -> int:
    prefix = encoder.info.query_instruction if kind == "query" else encoder.info.passage_instruction
    counter = encoder.token_counter
    return len(counter.token_offsets(prefix + text)) + counter.special_tokens


def _row_bytes(row: Row) -> int:
    arrays = [row.vector]
    size = ROW_BYTES
    if row.lexical is not None:
        size += ARRAY_BYTES + row.lexical.indices.nbytes
        arrays.append(row.lexical.values)
    if row.token_vectors is not None:
        arrays.append(row.token_vectors)
    return size + sum(ARRAY_BYTES + array.nbytes for array in arrays)
