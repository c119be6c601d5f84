"""What does int8 cost in quality, and what does it bring in speed, on a CPU?

An encoder (`--model`) reads a judged set (BEIR layout) in fp32, bf16
(where the CPU multiplies it) and int8: int8 calibrated on the built-in texts, and on 200 of the
set's own passages. Vectors are searched exactly, in numpy, so
that nothing but the number format differs. nDCG@10 with its difference to fp32 and that
difference's 95% interval (paired bootstrap over queries), cosines to the fp32 vectors, and passages
per second in turns on the same passages.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _report import OURS, Row, in_turns, machine, median, parser, report
from _systems import ISA

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.evaluation.beir import load_beir
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.metrics import compare, measure
from retrieval.models.batching import run_batches
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.models.engines.openvino import OpenVINOEngine
from retrieval.models.resolve import resolve
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import FloatArray

MEASURE = "nDCG@10"
FULL = "fp32"
OWN, BUILT_IN = "int8, own passages", "int8, built-in texts"
CALIBRATION_PASSAGES = 200
DEPTH = 100
Run = dict[str, dict[str, float]]


class System:
    """An encoder in one number format."""

    def __init__(
        self, model: str, dtype: Any, calibration: list[str] | None, cache_dir: Path
    ) -> None:
        resolved = resolve(model, "encoder")
        spec = resolved.spec
        assert spec.pooling is not None
        assert spec.max_length is not None
        self.tokenizer = Tokenizer(resolved.path, spec.max_length, cache_dir=cache_dir)
        self.instruction = spec.query_instruction or ""
        self.engine = OpenVINOEngine(
            resolved.path,
            spec.pooling,
            dtype=dtype,
            calibration=calibration,
            cache_dir=cache_dir,
        )

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """As `encode`, with the model's instruction before each."""
        return self.encode([self.instruction + text for text in texts])

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors (n, dimension) of length 1."""
        rows: dict[int, FloatArray] = {}

        def consume(indices: Any, output: FloatArray) -> None:
            rows.update(zip(indices.tolist(), output, strict=True))

        run_batches(self.engine, self.tokenizer, self.tokenizer.encode(texts), consume=consume)
        vectors = np.stack([rows[row] for row in range(len(texts))])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def search(
    queries: FloatArray, passages: FloatArray, names: Sequence[str]
) -> list[dict[str, float]]:
    """For each query its `DEPTH` nearest passages and their cosines."""
    scores = queries @ passages.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return [
        {names[column]: float(row[column]) for column in columns}
        for row, columns in zip(scores, best, strict=True)
    ]


def rows_of(
    case: str,
    runs: Mapping[str, Run],
    vectors: Mapping[str, FloatArray],
    qrels: Mapping[str, Mapping[str, int]],
) -> list[Row]:
    rows: list[Row] = []
    for name, run in runs.items():

        def add(metric: str, value: float, name: str = name) -> None:
            rows.append(Row(case, f"{OURS}, {name}", metric, value, ""))

        add(MEASURE, measure(qrels, run, [MEASURE])[MEASURE])
        if name == FULL:
            continue
        change = compare(qrels, runs[FULL], run, [MEASURE])[MEASURE]
        add(f"{MEASURE}, difference to {FULL}", change.difference)
        add(f"{MEASURE}, difference, 95% from", change.low)
        add(f"{MEASURE}, difference, 95% to", change.high)
        cosines = (vectors[FULL] * vectors[name]).sum(axis=1)
        add(f"least cosine to {FULL}", float(cosines.min()))
        add(f"mean cosine to {FULL}", float(cosines.mean()))
    return rows


def speeds(case: str, systems: Mapping[str, System], texts: list[str], rounds: int) -> list[Row]:
    turns: dict[str, Callable[[], object]] = {
        name: partial(system.encode, texts) for name, system in systems.items()
    }
    seconds = in_turns(turns, rounds)
    rows = [
        Row(case, f"{OURS}, {name}", "throughput", len(texts) / median(times), "passages/s")
        for name, times in seconds.items()
    ]
    if "bf16" in seconds:
        rows += [
            Row(
                case,
                f"{OURS}, {name}",
                "throughput against bf16",
                median([b / t for b, t in zip(seconds["bf16"], times, strict=True)]),
                "×",
            )
            for name, times in seconds.items()
            if name != "bf16"
        ]
    return rows


def passages_of(beir: JudgedQueries, most: int | None, chosen: Sequence[str]) -> dict[str, str]:
    """Document id → title and text; of more than `most` documents the judged and the first."""
    judged = {document for query in chosen for document in beir.qrels[query]}
    return {
        document.id: f"{document.title}\n{document.text}".strip()
        for number, document in enumerate(beir.documents() or ())
        if most is None or number < most or document.id in judged
    }


def options() -> ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "scifact",
        help="a judged set in BEIR layout (../shared/data/scifact beside the checkout)",
    )
    result.add_argument("--model", default="all-MiniLM-L6-v2", help="an encoder: name or folder")
    result.add_argument(
        "--isa", choices=sorted(ISA), help="limit the instructions of torch and oneDNN to these"
    )
    result.add_argument("--split", default="test")
    result.add_argument("--documents", type=int, help="the first N and the judged; all, or 100")
    result.add_argument("--rounds", type=int, help="turns of each system; 5, or 2 with --quick")
    return result


def main() -> int:
    arguments = options().parse_args()
    if not arguments.data.is_dir():
        print(f"there is no folder {arguments.data}; give a judged set with --data")
        return 2
    os.environ.update(ISA.get(arguments.isa, {}))
    before = machine()
    beir = load_beir(arguments.data, arguments.split)
    chosen = sorted(beir.queries)
    if arguments.quick:
        chosen = sorted(random.Random(0).sample(chosen, min(40, len(chosen))))
    passages = passages_of(beir, arguments.documents or (100 if arguments.quick else None), chosen)
    names, texts = list(passages), list(passages.values())
    case = f"{beir.name}/{beir.split}, {len(chosen)} queries, {len(texts)} passages"
    print(case, flush=True)
    count = 40 if arguments.quick else CALIBRATION_PASSAGES
    own = texts[:: max(len(texts) // count, 1)][:count]
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        cache = Path(folder)
        systems = {
            FULL: System(arguments.model, "fp32", None, cache),
            **(
                {"bf16": System(arguments.model, "bf16", None, cache)}
                if cpu_multiplies_bf16()
                else {}
            ),
            BUILT_IN: System(arguments.model, "int8", None, cache),
            OWN: System(arguments.model, "int8", own, cache),
        }
        vectors: dict[str, FloatArray] = {}
        runs: dict[str, Run] = {}
        for name, system in systems.items():
            print(f"{name} …", flush=True)
            vectors[name] = system.encode(texts)
            queries = system.encode_queries([beir.queries[query] for query in chosen])
            runs[name] = dict(zip(chosen, search(queries, vectors[name], names), strict=True))
        rows = rows_of(case, runs, vectors, {query: beir.qrels[query] for query in chosen})
        few = random.Random(0).sample(texts, min(40 if arguments.quick else 300, len(texts)))
        timed = {name: system for name, system in systems.items() if name != OWN}
        rows += speeds(case, timed, few, arguments.rounds or (2 if arguments.quick else 5))
    report(
        rows,
        file=arguments.json,
        packages=("nncf", "ir-measures"),
        at_start=before,
        notes={"model": arguments.model, "isa": arguments.isa or "all of the CPU's"},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
