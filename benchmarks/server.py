"""What does this library add to a Qdrant server, beside the client alone and two frameworks?

Dense and hybrid searches by one thread and by eight, writes, and reading points with their vectors,
over REST and gRPC, of one collection that this library makes and removes again. Systems take turns.
Set QDRANT_URL (and QDRANT_API_KEY, QDRANT_GRPC_PORT) to the server to measure at. Without it a
double of a server answers, in a process of its own: it compares every vector in Python, so that
only the processor time of this process (`own`) means anything then.
`requests` and `tokens` (of a server's read_rate_limit) of a search are counted at the double.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import _made
from _made import Made
from _report import OURS, Row, in_turns, machine, median, parser, report
from _server_systems import SYSTEMS, Query, Server, System, named, queries

from retrieval.index.bm25 import Bm25Terms, bm25_info
from retrieval.index.server.index import ServerIndex, delete_collection
from retrieval.types import EncoderInfo, Manifest, SplitterInfo

TESTS = Path(__file__).resolve().parent.parent / "tests"
PAGE, UPSERTS = 256, 64
PEERS = {"langchain-qdrant": "langchain_qdrant", "llama-index": "llama_index.vector_stores.qdrant"}

_DOUBLE = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from doubles.qdrant_grpc import qdrant_server
with qdrant_server() as server:
    print(server.url, server.grpc_port, flush=True)
    sys.stdin.read()
"""


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--passages", type=int, help="50,000; at the double 2,000, 500 if quick")
    result.add_argument("--queries", type=int, help="a turn; 200, at the double 40, 10 if quick")
    result.add_argument("--rounds", type=int, help="turns of each system; 5, or 1 with --quick")
    result.add_argument(
        "--protocols", nargs="+", choices=("REST", "gRPC"), default=["REST", "gRPC"]
    )
    return result


