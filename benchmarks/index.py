"""How fast is the embedded index, how much does it find, and what does it take, beside its peers?

100,000 and 1,000,000 passages of 384 dimensions, clustered ones and real ones (see `_made.py`):
upsert rate, build time, p50 and p95 of dense, sparse, hybrid and filtered search of the best 100,
recall@10 and @100 against exact search, memory and disk; and at equal recall, which is the smallest
width of search (ef) that finds 95% of the true ten, beside hnswlib and faiss with the same links
and width of building. Each system builds in a process of its own, with two threads where it can,
and searches in another, with one; rounds of searching take turns. hnswlib and faiss give ids; ours
gives passages with text and metadata, and is also shown without them (`engine`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _made
import numpy as np
from _index_worker import BUILD_THREADS, EF_CONSTRUCT, EXACT_QUERIES, NEEDS, SYSTEMS, M
from _judged import add_data_option, missing
from _made import Made
from _report import OURS, Row, machine, median, parser, report, spread
from _vectors import add_vectors_option, starter
from numpy.typing import NDArray

WORKER = Path(__file__).resolve().parent / "_index_worker.py"
SIZES = (100_000, 1_000_000)
EFS = (100, 128, 192, 256, 384, 512, 768, 1_024, 1_536)
ENOUGH = 0.95
"""Of the true ten (or hundred) that must be found where systems are compared."""

TOLERANCE = 1e-5
"""In cosines: a neighbour that far from the last true one counts as found."""

MIB = 2**20
KINDS = ("clustered", "real")


def make(kind: str, size: int, root: Path, arguments: argparse.Namespace) -> Made:
    """The passages, made or taken from an earlier run; a size of 0 is all there are."""
    queries = arguments.queries
    if kind == "clustered":
        return _made.clustered(root / f"made-clustered-{size}", size, queries)
    vectors = starter(arguments.vectors_dir)
    sets, most = (("xquad-en",), size) if arguments.quick else (_made.REAL, None)
    return _made.real(root / "made-real", arguments.data, vectors, queries, sets=sets, most=most)


def ask(**order: Any) -> dict[str, Any]:
    """What the worker answers.

    Raises:
        RuntimeError: with the last words of the worker.
    """
    threads = str(BUILD_THREADS if order["do"] == "build" else 1)
    done = subprocess.run(
        [sys.executable, str(WORKER), json.dumps(order, default=str)],
        env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise RuntimeError(f"{order['system']}, {order['do']}: {lines[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def built(system: str, made: Made, folder: Path) -> dict[str, Any]:
    """Build the index, or take the one that lies there finished."""
    done = folder / "built.json"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        answer = ask(do="build", system=system, made=made.folder, folder=folder)
        answer["disk"] = sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))
        done.write_text(json.dumps(answer), encoding="utf-8")
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


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


def measure(
    made: Made, systems: Sequence[str], root: Path, arguments: argparse.Namespace,
    left_out: dict[str, str],
) -> list[Row]:  # fmt: skip
    """All rows of one set of passages."""
    name = f"{made.kind} {made.size:,}"
    rows: list[Row] = []
    rounds: dict[str, Rounds] = {}
    for system in systems:
        print(f"{name}: {system} builds", file=sys.stderr, flush=True)
        try:
            about = built(system, made, _folder(root, made, system))
        except RuntimeError as error:
            if system.startswith(OURS):
                raise
            left_out[f"{system}, {name}"] = str(error)
            continue
        rounds[system] = Rounds(made)
        rows += build_rows(name, system, made.size, about)
    for number in range(arguments.rounds):
        for system, own in rounds.items():
            print(f"{name}: {system} searches, round {number + 1}", file=sys.stderr, flush=True)
            found = root / "found.npz"
            folder = _folder(root, made, system)
            order = {"made": made.folder, "folder": folder, "efs": arguments.efs, "out": found}
            own.add(ask(do="search", system=system, **order), found)
    for system, own in rounds.items():
        rows.append(Row(f"{name}: build", system, "opening", median(own.opened), "s"))
        resident = own.resident["VmRSS"] / MIB
        rows.append(Row(f"{name}: build", system, "resident after searches", resident, "MiB"))
        own_part = own.resident["RssAnon"] / MIB
        rows.append(Row(f"{name}: build", system, "of it not of files", own_part, "MiB"))
    for system, own in rounds.items():
        rows += search_rows(name, system, own)
    return rows + equal_rows(name, rounds)


def _folder(root: Path, made: Made, system: str) -> Path:
    return root / f"{made.kind}-{made.size}" / system.replace(" ", "-")


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


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    add_data_option(result)
    add_vectors_option(result)
    result.add_argument(
        "--sizes", type=int, nargs="+", help="100000 1000000; of clustered passages, 2000 if quick"
    )
    result.add_argument("--vectors", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    result.add_argument(
        "--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), metavar="NAME",
        help=f"of {', '.join(SYSTEMS)}",
    )  # fmt: skip
    result.add_argument("--queries", type=int, help="500, or 40 with --quick")
    result.add_argument("--rounds", type=int, help="of searching; 3, or 1 with --quick")
    result.add_argument("--efs", type=int, nargs="+", default=list(EFS), help="widths of search")
    result.add_argument(
        "--keep", type=Path, metavar="DIR",
        help="keeps what was made and built for the next run; takes some 4 GB a million and system",
    )  # fmt: skip
    return result


def chosen_systems(arguments: argparse.Namespace, left_out: dict[str, str]) -> list[str]:
    """The systems asked for that can run here."""
    chosen = []
    for system in arguments.systems:
        package = NEEDS.get(system)
        if package is not None and importlib.util.find_spec(package) is None:
            left_out[system] = f"{package} is not installed"
        else:
            chosen.append(system)
    return chosen


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    quick = arguments.quick
    sizes = arguments.sizes or ([2_000] if quick else list(SIZES))
    arguments.queries = arguments.queries or (40 if quick else 500)
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    left_out: dict[str, str] = {}
    systems = chosen_systems(arguments, left_out)
    sources = [("clustered", size) for size in sizes if "clustered" in arguments.vectors]
    if "real" in arguments.vectors:
        lacking = missing(arguments.data, ["xquad-en"] if quick else _made.REAL)
        if lacking:
            left_out["real"] = f"the data folder lacks {', '.join(lacking)}"
        else:
            sources.append(("real", min(sizes) if quick else 0))
    if not sources or not systems:
        print(f"nothing to measure: {left_out}")
        return 2
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="index-") as scratch:
        root = arguments.keep or Path(scratch)
        for kind, size in sources:
            made = make(kind, size, root, arguments)
            facts[f"{kind} {made.size:,}"] = made.facts
            rows += measure(made, systems, root, arguments, left_out)
            if arguments.keep is None:  # a million takes gigabytes
                shutil.rmtree(root / f"{made.kind}-{made.size}")
                shutil.rmtree(made.folder)
    report(
        rows,
        file=arguments.json,
        packages=("qdrant-edge-py", "hnswlib", "faiss-cpu"),
        at_start=before,
        notes={
            "graphs": {"M": M, "ef_construct": EF_CONSTRUCT, "threads building": BUILD_THREADS},
            "searches": {
                "best": _made.DEPTH,
                "threads": 1,
                "queries": arguments.queries,
                "queries of exact search": EXACT_QUERIES,
                "rounds": arguments.rounds,
                "ef of ours where none is named": "its own choice",
            },
            "passages": facts,
            "left out": left_out,
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
