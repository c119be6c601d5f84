"""How fast is a collection on a Qdrant server, beside qdrant-client alone and two frameworks?

One collection, made by this library, searched by all: dense (10 and 100 with payload) and hybrid,
over REST and gRPC, by 1 thread and by 8, with the requests of a search and what they cost of a
`read_rate_limit`. Writing (dense vectors, BM25, payload) against `upload_points` of the same
points, ready made; ingesting with an encoder that takes as long as that upload, against encoding
alone; reading all points with vectors against `scroll`.

The server is that of QDRANT_URL (with QDRANT_API_KEY, and QDRANT_GRPC_PORT where it is not 6334).
Without it, the tests' double is asked, in a process of its own: its times are those of Python code,
and only what this library adds to qdrant-client's can be read from such a run. Collections that a
run makes have names of its own, and are deleted at its end.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _made
from _made import Made
from _report import Row, in_turns, machine, median, parser, report
from _server_place import Place, place
from _server_systems import (
    LANGCHAIN,
    RAW,
    Asked,
    Searching,
    client_of,
    counted,
    systems,
)
from _server_writing import Bench, filled, reading_rows, writing_rows

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.errors import RetrievalError

THREADS = 8
SHAPES: dict[str, tuple[str, int]] = {
    "dense 10": ("dense", 10),
    "dense 100": ("dense", 100),
    "hybrid 10": ("hybrid", 10),
    "hybrid 100": ("hybrid", 100),
}
CROWD: dict[str, tuple[str, int]] = {"dense 50": ("dense", 50), "hybrid 10": ("hybrid", 10)}


def searcher(system: Searching, kind: str, limit: int) -> Callable[[int], int]:
    """One search with the query of a number."""
    search = system.dense if kind == "dense" else system.hybrid
    return lambda number: search(number, limit)


def search_rows(
    wire: str, found: dict[str, Searching], queries: int, rounds: int, *, count: bool
) -> list[Row]:
    """Milliseconds of a search by one thread; systems take turns search by search."""
    rows = []
    for shape, (kind, limit) in SHAPES.items():
        case = f"{wire}: {shape}"
        print(case, file=sys.stderr, flush=True)
        own_cpu: dict[str, list[float]] = {name: [] for name in found}
        turns: dict[str, Callable[[], None]] = {}
        for name, system in found.items():
            search = searcher(system, kind, limit)
            if not search(0):
                raise RuntimeError(f"{name}, {case}: nothing was found")
            turns[name] = _turn(search, itertools.cycle(range(queries)), own_cpu[name])
        seconds = in_turns(turns, queries * rounds)
        for name, own in seconds.items():
            quotient = median(own) / median(seconds[RAW])
            rows += [
                Row(case, name, "median", 1e3 * median(own), "ms"),
                Row(case, name, "p95", 1e3 * statistics.quantiles(own, n=20)[-1], "ms"),
                Row(case, name, "of qdrant-client", quotient, "×"),
                Row(case, name, "CPU of this process", 1e3 * median(own_cpu[name]), "ms"),
            ]
            if count:
                with counted() as cost:
                    searcher(found[name], kind, limit)(0)
                rows.append(Row(case, name, "requests", cost.requests, ""))
                rows.append(Row(case, name, "rate limit", cost.tokens, "tokens"))
    return rows


def _turn(
    search: Callable[[int], int], numbers: Iterator[int], own_cpu: list[float]
) -> Callable[[], None]:
    def turn() -> None:
        began = time.process_time()
        search(next(numbers))
        own_cpu.append(time.process_time() - began)

    return turn


def crowd_rows(wire: str, found: dict[str, Searching], queries: int, rounds: int) -> list[Row]:
    """Searches a second by several threads that share a client."""
    rows = []
    for shape, (kind, limit) in CROWD.items():
        case = f"{wire}: {shape}, {THREADS} threads"
        print(case, file=sys.stderr, flush=True)
        with ThreadPoolExecutor(THREADS) as pool:
            turns: dict[str, Callable[[], object]] = {}
            for name, system in found.items():
                search = searcher(system, kind, limit)
                list(pool.map(search, range(min(THREADS, queries))))  # opens connections
                turns[name] = functools.partial(_all, pool, search, queries)
            seconds = in_turns(turns, rounds)
        rates = {name: queries / median(own) for name, own in seconds.items()}
        for name, rate in rates.items():
            rows.append(Row(case, name, "throughput", rate, "searches/s"))
            rows.append(Row(case, name, "of qdrant-client", rate / rates[RAW], "×"))
    return rows


def _all(pool: ThreadPoolExecutor, search: Callable[[int], int], queries: int) -> None:
    list(pool.map(search, range(queries)))


def answers_by_grpc(where: Place) -> str | None:
    """Why not, or None."""
    client = client_of(where, grpc=True)
    try:
        client.get_collections()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said
        return f"no answer at port {where.grpc_port}: {str(error).splitlines()[0]}"
    finally:
        client.close()
    return None


def measure(
    where: Place, made: Made, arguments: argparse.Namespace, left_out: dict[str, str]
) -> list[Row]:
    """All rows, over the wires that answer."""
    vectors, texts = made.queries
    asked = Asked(vectors, [one.tolist() for one in vectors], texts)
    queries, rounds = len(texts), arguments.rounds
    rows: list[Row] = []
    wires = [wire for wire in ("REST", "gRPC") if wire in arguments.wires]
    if "gRPC" in wires and (why := answers_by_grpc(where)):
        left_out["gRPC"] = why
        wires.remove("gRPC")
    with Bench(where) as bench:
        print(f"writing {made.size:,} passages to search", file=sys.stderr, flush=True)
        name, index = filled(bench, made)
        for wire in wires:
            grpc = wire == "gRPC"
            found = systems(where, name, index, asked, grpc=grpc, left_out=left_out)
            try:
                rows += search_rows(wire, found, queries, rounds, count=not grpc)
                rows += crowd_rows(wire, found, queries, rounds)
            finally:
                for system in found.values():
                    system.close()
            rows += reading_rows(bench, wire, index, name, rounds)
            rows += writing_rows(bench, wire, made, index, arguments.writes, rounds)
        index.close()
    return rows


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--size", type=int, help="passages that are searched; 50000, quick 300")
    result.add_argument("--writes", type=int, help="passages that are written; 10240, quick 300")
    result.add_argument("--queries", type=int, help="200, or 8 with --quick")
    result.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    result.add_argument("--wires", nargs="+", choices=("REST", "gRPC"), default=["REST", "gRPC"])
    result.add_argument("--keep", type=Path, metavar="DIR", help="keeps what was made")
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    quick = arguments.quick
    size = arguments.size or (300 if quick else 50_000)
    arguments.writes = min(size, arguments.writes or (300 if quick else 10_240))
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    left_out: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="server-") as scratch, place() as where:
            if where.double:
                print(
                    "QDRANT_URL is not set: the tests' double answers. Read from this run what "
                    "the library adds to qdrant-client's time, not how fast a server is.",
                    file=sys.stderr,
                )
            folder = (arguments.keep or Path(scratch)) / f"made-clustered-{size}"
            made = _made.clustered(folder, size, arguments.queries or (8 if quick else 200))
            rows = measure(where, made, arguments, left_out)
            facts: dict[str, Any] = {
                "server": "the tests' double, in its own process" if where.double else "QDRANT_URL",
                "version": _version(where),
                "passages": size,
                "of 384 dimensions, written": arguments.writes,
                "rounds": arguments.rounds,
                "threads": THREADS,
                "legs of a hybrid search": "100 results; of langchain and llama-index as many as "
                "are asked for",
                "left out": left_out,
            }
    except RetrievalError as error:
        print(error, file=sys.stderr)
        return 1
    for what, why in left_out.items():
        print(f"left out: {what}: {why}", file=sys.stderr)
    packages = ("qdrant-client", LANGCHAIN, "llama-index-vector-stores-qdrant")
    report(rows, file=arguments.json, packages=packages, at_start=before, notes=facts)
    return 0


def _version(where: Place) -> str:
    client = client_of(where, grpc=False)
    try:
        return str(client.info().version)
    finally:
        client.close()


if __name__ == "__main__":
    raise SystemExit(main())
