"""bge-m3's three outputs together, and how they score a pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import check_pairs
from retrieval.errors import InvalidInput
from retrieval.models.encoders.bge_m3_heads import multi_vector_score
from retrieval.types import EncoderInfo, FloatArray, LexicalWeights, ProgressCallback, Scores

WORKING_BYTES = 256 * 2**20
"""Multi-vectors that `score` holds at once, whatever the number of pairs."""


@dataclass(frozen=True, slots=True)
class M3Output:
    """What bge-m3 says of n texts; None for what was not asked for.

    dense: float32 (n, dimension), L2-normalised. sparse: n lexical weights. multi_vectors: n
    arrays float32 (tokens - 1, d), rows L2-normalised, the first special token left out. tokens:
    int64 (n,), lengths before truncation, special tokens included. truncated: bool (n,).
    """

    dense: FloatArray | None
    sparse: list[LexicalWeights] | None
    multi_vectors: list[FloatArray] | None
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Outputs:
    """Arrays and lists that batches fill."""

    def __init__(self, n: int, dimension: int, dense: bool, sparse: bool, multi: bool) -> None:
        self.dense = np.empty((n, dimension), dtype=np.float32) if dense else None
        empty = LexicalWeights(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32))
        self.sparse = [empty] * n if sparse else None
        no_vectors: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self.multi_vectors = [no_vectors] * n if multi else None
        self.tokens = np.empty(n, dtype=np.int64)
        self.truncated = np.empty(n, dtype=np.bool_)


Encode: TypeAlias = Callable[[Sequence[str], Literal["query", "passage"]], M3Output]
"""`BGEM3.encode` of all three outputs."""


def score_pairs(
    encode: Encode,
    info: EncoderInfo,
    pairs: Sequence[tuple[str, str]],
    weights: Sequence[float],
    progress: ProgressCallback | None,
) -> Scores:
    """See `BGEM3.score`, which this is."""
    check_pairs(pairs)
    given = np.asarray(weights, dtype=np.float64)
    fine = given.shape == (3,) and bool(np.isfinite(given).all())
    if not fine or (given < 0).any() or not given.any():
        raise InvalidInput(
            f"weights={weights!r} was given, expected three numbers not below 0, of which one "
            "is above 0",
            fix="Give the weights of the dense, the sparse and the multi-vector score.",
        )
    values = np.empty(len(pairs), dtype=np.float64)
    truncated = np.empty(len(pairs), dtype=np.bool_)
    tokens = np.empty(len(pairs), dtype=np.int64)
    for start, stop in _blocks(pairs, info):
        block = pairs[start:stop]
        sides = []
        kinds: tuple[Literal["query", "passage"], ...] = ("query", "passage")
        for side, kind in enumerate(kinds):
            places = {text: i for i, text in enumerate(dict.fromkeys(p[side] for p in block))}
            rows = np.array([places[pair[side]] for pair in block], dtype=np.int64)
            sides.append((encode(list(places), kind), rows))
        (query, of_query), (passage, of_passage) = sides
        values[start:stop] = [
            float(given @ _three_scores(query, q, passage, p)) / float(given.sum())
            for q, p in zip(of_query, of_passage, strict=True)
        ]
        truncated[start:stop] = query.truncated[of_query] | passage.truncated[of_passage]
        tokens[start:stop] = query.tokens[of_query] + passage.tokens[of_passage]
        if progress is not None:
            progress(stop, len(pairs))
    return Scores(values=values, truncated=truncated, tokens=tokens)


def _blocks(pairs: Sequence[tuple[str, str]], info: EncoderInfo) -> Iterator[tuple[int, int]]:
    """Ranges of pairs whose multi-vectors fit into `WORKING_BYTES`."""
    start, used = 0, 0
    for place, pair in enumerate(pairs):
        # A token has a character or more.
        most = sum(min(len(text) + 2, info.max_length) for text in pair)
        needed = 4 * info.dimension * most
        if place > start and used + needed > WORKING_BYTES:
            yield start, place
            start, used = place, 0
        used += needed
    if start < len(pairs):
        yield start, len(pairs)


def _three_scores(query: M3Output, q: int, passage: M3Output, p: int) -> NDArray[np.float64]:
    assert query.dense is not None
    assert query.sparse is not None
    assert query.multi_vectors is not None
    assert passage.dense is not None
    assert passage.sparse is not None
    assert passage.multi_vectors is not None
    return np.array(
        [
            query.dense[q] @ passage.dense[p],
            query.sparse[q].dot(passage.sparse[p]),
            multi_vector_score(query.multi_vectors[q], passage.multi_vectors[p]),
        ],
        dtype=np.float64,
    )
