"""What does the service make of many clients, of too many, and what does it add to one search?

Load: clients on loopback that each wait for their answer, with and without batches across requests
(two services side by side, which take turns; caches are off). Overload: requests arrive five times
as fast as they can be answered. Fairness: one key floods the service, another sends a search a
second. Overhead: the same searches by the library and over HTTP, in turns.
The load comes from this process and the services run in their own, all on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _fairness import GREEDY_DOCUMENTS, fairness_rows
from _load import Body, Connection, Outcome, closed_loop, open_loop, resident_mb, watching
from _report import Row, machine, median, parser, report
from _shapes import SHAPES, make, models_folder
from _texts import SHARED_DATA, Source, source, texts

import retrieval
from app.security import api_keys

QUESTIONS = Path(__file__).resolve().parent.parent / "tests/fixtures/python-docs/queries.jsonl"
CLIENTS = (1, 8, 32, 128)
JOINED, SINGLE = "batches across requests", "a batch a request"
LIMIT_MS = 1000.0
"""How much work may wait, in the run with too many requests."""
OVERLOAD = 5.0
CHARACTERS = 250
"""Of a passage that is indexed: what reading long ones costs would hide everything else."""
BLOCK = 20
WARM_UP = 256
"""Searches before any is timed: every query once, so that token vectors are kept."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service in a process of its own."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Case:
    """One address and what is sent to it; `make(number)` is the body of a request."""

    name: str
    path: str
    bodies: Sequence[Body]

    def make(self, number: int) -> Body:
        return self.bodies[number % len(self.bodies)]


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, help="of load in a turn; 6, or 1 with --quick")
    result.add_argument("--rounds", type=int, help="turns of each service; 3, or 1 with --quick")
    result.add_argument("--passages", type=int, help="indexed; 1,000, or 300 with --quick")
    result.add_argument("--only", choices=("load", "overload", "fairness", "overhead"))
    result.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with scifact/")
    result.add_argument("--models-dir", type=Path, help="keep the made models there")
    return result


