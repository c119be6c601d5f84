"""How long does one query take: to be encoded, and to have 100 candidates re-ranked?

Encoding: queries of SciFact, one at a time, p50 and p95; the systems take turns in blocks of 20.
Encoding and re-ranking: base-size models, 100 candidates of 200 tokens, p50 of encode plus re-rank.
Every system runs in its own process; what is timed is the call as its own user would make it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _compare import prepared
from _report import OURS, Row, machine, parser, report
from _shapes import SHAPES, make, models_folder
from _systems import Choice, Worker, add_options, choose, device, inputs_file, on_gpu, running
from _texts import SHARED_DATA, Source, of_length, source

ENCODE = ("bge-small", "bge-base")
BLOCK = 20
CANDIDATES, TOKENS = 100, 200
ENOUGH = "FlagEmbedding, batch 32"
"""Its batch size makes no difference to one query, and to 100 pairs the smaller one is better."""


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--runs", type=int, help="queries to each system; 200, or 20 with --quick")
    result.add_argument(
        "--minutes", type=float, default=4.0, help="of re-ranking, all systems, two each at least"
    )
    result.add_argument("--only", choices=("encode", "rerank"), help="one of the two questions")
    result.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with scifact/")
    add_options(result)
    return result


def encode_rows(
    name: str, root: Path, origin: Source, choice: Choice, runs: int
) -> tuple[list[Row], dict[str, Any]]:
    """p50 and p95 of encoding one query, in milliseconds."""
    shape = SHAPES[name]
    queries = origin.queries[:BLOCK]
    choice = prepared(choice, shape, make(shape, root), queries)
    with inputs_file(queries) as file, running(choice) as workers:
        for worker in workers.values():
            worker.ask("load", file=str(file))
            worker.ask("latency", runs=BLOCK, most=60)  # shapes are seen, memory is there
        seconds: dict[str, list[float]] = {system: [] for system in workers}
        while min(map(len, seconds.values())) < runs:
            for system, worker in workers.items():
                seconds[system] += worker.ask("latency", runs=BLOCK, most=60)["seconds"]
        facts = {system: worker.facts for system, worker in workers.items()}
    case = f"encode one query, {name}"
    return latency_rows(case, seconds), facts


def latency_rows(case: str, seconds: dict[str, list[float]]) -> list[Row]:
    rows = []
    for system, times in seconds.items():
        p50, p95 = (1000 * float(np.percentile(times, at)) for at in (50, 95))
        rows.append(Row(case, system, "p50", p50, "ms"))
        rows.append(Row(case, system, "p95", p95, "ms"))
        rows.append(Row(case, system, "runs", len(times), ""))
        if OURS in seconds and system != OURS:
            ours = 1000 * float(np.median(seconds[OURS]))
            rows.append(Row(case, system, f"p50 against {OURS}", p50 / ours, "×"))
    return rows


def rerank_rows(
    shapes: tuple[str, str], root: Path, origin: Source, choice: Choice, runs: int, minutes: float
) -> tuple[list[Row], dict[str, Any]]:
    """p50 of encoding a query and scoring its candidates, in milliseconds."""
    query = origin.queries[0]
    passages = of_length(origin, TOKENS, CANDIDATES)
    pairs = [[query, passage] for passage in passages]
    kinds = [SHAPES[name] for name in shapes]
    inputs: list[list[Any]] = [[query], [pairs]]
    with contextlib.ExitStack() as stack:
        sides: list[dict[str, Worker]] = []
        for shape, one in zip(kinds, inputs, strict=True):
            part = prepared(Choice(list(choice.systems)), shape, make(shape, root), passages)
            workers = stack.enter_context(running(part))
            choice.left_out |= part.left_out
            file = stack.enter_context(inputs_file(one))
            for worker in workers.values():
                worker.ask("load", file=str(file))
            sides.append(workers)
        both = [name for name in sides[0] if name in sides[1]]
        turns = {name: _turn(*(side[name] for side in sides)) for name in both}
        seconds: dict[str, list[float]] = {name: [] for name in both}
        cold = {name: turn() for name, turn in turns.items()}
        until = time.perf_counter() + 60 * minutes
        for number in range(runs):
            for name, turn in turns.items():
                # A slow system would keep the others from their turns.
                if number < 2 or sum(seconds[name]) < 60 * minutes / len(turns):
                    seconds[name].append(turn())
            if time.perf_counter() > until:
                break
        facts = {name: sides[1][name].facts for name in both}
    case = f"encode + rerank {CANDIDATES} of {TOKENS} tokens, {' + '.join(shapes)}"
    rows = latency_rows(case, seconds)
    rows += [Row(case, name, "first call", 1000 * time_, "ms") for name, time_ in cold.items()]
    return rows, facts


def _turn(encoder: Worker, reranker: Worker) -> Callable[[], float]:
    def turn() -> float:
        parts = (w.ask("latency", runs=1, most=600)["seconds"][0] for w in (encoder, reranker))
        return float(sum(parts))

    return turn


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    quick = arguments.quick
    origin = source(arguments.data)
    runs = arguments.runs or (20 if quick else 200)
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    left_out: dict[str, str] = {}

    def chosen() -> Choice:
        choice = choose(arguments)
        if not arguments.systems:
            names = {system.name for system in choice.systems}
            spare = {"FlagEmbedding, its batch"} if ENOUGH in names else set()
            choice.systems = [one for one in choice.systems if one.name not in spare]
        return choice

    with models_folder(arguments.models_dir) as root:
        for name in () if arguments.only == "rerank" else ("tiny",) if quick else ENCODE:
            print(f"encode one query, {name}", flush=True)
            choice = chosen()
            more, facts[name] = encode_rows(name, root, origin, choice, runs)
            rows += more
            left_out |= choice.left_out
        if arguments.only != "encode" and not (quick and arguments.only is None):
            shapes = ("tiny", "tiny-reranker") if quick else ("bge-base", "reranker-base")
            print(f"encode and rerank, {shapes}", flush=True)
            choice = chosen()
            most = 0.2 if quick else arguments.minutes
            more, facts["rerank"] = rerank_rows(
                shapes, root, origin, choice, 50 if on_gpu() else 7, most
            )
            rows += more
            left_out |= choice.left_out
    report(
        rows,
        file=arguments.json,
        packages=("FlagEmbedding", "sentence-transformers"),
        at_start=before,
        notes={"device": device(), "systems": facts, "left out": left_out, "source": origin.name},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
