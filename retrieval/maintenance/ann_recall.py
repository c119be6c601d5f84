"""What the approximate index misses: its results against those of an exact scan.

recall@k = share of the exact top k that the approximate top k holds, averaged over queries (as in
Aumüller, Bernhardsson and Faithfull, "ANN-Benchmarks", 2020).
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval._validate import is_whole_number
from retrieval.errors import InvalidInput
from retrieval.types import FloatArray, Index, IndexQuery

DEFAULT_DEPTHS = (10, 100)
DEFAULT_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class RecallReport:
    """recall: depth k → mean recall@k. worst: the same of the worst query. Times are medians."""

    collection: str
    queries: int
    passages: int
    recall: dict[int, float]
    worst: dict[int, float]
    approximate_ms: float
    exact_ms: float
    own_vectors: bool


def measure_recall(
    index: Index,
    vectors: FloatArray | None = None,
    *,
    depths: Sequence[int] = DEFAULT_DEPTHS,
    sample: int = DEFAULT_SAMPLE,
    seed: int = 0,
    tenant: str | None = None,
) -> RecallReport:
    """Search the dense vectors of an index twice, by its approximate index and exactly.

    Args:
        index: an open collection.
        vectors: float32 (n, dimension) of real queries; None takes vectors of stored passages,
            which are closer to the others than queries are, so that recall looks a little too good.
        depths: the k of recall@k.
        sample: how many stored passages serve as queries.
        tenant: the owner of the passages, where the collection has tenants.

    Raises:
        InvalidInput: nothing to search, or a depth below 1.
    """
    if not depths or not all(is_whole_number(k, 1) for k in depths):
        raise InvalidInput(
            f"the depths are {list(depths)!r}, expected whole numbers of at least 1",
            fix="Give, for example, 10 and 100.",
        )
    own = vectors is None
    queries = _stored(index, sample, seed, tenant) if vectors is None else vectors
    if not len(queries):
        raise InvalidInput(
            f"the collection {index.collection!r} is empty, so there is nothing to measure",
            fix="Index something first: retrieval index PATH.",
        )
    deepest = max(depths)
    recalls: dict[int, list[float]] = {k: [] for k in depths}
    times: dict[bool, list[float]] = {False: [], True: []}
    for vector in np.ascontiguousarray(queries, dtype=np.float32):
        found: dict[bool, list[tuple[str, float]]] = {}
        for exact in (False, True):
            started = time.perf_counter()
            (candidates,) = index.search_batch(
                [IndexQuery(vector=vector)], mode="dense", limit=deepest, exact=exact,
                tenant=tenant,
            )  # fmt: skip
            times[exact].append((time.perf_counter() - started) * 1000.0)
            found[exact] = [(one.passage.id, one.score) for one in candidates]
        for k in depths:
            recalls[k].append(_recall(found[False][:k], found[True][:k]))
    return RecallReport(
        collection=index.collection,
        queries=len(queries),
        passages=index.count(tenant=tenant),
        recall={k: statistics.fmean(values) for k, values in recalls.items()},
        worst={k: min(values) for k, values in recalls.items()},
        approximate_ms=statistics.median(times[False]),
        exact_ms=statistics.median(times[True]),
        own_vectors=own,
    )


def parse_depths(text: str) -> list[int]:
    """Depths that were written as `10,100`.

    Raises:
        InvalidInput: the text is not a list of whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(
            f"the depths are {text!r}, expected whole numbers joined by commas",
            fix="Give, for example, 10,100.",
        ) from None


def _recall(found: list[tuple[str, float]], exact: list[tuple[str, float]]) -> float:
    """A passage that is as near as the last of the exact list counts, whichever id it has."""
    if not exact:
        return 1.0
    least = exact[-1][1]
    ids = {key for key, _ in exact}
    return min(1.0, sum(key in ids or score >= least for key, score in found) / len(exact))


def _stored(index: Index, sample: int, seed: int, tenant: str | None) -> FloatArray:
    """Vectors of passages drawn evenly from the whole collection, without holding all ids."""
    chosen: list[str] = []
    draw = random.Random(seed)
    for number, passage in enumerate(index.passages(tenant=tenant)):
        if len(chosen) < sample:
            chosen.append(passage.id)
        elif (place := draw.randrange(number + 1)) < sample:  # Vitter's algorithm R, 1985
            chosen[place] = passage.id
    vectors = index.vectors(chosen, tenant=tenant)
    rows = [vectors[key] for key in chosen if key in vectors]
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)