@contextlib.contextmanager
def service(folder: Path, reranker: Path, **settings: Any) -> Iterator[Running]:
    """`retrieval serve` on a free port, once it says that it is ready."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RETRIEVAL_")}
    given = {
        "store": folder / "store",
        "state_dir": folder / "state",
        "port": 0,
        "encoder": "all-MiniLM-L6-v2",
        "reranker": reranker,
        "page": False,
        "query_cache_mb": 0,
        "score_cache_mb": 0,
        "log_level": "warning",
    }
    environment |= {f"RETRIEVAL_{k.upper()}": str(v) for k, v in (given | settings).items()}
    log = (folder / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-c", "from retrieval.cli.main import main; main()", "serve"],
        env=environment,
        stderr=log,
    )
    try:
        url = _wait_until_ready(process, folder / "log")
        yield Running(url, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    url = ""
    for _ in range(1200):
        if process.poll() is not None:
            break
        said = log.read_text(encoding="utf-8")
        if not url and " is at http" in said:
            url = said.split(" is at ", 1)[1].split()[0]
        if url:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return url
        time.sleep(0.1)
    raise SystemExit(f"the service did not become ready:\n{log.read_text(encoding='utf-8')}")


def make_cases(origin: Source, *, seed: int = 0) -> dict[str, Case]:
    """Questions as users write them, and few short passages: nothing fills a batch alone."""
    choice = random.Random(seed)
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["text"] for line in lines]
    short = texts(origin, "short", 1024, seed=seed)

    def rerank(count: int) -> Case:
        return Case(
            f"re-rank {count} of 8 to 32 tokens",
            "/v1/rerank",
            [{"query": q, "documents": choice.sample(short, count)} for q in questions],
        )

    return {
        "embeddings": Case(
            "embed one question",
            "/v1/embeddings",
            [{"input": q, "model": "encoder", "input_type": "query"} for q in questions],
        ),
        "rerank one": rerank(1),
        "rerank": rerank(4),
        "rerank many": rerank(GREEDY_DOCUMENTS),
        "search": Case(
            "hybrid search, 10 candidates re-ranked",
            "/v1/search",
            [{"query": q, "top_k": 10, "candidates": 10} for q in questions],
        ),
    }


def load_rows(
    cases: Sequence[Case], services: dict[str, Running], seconds: float, rounds: int
) -> list[Row]:
    """Throughput and latency by number of clients; the services take turns."""
    rows: list[Row] = []
    for case in cases:
        for running in services.values():  # shapes are seen, connections made
            asyncio.run(closed_loop(running.url, case.path, case.make, clients=8, seconds=1.0))
        for clients in CLIENTS:
            name = f"{case.name}, {clients} clients"
            print(name, flush=True)
            outcomes: dict[str, list[Outcome]] = {system: [] for system in services}
            for _ in range(rounds):
                for system, running in services.items():
                    outcomes[system].append(
                        asyncio.run(
                            closed_loop(
                                running.url,
                                case.path,
                                case.make,
                                clients=clients,
                                seconds=seconds,
                                keep=case.path == "/v1/search",
                            )
                        )
                    )
            for system, runs in outcomes.items():
                rows += _outcome_rows(name, system, runs)
            if len(outcomes) == 2:
                ratio = median([one.throughput() for one in outcomes[JOINED]]) / median(
                    [one.throughput() for one in outcomes[SINGLE]]
                )
                rows.append(Row(name, JOINED, f"throughput against {SINGLE}", ratio, "×"))
    return rows


def _outcome_rows(name: str, system: str, runs: Sequence[Outcome]) -> list[Row]:
    rows = [Row(name, system, "throughput", median([r.throughput() for r in runs]), "requests/s")]
    rows += [
        Row(name, system, f"p{at}", median([r.percentile(at) for r in runs]), "ms")
        for at in (50, 95, 99)
    ]
    failed = sum(len(one.answers) - len(one.of(200)) for one in runs)
    rows.append(Row(name, system, "not answered with 200", failed, ""))
    stages: dict[str, list[float]] = {}
    for one in runs:
        for answer in one.of(200):
            if answer.body:
                for stage, ms in json.loads(answer.body)["timings_ms"].items():
                    stages.setdefault(stage, []).append(ms)
    for stage, times in stages.items():
        for at in (50, 95, 99):
            value = float(np.percentile(times, at))
            rows.append(Row(name, system, f"{stage} p{at}", value, "ms"))
    return rows


def overload_rows(case: Case, running: Running, seconds: float) -> list[Row]:
    """Five times what can be answered: what is refused, and what becomes of the rest."""
    name = f"{case.name}, {OVERLOAD:g} × overload"
    print(name, flush=True)
    quiet = [asyncio.run(_alone(running.url, case, n)) for n in range(len(case.bodies))]
    capacity = asyncio.run(
        closed_loop(running.url, case.path, case.make, clients=32, seconds=seconds)
    ).throughput()

    async def overloaded() -> tuple[Outcome, list[float], float]:
        before = resident_mb(running.pid)
        async with watching(lambda: resident_mb(running.pid)) as memory:
            outcome = await open_loop(
                running.url,
                case.path,
                case.make,
                rate=OVERLOAD * capacity,
                seconds=3 * seconds,
                keep=True,
            )
        return outcome, memory, before

    outcome, memory, before = asyncio.run(overloaded())
    accepted, shed = outcome.of(200), outcome.of(429)
    lost = len(outcome.answers) - len(accepted) - len(shed)
    wrong = sum(
        not _same(json.loads(one.body), quiet[one.number % len(case.bodies)]) for one in accepted
    )
    after = asyncio.run(
        closed_loop(running.url, case.path, case.make, clients=32, seconds=seconds)
    ).throughput()
    system = f"{JOINED}, limit {LIMIT_MS:g} ms"
    answers = len(outcome.answers)
    rows = [
        Row(name, system, "capacity before", capacity, "requests/s"),
        Row(name, system, "offered", answers / (3 * seconds), "requests/s"),
        Row(name, system, "accepted", outcome.throughput(), "requests/s"),
        Row(name, system, "refused with 429", 100 * len(shed) / answers, "%"),
        Row(name, system, "429 with Retry-After", 100 * _told(shed), "%"),
        Row(name, system, "accepted, then lost or failed", lost, ""),
        Row(name, system, "accepted, answered wrongly", wrong, ""),
        Row(name, system, "memory before", before, "MB"),
        Row(name, system, "memory at most", max(memory), "MB"),
        Row(name, system, "capacity after", after, "requests/s"),
        Row(name, system, "p50 of 429", outcome.percentile(50, 429), "ms"),
    ]
    for at in (50, 95, 99):
        value = outcome.percentile(at)
        rows.append(Row(name, system, f"p{at} of accepted", value, "ms"))
        rows.append(Row(name, system, f"p{at} of accepted / limit", value / LIMIT_MS, "×"))
    return rows


def _told(shed: Sequence[Any]) -> float:
    return sum(one.retry_after.isdigit() for one in shed) / len(shed) if shed else math.nan


async def _alone(url: str, case: Case, number: int) -> Any:
    connection = Connection(url)
    status, body, _ = await connection.post(case.path, json.dumps(case.make(number)).encode())
    await connection.close()
    if status != 200:
        raise SystemExit(f"{case.path} answered {status}: {body[:300]!r}")
    return json.loads(body)


def _same(one: Any, other: Any) -> bool:
    """Whether two answers say the same: names and order equal, numbers but for rounding."""
    if "results" in one:
        a = {entry["index"]: entry["relevance_score"] for entry in one["results"]}
        b = {entry["index"]: entry["relevance_score"] for entry in other["results"]}
        return a.keys() == b.keys() and all(abs(a[k] - b[k]) < 0.02 for k in a)
    if "hits" in one:
        found = ({hit["passage"]["id"] for hit in side["hits"]} for side in (one, other))
        a, b = found
        return len(a & b) >= 0.8 * len(a)
    a, b = (np.array(side["data"][0]["embedding"]) for side in (one, other))
    return float(a @ b) > 0.999


@contextlib.contextmanager
def in_this_process(folder: Path) -> Iterator[tuple[str, retrieval.TwoStageRetriever]]:
    """A service in a thread, and a retriever over its own index and its own, unwrapped models.

    Two processes that take turns on the same cores hinder each other: the threads of the one's
    models go on spinning while the other is timed. Here there is one set of models; that client
    and service share an interpreter counts against the service.
    """
    import threading

    from app.backend.backend import Backend
    from app.server import sockets
    from app.server.app import create_app
    from app.settings.settings import Settings

    settings = Settings(
        store=str(folder / "store"),
        state_dir=folder / "state",
        encoder="all-MiniLM-L6-v2",
        reranker="maxsim",
        page=False,
        query_cache_mb=0,
        score_cache_mb=0,
    )
    backend = Backend(settings)
    backend.open()
    sock = sockets.reserve_port("127.0.0.1", 0)
    sock.listen()
    up = threading.Event()
    running = sockets.make_server(create_app(backend, settings), ready=up.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        up.wait(30)
        own: Any = backend._opened.opened("docs")
        models = own.encoder.inner, own.reranker.inner
        yield sockets.url_of(sock), retrieval.TwoStageRetriever(models[0], own.index, models[1])
    finally:
        running.should_exit = True
        thread.join()
        backend.close()


def overhead_rows(case: Case, folder: Path, runs: int) -> list[Row]:
    """One search at a time, by the library and over HTTP, in turns of 20.

    In turns of one, each call would find the cores' caches and the model's threads busy with what
    another thread of the process has just done, as no client of a service would.
    """
    print("overhead of the service", flush=True)
    times: dict[str, list[float]] = {"library call": [], "over HTTP": []}
    with in_this_process(folder) as (url, retriever):

        async def over_http(numbers: Sequence[int]) -> list[float]:
            connection = Connection(url)
            taken = []
            for number in numbers:
                body = json.dumps(case.make(number)).encode()
                start = time.perf_counter()
                status, _, _ = await connection.post(case.path, body)
                taken.append(1000 * (time.perf_counter() - start))
                if status != 200:
                    raise SystemExit(f"{case.path} answered {status}")
            await connection.close()
            return taken

        def by_library(numbers: Sequence[int]) -> list[float]:
            taken = []
            for number in numbers:
                start = time.perf_counter()
                retriever.search(**case.make(number))
                taken.append(1000 * (time.perf_counter() - start))
            return taken

        by_library(range(WARM_UP))
        for start in range(0, runs, BLOCK):
            numbers = range(start, start + BLOCK)
            times["library call"] += by_library(numbers)
            times["over HTTP"] += asyncio.run(over_http(numbers))
    name = f"{case.name}, one client"
    rows = []
    for system, own in times.items():
        rows += [
            Row(name, system, f"p{at}", float(np.percentile(own, at)), "ms") for at in (50, 95)
        ]
    extra = statistics.median(times["over HTTP"]) - statistics.median(times["library call"])
    rows.append(Row(name, "over HTTP", "p50 minus that of the library call", extra, "ms"))
    return rows


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    quick = arguments.quick
    seconds = arguments.seconds or (1.0 if quick else 6.0)
    rounds = arguments.rounds or (1 if quick else 3)
    origin = source(arguments.data)
    cases = make_cases(origin)
    count = arguments.passages or (300 if quick else 1000)
    rows: list[Row] = []
    with (
        models_folder(arguments.models_dir) as models,
        tempfile.TemporaryDirectory(prefix="service-") as name,
    ):
        folder = Path(name)
        reranker = make(SHAPES["minilm-l6-reranker"], models)
        print("indexing", flush=True)
        documents = (
            retrieval.Document(id=str(number), text=text[:CHARACTERS])
            for number, text in enumerate(origin.passages[:count])
        )
        retrieval.ingest(
            documents, "docs", store=folder / "store", encoder="all-MiniLM-L6-v2", max_tokens=None
        )
        if arguments.only in (None, "overhead"):
            # What a search costs in the models hides what the service adds to it; MaxSim over
            # token vectors that are kept costs little.
            rows += overhead_rows(cases["search"], folder, 40 if quick else 300)
        if arguments.only in (None, "load"):
            single = folder / "single"
            single.mkdir()
            shutil.copytree(folder / "store", single / "store")
            with (
                service(folder, reranker, max_wait_ms=60_000) as joined_up,
                service(single, reranker, max_wait_ms=60_000, batching=False) as one_by_one,
            ):
                services = {JOINED: joined_up, SINGLE: one_by_one}
                measured = ("embeddings", "rerank one", "rerank", "search")
                chosen = [cases[key] for key in (measured[:1] if quick else measured)]
                rows += load_rows(chosen, services, seconds, rounds)
        if arguments.only in (None, "overload"):
            with service(folder, reranker, max_wait_ms=LIMIT_MS) as running:
                for key in ("rerank",) if quick else ("rerank", "search"):
                    rows += overload_rows(cases[key], running, seconds)
        if arguments.only in (None, "fairness"):
            file = folder / "keys.json"
            greedy, polite = (api_keys.create(file, name)[0] for name in ("greedy", "polite"))
            with service(folder, reranker, keys_file=file) as running:
                print("fairness", flush=True)
                rows += fairness_rows(
                    running.url,
                    greedy=greedy,
                    polite=polite,
                    flood=cases["rerank many"].make,
                    search=cases["search"].make,
                    searches=8 if quick else 30,
                )
    report(
        rows,
        file=arguments.json,
        packages=("fastapi", "uvicorn", "uvloop", "httptools"),
        at_start=before,
        notes={"source": origin.name, "passages": count, "seconds": seconds, "rounds": rounds},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
