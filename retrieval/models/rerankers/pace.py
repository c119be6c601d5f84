"""How many tokens a cross-encoder reads in a second on this CPU, measured once.

On a CPU a search takes as long as its second stage, and that differs a hundredfold between models
and machines. So that a search with default options answers soon everywhere, how much it reads
follows a measured rate. The rate is kept in the cache folder: equal searches read equally much.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

from retrieval.models import cache_dir as cache
from retrieval.models.engines.hardware import cpu_cores
from retrieval.types import Reranker

SECONDS = 0.43
"""For the second stage of a search that says nothing of how much it reads: with the first stage,
and what reading takes beside the model, half a second."""

PAIRS = 8
ROUNDS = 2
"""The faster one counts: what else a machine does at the moment says nothing of the model."""

_QUERY = "how long does it take until the costs of a journey are paid back?"
_WORDS = (
    *("river", "stone", "letter", "office", "winter", "garden", "number", "people", "water"),
    *("window", "paper", "market", "music", "answer", "train", "doctor", "yellow", "island"),
    *("school", "simple", "history", "animal", "engine", "silver", "travel"),
)
_LENGTH = 60
"""Words of a probe's passage: with the query about as many tokens as an excerpt's pair."""

_FILE = "tokens-per-second"


def tokens_per_second(
    reranker: Reranker,
    running: str,
    *,
    threads: int | None,
    cache_dir: Path | None,
    alone: bool = True,
    clock: Callable[[], float] | None = None,
) -> float:
    """Tokens that a reranker reads in a second, in pairs with excerpts; measured now or before.

    Args:
        reranker: measured by scoring a few pairs, in a second or so.
        running: its engine, number format and device, in words.
        threads: that it was given; None for all cores.
        cache_dir: where rates are kept; None keeps none.
        alone: whether it computes in this process alone.
        clock: seconds, monotonic; None for the time that the processor spent on this process,
            shared by its threads: what else a machine does when a model is first opened must not
            decide for weeks how much searches read.
    """
    cores = threads or cpu_cores()
    if clock is None:
        clock = (lambda: time.process_time() / cores) if alone else time.perf_counter
    entry = None
    if cache_dir is not None:
        machine = (platform.machine(), processor(), cores)
        key = cache.entry_key((), "pace", 3, reranker.info.fingerprint, running, machine)
        entry = cache_dir / f"pace-{key}"
    kept = _read(entry)
    if kept is not None:
        return kept
    rate = _measured(reranker, clock)
    cache.keep(entry, lambda folder: _write(folder, rate), size=64)
    return rate


def _measured(reranker: Reranker, clock: Callable[[], float]) -> float:
    reranker.score([(_QUERY, "a first call may compile")] * 2)
    best = 0.0
    for turn in range(ROUNDS):
        # Other texts every time: token ids of the same ones may be kept.
        pairs = [(_QUERY, _text(turn * PAIRS + place)) for place in range(PAIRS)]
        started = clock()
        tokens = reranker.score(pairs).tokens
        seconds = max(clock() - started, 1e-6)
        best = max(best, float(PAIRS * _LENGTH if tokens is None else tokens.sum()) / seconds)
    return best


def _text(number: int) -> str:
    words = [_WORDS[(number * 7 + place * (number + 3)) % len(_WORDS)] for place in range(_LENGTH)]
    return f"{number} {' '.join(words)}"


def processor() -> str:
    """The CPU's name; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _read(entry: Path | None) -> float | None:
    found = cache.find(entry)
    if found is None:
        return None
    try:
        rate = float((found / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return rate if 0 < rate < float("inf") else None


def _write(folder: Path, rate: float) -> None:
    (folder / _FILE).write_text(repr(rate), "utf-8")
