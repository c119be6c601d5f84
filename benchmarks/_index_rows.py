"""What the rounds of `index.py` gave, as recall and rows of its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _made
import numpy as np
from _made import Made
from _report import OURS, Row, median, spread
from numpy.typing import NDArray

ENOUGH = 0.95
"""Of the true ten (or hundred) that must be found where systems are compared."""

TOLERANCE = 1e-5
"""In cosines: a neighbour that far from the last true one counts as found."""

MIB = 2**20


def recalls(made: Made, case: str, positions: NDArray[np.int64]) -> tuple[float, float]:
    """How many of the true ten and hundred were found, by their cosines."""
    share = next((share for share in _made.SHARES if f"{share} allowed" in case), None)
    true = made.exact(share)[: len(positions)]
    queries = made.queries[0][: len(positions)]
    vectors = made.vectors
    hits: dict[int, list[float]] = {10: [], _made.DEPTH: []}
    for number, row in enumerate(positions):
        found = row[row >= 0]
        cosines = vectors[np.sort(found)] @ queries[number]
        for depth, shares in hits.items():
            there = int((true[number] > -1.0)[:depth].sum())
            if not there:  # the filter lets nothing through
                shares.append(1.0)
                continue
            least = true[number, there - 1] - TOLERANCE
            shares.append(min(int((cosines >= least).sum()), there) / there)
    return float(np.mean(hits[10])), float(np.mean(hits[_made.DEPTH]))


class Rounds:
    """What a system's rounds of searching gave: cases in their order, each with all its times."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self.opened: list[float] = []
        self.resident: dict[str, int] = {}
        self.p50: dict[tuple[str, int | None], list[float]] = {}
        self.p95: dict[tuple[str, int | None], list[float]] = {}
        self.engine: dict[tuple[str, int | None], list[float]] = {}
        self.recall: dict[tuple[str, int | None], tuple[float, float]] = {}

    def add(self, answer: dict[str, Any], found: Path) -> None:
        self.opened.append(answer["open"])
        self.resident = answer["resident"]
        with np.load(found) as positions:
            for number, case in enumerate(answer["cases"]):
                key = (case["case"], case["ef"])
                for all_, at in ((self.p50, 50), (self.p95, 95)):
                    all_.setdefault(key, []).append(
                        1000 * float(np.percentile(case["seconds"], at))
                    )
                if case["engine"]:
                    middle = 1000 * float(np.median(case["engine"]))
                    self.engine.setdefault(key, []).append(middle)
                if case["case"].startswith("dense") and key not in self.recall:
                    self.recall[key] = recalls(self._made, case["case"], positions[str(number)])

    def smallest(self, which: int) -> tuple[str, int | None] | None:
        """The case of the smallest ef with enough recall@10 (0) or @100 (1)."""
        swept = [key for key in self.recall if key[0] == "dense" and key[1] is not None]
        enough = [key for key in swept if self.recall[key][which] >= ENOUGH]
        return min(enough, key=lambda key: key[1] or 0, default=None)


def build_rows(name: str, system: str, size: int, about: dict[str, Any]) -> list[Row]:
    seconds = about["seconds"]
    case = f"{name}: build"
    rows = []
    if "upsert" in seconds:
        rows.append(Row(case, system, "upsert", size / seconds["upsert"], "passages/s"))
    rows.append(Row(case, system, "graph", seconds["optimize"], "s"))
    rows.append(Row(case, system, "in all", sum(seconds.values()), "s"))
    rows.append(Row(case, system, "peak memory", about["peak"] / MIB, "MiB"))
    rows.append(Row(case, system, "disk", about["disk"] / MIB, "MiB"))
    rows.append(Row(case, system, "disk each", about["disk"] / size, "bytes/passage"))
    return rows


def search_rows(name: str, system: str, own: Rounds) -> list[Row]:
    """p50 and p95 of each case, its recall, and the engine's part."""
    rows = []
    for key, times in own.p50.items():
        case, ef = key
        where = f"{name}: search, {case}" + ("" if ef is None else f", ef {ef}")
        rows.append(Row(where, system, "p50", median(times), "ms"))
        rows.append(Row(where, system, "p95", median(own.p95[key]), "ms"))
        if key in own.engine:
            rows.append(Row(where, system, "p50, engine", median(own.engine[key]), "ms"))
        if key in own.recall:
            for depth, value in zip((10, _made.DEPTH), own.recall[key], strict=True):
                rows.append(Row(where, system, f"recall@{depth}", round(value, 4), ""))
        rows.append(Row(where, system, "spread", 100 * spread(times), "%"))
    plain = ("dense", None)
    if ("hybrid", None) in own.p50:
        ratio = median(own.p50["hybrid", None]) / median(own.p50[plain])
        rows.append(Row(f"{name}: hybrid against dense", system, "p50", ratio, "×"))
    return rows


def equal_rows(name: str, rounds: dict[str, Rounds]) -> list[Row]:
    """p50 at the smallest ef that finds enough, and how many times ours a peer needs."""
    rows = []
    for which, depth in enumerate((10, _made.DEPTH)):
        case = f"{name}: recall@{depth} of at least {ENOUGH}, best {_made.DEPTH}"
        chosen = {system: own.smallest(which) for system, own in rounds.items()}
        p50 = {s: median(rounds[s].p50[key]) for s, key in chosen.items() if key is not None}
        for system, key in chosen.items():
            own = rounds[system]
            if key is None:
                continue
            rows.append(Row(case, system, "ef", key[1] or 0, ""))
            rows.append(Row(case, system, f"recall@{depth}", round(own.recall[key][which], 4), ""))
            rows.append(Row(case, system, "p50", p50[system], "ms"))
            if key in own.engine:
                rows.append(Row(case, system, "p50, engine", median(own.engine[key]), "ms"))
            for base in (base for base in p50 if base.startswith(OURS)):
                if not system.startswith(OURS):
                    ratio = p50[system] / p50[base]
                    rows.append(Row(case, system, f"p50 against {base}", ratio, "×"))
                    engine = median(rounds[base].engine[chosen[base]])  # type: ignore[index]
                    rows.append(
                        Row(case, system, f"against {base}, engine", p50[system] / engine, "×")
                    )
    return rows
