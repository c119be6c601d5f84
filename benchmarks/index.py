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
from _index_rows import MIB, Rounds, build_rows, equal_rows, search_rows
from _index_worker import BUILD_THREADS, EF_CONSTRUCT, EXACT_QUERIES, NEEDS, SYSTEMS, M
from _judged import add_data_option, missing
from _made import Made
from _report import OURS, Row, machine, median, parser, report
from _vectors import add_vectors_option, starter

WORKER = Path(__file__).resolve().parent / "_index_worker.py"
SIZES = (100_000, 1_000_000)
EFS = (100, 128, 192, 256, 384, 512, 768, 1_024, 1_536)
KINDS = ("clustered", "real")


def make(kind: str, size: int, root: Path, arguments: argparse.Namespace) -> Made:
    """The passages, made or taken from an earlier run; a size of 0 is all there are."""
    queries = arguments.queries
    if kind == "clustered":
        return _made.clustered(root / f"made-clustered-{size}", size, queries)
    vectors = starter(arguments.vectors_dir)
    sets, most = (("xquad-en",), size) if arguments.quick else (_made.REAL, arguments.most_real)
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
    # passages that were made anew need a new index
    if not done.is_file() or json.loads(done.read_text("utf-8")).get("made") != made.facts:
        shutil.rmtree(folder, ignore_errors=True)
        answer = ask(do="build", system=system, made=made.folder, folder=folder)
        answer["disk"] = sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))
        done.write_text(json.dumps(answer | {"made": made.facts}), encoding="utf-8")
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


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
        "--most-real", type=int, metavar="N", help="real passages at most; all there are (129,000)"
    )
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