@contextlib.contextmanager
def server_at() -> Iterator[tuple[str, int, bool]]:
    """The URL and gRPC port of the server, and whether it is a real one."""
    url = os.environ.get("QDRANT_URL")
    if url:
        yield url, int(os.environ.get("QDRANT_GRPC_PORT", "6334")), True
        return
    double = subprocess.Popen(
        [sys.executable, "-c", _DOUBLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert double.stdout is not None
    try:
        where, port = double.stdout.readline().split()
        yield where, int(port), False
    finally:
        double.kill()
        double.wait()


def manifest(name: str) -> Manifest:
    encoder = EncoderInfo("made", "sha256:0", 384, "cls", True, "", "", 512)
    return Manifest(name, encoder, SplitterInfo(200, 20), bm25_info("en"))


def fill(server: Server, made: Made) -> float:
    """Make the collection and write it; seconds of the writing."""
    index = ServerIndex.create(
        server.url, server.collection, manifest(server.collection), options=server.options
    )
    blocks = list(made.blocks())
    begin = time.perf_counter()
    for passages, vectors in blocks:
        for start in range(0, len(passages), 512):
            index.upsert(passages[start : start + 512], vectors[start : start + 512])
    seconds = time.perf_counter() - begin
    index.close()
    return seconds


def wait_until_green(server: Server) -> None:
    """Until the server has built its graphs, ten minutes at most."""
    client = server.client()
    physical = named(client, server)[2]
    for _ in range(1200):
        if client.get_collection(physical).status.value == "green":
            break
        time.sleep(0.5)
    client.close()


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's processors."""
    clock, own = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - own


def searches(
    protocol: str, systems: dict[str, System], asked: Sequence[Query], rounds: int
) -> list[Row]:
    """Each search by one thread (median of a turn's means) and by eight (searches a second)."""
    rows: list[Row] = []
    for mode, limit in (("dense", 10), ("dense", 100), ("hybrid", 10)):
        own: dict[str, list[float]] = {name: [] for name in systems}
        many: dict[str, list[float]] = {name: [] for name in systems}

        def turn(name: str, mode: str = mode, limit: int = limit, own: Any = own) -> float:
            search = getattr(systems[name], mode)
            clock, used = timed(lambda: [search(query, limit) for query in asked])
            own[name].append(used / len(asked))
            return clock / len(asked)

        def eight(name: str, mode: str = mode, limit: int = limit) -> float:
            search = getattr(systems[name], mode)
            with ThreadPoolExecutor(8) as pool:
                everyone = partial(search, limit=limit)
                return timed(lambda: list(pool.map(everyone, asked)))[0]

        for name in systems:
            turn(name)  # which warms it, and is not counted
            own[name].clear()
        one = in_turns({n: (lambda n=n: turn(n)) for n in systems}, rounds)
        # the frameworks are given a query's vector by a field of their own, by one thread alone
        threads = [name for name in systems if name not in PEERS]
        many = in_turns({n: (lambda n=n: eight(n)) for n in threads}, rounds)
        case = f"{protocol}: {mode}, {limit} with payload"
        for name in systems:
            rows.append(Row(case, name, "one thread", 1000 * median(one[name]), "ms"))
            rows.append(Row(case, name, "own", 1000 * median(own[name]), "ms of processor"))
            if name in many:
                rows.append(Row(case, name, "8 threads", len(asked) / median(many[name]), "1/s"))
            if name != OURS:
                ratio = median(one[OURS]) / median(one[name])
                rows.append(Row(case, name, f"{OURS} / this", ratio, "x"))
    return rows


def writes(protocol: str, server: Server, made: Made, rounds: int) -> list[Row]:
    """The same points, written again: by `upsert`, BM25 included, and by `upload_points`."""
    from qdrant_client import models

    passages, vectors = next(made.blocks())
    count = min(len(passages), 10_240)
    passages, vectors = passages[:count], vectors[:count]
    index = ServerIndex.open(server.url, server.collection, options=server.options)
    client = server.client()
    dense, sparse, physical = named(client, server)
    points = []
    for point in index.points():
        terms = models.SparseVector(
            indices=list(point.sparse.indices), values=list(point.sparse.values)
        )
        points.append((point.id, {dense: point.dense.tolist(), sparse: terms}, point.payload))
        if len(points) == count:
            break

    def ours() -> None:
        for start in range(0, count, 512):
            index.upsert(passages[start : start + 512], vectors[start : start + 512])

    def raw(wait: bool) -> None:
        client.upload_points(
            physical,
            (models.PointStruct(id=key, vector=v, payload=p) for key, v, p in points),
            batch_size=UPSERTS,
            wait=wait,
        )

    systems: dict[str, Callable[[], object]] = {
        OURS: ours,
        "qdrant-client upload_points": lambda: raw(False),
        "qdrant-client upload_points, waiting": lambda: raw(True),
    }
    rows = _rates(f"{protocol}: writing", systems, count, rounds)
    index.close()
    return rows


def reads(protocol: str, server: Server, rounds: int) -> list[Row]:
    """Every point with its vectors and payload, a page at a time."""
    index = ServerIndex.open(server.url, server.collection, options=server.options)
    client = server.client()
    physical = named(client, server)[2]
    count = min(index.count(), 10_240)

    def ours() -> None:
        for number, _ in enumerate(index.points(), start=1):
            if number == count:
                return

    def raw() -> None:
        after, seen = None, 0
        while seen < count:
            page, after = client.scroll(
                physical, limit=PAGE, offset=after, with_payload=True, with_vectors=True
            )
            seen += len(page)
            if after is None:
                return

    rows = _rates(
        f"{protocol}: reading with vectors",
        {OURS: ours, "qdrant-client scroll": raw},
        count,
        rounds,
    )
    index.close()
    return rows


def _rates(
    case: str, systems: dict[str, Callable[[], object]], count: int, rounds: int
) -> list[Row]:
    own: dict[str, list[float]] = {name: [] for name in systems}

    def turn(name: str) -> float:
        clock, used = timed(systems[name])
        own[name].append(used)
        return clock

    taken = in_turns({name: (lambda name=name: turn(name)) for name in systems}, rounds)
    rows: list[Row] = []
    for name in systems:
        rows.append(Row(case, name, "points", count / median(taken[name]), "1/s"))
        rows.append(Row(case, name, "own", 1e6 * median(own[name]) / count, "us of processor each"))
        if name != OURS:
            ratio = median(taken[name]) / median(taken[OURS])
            rows.append(Row(case, name, f"{OURS} / this", ratio, "x"))
    return rows


def requests_of_a_search(made: Made, asked: Sequence[Query]) -> list[Row]:
    """Requests, and tokens of a rate limit, that one search of ours costs, at a double."""
    sys.path.insert(0, str(TESTS))
    try:
        from doubles.qdrant_http import qdrant_http
    finally:
        sys.path.remove(str(TESTS))
    rows: list[Row] = []
    with qdrant_http() as double:
        server = Server(double.url, "counted", False, 6334)
        fill(server, made)
        ours = SYSTEMS[OURS](server)
        for mode in ("dense", "hybrid"):
            before = len(double.requests)
            getattr(ours, mode)(asked[0], 10)
            sent = double.requests[before:]
            rows.append(Row("cost of a search", f"{mode}, 10", "requests", len(sent), ""))
            tokens = sum(_tokens(one.path, one.json()) for one in sent)
            rows.append(Row("cost of a search", f"{mode}, 10", "tokens", tokens, ""))
    return rows


def _tokens(path: str, body: dict[str, Any]) -> int:
    """By a server's own rule: an id costs one, a search or a page one and its conditions."""
    if path.endswith("/query/batch"):
        return sum(1 + _conditions(one.get("filter")) for one in body["searches"])
    return len(body["ids"]) if "ids" in body else 1 + _conditions(body.get("filter"))


def _conditions(where: Any) -> int:
    if not where:
        return 0
    return sum(len(part) if isinstance(part, list) else 1 for part in where.values() if part)


def main() -> None:
    arguments = options().parse_args()
    at_start = machine()
    left_out: dict[str, str] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, server_at() as (url, port, real):
        quick = arguments.quick
        size = arguments.passages or (500 if quick else 50_000 if real else 2_000)
        count = arguments.queries or (10 if quick else 200 if real else 40)
        rounds = arguments.rounds or (1 if quick else 5)
        made = _made.clustered(Path(folder) / "made", size, count)
        small = _made.clustered(Path(folder) / "small", 200, 10)
        asked = queries(*made.queries, Bm25Terms(bm25_info("en")))
        key = os.environ.get("QDRANT_API_KEY")
        name = f"benchmark-{uuid.uuid4().hex[:12]}"
        first = Server(url, name, False, port, key)
        try:
            seconds = fill(first, made)
            rows.append(Row("filling", OURS, "passages", size / seconds, "1/s"))
            wait_until_green(first)
            for protocol in arguments.protocols:
                server = Server(url, name, protocol == "gRPC", port, key)
                systems: dict[str, System] = {}
                for system, make in SYSTEMS.items():
                    if system in PEERS and not _is_there(PEERS[system]):
                        left_out[system] = f"not installed: pip install {_package(system)}"
                        continue
                    systems[system] = make(server)
                rows += searches(protocol, systems, asked, rounds)
                rows += writes(protocol, server, made, rounds)
                rows += reads(protocol, server, rounds)
        finally:
            with contextlib.suppress(Exception):
                delete_collection(url, name, options=first.options)
        rows += requests_of_a_search(small, asked)
    notes = {"server": "real" if real else "a double in Python", "passages": size, **left_out}
    report(
        rows, file=arguments.json, packages=("qdrant-client", *map(_package, PEERS)),
        at_start=at_start, notes=notes,
    )  # fmt: skip


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _package(system: str) -> str:
    return "llama-index-vector-stores-qdrant" if system == "llama-index" else system


if __name__ == "__main__":
    main()
