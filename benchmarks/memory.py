"""Does memory stay flat as the number of texts grows?

A small model reads 1,000, 10,000 and 100,000 short texts, then as many pairs; a fresh process for
each number. What is measured is the most memory that was resident during the run, over what was
resident before it, when the model was loaded, had run once on 16 of them and held its inputs;
and from that growth what the caller gets, the vectors or scores themselves, is taken off. The
peers do the same once, at 10,000.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _compare import prepared
from _report import OURS, Row, machine, parser, report
from _shapes import SHAPES, Shape, make, models_folder
from _systems import Choice, System, Worker, add_options, choose, device, inputs_file
from _texts import SHARED_DATA, Source, pairs, source, texts

SIZES = (1_000, 10_000, 100_000)
PEERS_AT = 10_000
WARM_UP = 16
MIB = 2**20


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument(
        "--sizes", type=int, nargs="+", help="1000 10000 100000; 1000 2000 if quick"
    )
    result.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with scifact/")
    add_options(result)
    return result


def inputs_of(shape: Shape, origin: Source, size: int) -> list[Any]:
    if shape.task == "encode":
        return list(texts(origin, "short", size))
    return list(pairs(origin, "short", size, queries=max(size // 100, 1)))


def measure(shape: Shape, folder: Path, system: System, origin: Source, size: int) -> list[Row]:
    """The rows of one process."""
    inputs = inputs_of(shape, origin, size)
    choice = prepared(Choice([system]), shape, folder, inputs)
    with (
        tempfile.TemporaryDirectory() as scratch,
        inputs_file(inputs) as file,
        Worker(choice.systems[0], Path(scratch) / "log") as worker,
    ):
        worker.wait_until_ready()
        worker.ask("load", file=str(file))
        worker.run(first=WARM_UP)
        exact = worker.ask("reset")["exact"]
        before = worker.ask("memory")["now"]
        seconds = worker.run()
        peak = worker.ask("memory")["peak"]
        output = worker.output_bytes
    case = f"{shape.task} {size:,}, {shape.name}"
    rows = [
        Row(case, system.name, "resident before", before / MIB, "MiB"),
        Row(case, system.name, "peak", peak / MIB, "MiB"),
        Row(case, system.name, "output", output / MIB, "MiB"),
        Row(case, system.name, "time", seconds, "s"),
    ]
    if exact:  # else an earlier peak, of loading, may hide that of the run
        growth = max(peak - before - output, 0) / MIB
        rows.insert(3, Row(case, system.name, "growth less output", growth, "MiB"))
    return rows


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    sizes = tuple(arguments.sizes or ((1_000, 2_000) if arguments.quick else SIZES))
    origin = source(arguments.data)
    choice = choose(arguments)
    rows: list[Row] = []
    with models_folder(arguments.models_dir) as root:
        for name in ("tiny", "tiny-reranker"):
            shape = SHAPES[name]
            folder = make(shape, root)
            for system in choice.systems:
                ours = system.name.startswith(OURS)
                if arguments.quick and system.name != OURS and not arguments.systems:
                    continue
                few = not ours and PEERS_AT in sizes
                try:
                    # Once uncounted: a later start finds the compiled graph and needs less.
                    measure(shape, folder, system, origin, WARM_UP)
                    for size in (PEERS_AT,) if few else sizes:
                        print(f"{system.name}: {shape.task} {size:,}", flush=True)
                        rows += measure(shape, folder, system, origin, size)
                except RuntimeError as error:
                    if system.name == OURS:
                        raise
                    choice.left_out[f"{system.name}, {shape.task}"] = str(error)
                    print(f"left out: {error}")
    report(
        rows,
        file=arguments.json,
        packages=("FlagEmbedding", "sentence-transformers"),
        at_start=before,
        notes={
            "device": device(),
            "left out": choice.left_out,
            "resident before": "model loaded, inputs held, run once on 16 of them",
            "source": origin.name,
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
