"""Re-ranking within a time budget: best candidates first, as deep as fits.

How long a pair takes is learned while scoring, as a rate of characters per second, and kept for
each reranker from call to call. Chunks follow it: few enough that batches stay efficient, and
smaller towards the end so that the budget is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import number
from retrieval.types import ProgressCallback, Reranker, Scores

Pair = tuple[str, str]

FIRST_PAIRS = 2
"""The first chunk on a reranker of unknown speed: enough to measure, not enough to be late."""

SAFE_SHARE = 0.8
"""Where all that is left should take less than this share of the time left, it is one chunk."""

CHUNK_SHARE = 0.6
"""Otherwise a chunk takes this share of the time left: a bad estimate is corrected after it."""

LAST_SHARE = 0.9
LAST_PART = 1 / 8
"""The last eighth of the budget is spent in one chunk: halving it further would cost batches."""

CHARACTERS_PER_TOKEN = 6
"""At most, on the whole: what lies beyond a reranker's longest input is cut and costs nothing."""


def score_within(
    reranker: Reranker,
    groups: Sequence[Sequence[Pair]],
    budget_ms: float,
    *,
    progress: ProgressCallback | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Scores]:
    """Score as many pairs as fit into a time, the best candidates of all queries first.

    The groups take turns by rank: all first candidates, then all second ones, … . The first pair
    of every group is scored whatever it takes. The budget may be overrun by what the last chunk
    takes longer than was estimated; on a reranker that has not been seen yet by the first chunk.

    Args:
        reranker: any; it is called in several chunks.
        groups: one per query, its (query, passage) pairs best candidate first; may be empty.
        budget_ms: milliseconds for all groups together.
        progress: called with pairs done and pairs in all groups; ends early where the budget does.
        clock: seconds, monotonic.

    Returns:
        For each group the scores of the pairs that were read: always its first ones.

    Raises:
        InvalidInput: the budget is not a positive finite number.
    """
    seconds = checked_budget(budget_ms) / 1000.0
    started = clock()
    # The group of each pair of the common order. Its rank is how often it came before.
    turns = list(_turns([len(group) for group in groups]))
    pairs = [groups[group][rank] for group, rank in turns]
    due = sum(1 for group in groups if group)
    rate = _rate_of(reranker)

    parts: list[list[Scores]] = [[] for _ in groups]
    done = 0
    while done < len(pairs):
        left = seconds - (clock() - started)
        size = rate.chunk(pairs[done:], left, budget=seconds, at_least=due if done == 0 else 0)
        if size == 0:
            break
        chunk = pairs[done : done + size]
        before = clock()
        scores = reranker.score(chunk, progress=_shifted(progress, done, len(pairs)))
        rate.learn(chunk, clock() - before, windows=scores.spans is not None)
        of_group = np.array([group for group, _ in turns[done : done + size]], dtype=np.int64)
        for group in np.unique(of_group):
            parts[group].append(_rows(scores, np.flatnonzero(of_group == group)))
        done += size
    return [_joined(own, group) for own, group in zip(parts, groups, strict=True)]


def checked_budget(budget_ms: float) -> float:
    """The budget as it is, if it is one.

    Raises:
        InvalidInput: it is not a positive finite number.
    """
    return number(
        budget_ms,
        "budget_ms",
        above=0,
        expected="a positive number of milliseconds",
        fix="Give budget_ms as 50, 200 …, or leave it out to re-rank all candidates.",
    )


@dataclass(slots=True, weakref_slot=True)
class _ScoringRate:
    """How fast a reranker was lately, and how much of its next pairs fits into a time.

    Characters and seconds are smoothed each for itself, so that large chunks weigh more than
    small ones, whose time is mostly what a call costs.
    """

    limit: int
    characters: float = 0.0
    seconds: float = 0.0
    chunks: int = 0
    windows: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cost(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """Characters of each pair, without those that are cut unread."""
        lengths = np.array([len(query) + len(passage) for query, passage in pairs], np.float64)
        return lengths if self.windows else np.minimum(lengths, self.limit)

    def chunk(self, pairs: Sequence[Pair], left: float, *, budget: float, at_least: int) -> int:
        """How many of the next pairs to score, given the seconds that are left; 0: none."""
        with self.lock:
            unknown = self.chunks == 0
            per_character = self.seconds / self.characters if self.characters else 0.0
        if unknown:
            return min(len(pairs), max(at_least, FIRST_PAIRS))
        if left <= 0:
            return min(len(pairs), at_least)
        needed = np.cumsum(self.cost(pairs)) * per_character
        if needed[-1] <= SAFE_SHARE * left:
            return len(pairs)
        share = CHUNK_SHARE if left > LAST_PART * budget else LAST_SHARE
        fitting = int(np.searchsorted(needed, share * left, side="right"))
        if fitting == 0 and needed[0] <= left:
            fitting = 1
        return max(fitting, at_least)

    def learn(self, pairs: Sequence[Pair], seconds: float, *, windows: bool) -> None:
        """Take a measured chunk into the estimate."""
        with self.lock:
            self.windows = windows
            characters = float(self.cost(pairs).sum())
            # A reranker's first call may load and compile; the second one forgets it.
            kept = 0.5 if self.chunks >= 2 else 0.0
            self.characters = kept * self.characters + max(characters, 1.0)
            self.seconds = kept * self.seconds + max(seconds, 0.0)
            self.chunks += 1


_rates: WeakKeyDictionary[Reranker, _ScoringRate] = WeakKeyDictionary()
_rates_lock = threading.Lock()


def _rate_of(reranker: Reranker) -> _ScoringRate:
    fresh = _ScoringRate(limit=CHARACTERS_PER_TOKEN * reranker.info.max_length)
    try:
        with _rates_lock:
            return _rates.setdefault(reranker, fresh)
    except TypeError:  # it cannot be hashed or referred to weakly: it is measured anew each time
        return fresh


def _turns(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(group, rank) of every pair, by rank and then by group."""
    for rank in range(max(sizes, default=0)):
        for group, size in enumerate(sizes):
            if rank < size:
                yield group, rank


def _shifted(progress: ProgressCallback | None, done: int, total: int) -> ProgressCallback | None:
    if progress is None:
        return None
    return lambda now, _: progress(done + now, total)


def _rows(scores: Scores, rows: NDArray[np.int64]) -> Scores:
    return Scores(
        values=scores.values[rows],
        truncated=scores.truncated[rows],
        tokens=None if scores.tokens is None else scores.tokens[rows],
        spans=None if scores.spans is None else scores.spans[rows],
    )


def _joined(parts: Sequence[Scores], group: Sequence[Pair]) -> Scores:
    """The parts of one group, in order, as one."""
    if not parts:
        return Scores(np.empty(0, dtype=np.float64), np.empty(0, dtype=np.bool_))
    tokens = [part.tokens for part in parts if part.tokens is not None]
    spans: list[NDArray[np.int64]] = []
    if any(part.spans is not None for part in parts):
        start = 0
        for part in parts:
            stop = start + len(part.values)
            # A chunk that needed no windows was read whole.
            whole = [(0, len(passage)) for _, passage in group[start:stop]]
            spans.append(np.array(whole, dtype=np.int64) if part.spans is None else part.spans)
            start = stop
    return Scores(
        values=np.concatenate([part.values for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
        tokens=np.concatenate(tokens) if len(tokens) == len(parts) else None,
        spans=np.concatenate(spans) if spans else None,
    )
