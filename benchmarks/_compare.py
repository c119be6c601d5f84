"""What `encode.py` and `rerank.py` have in common: systems in turns over the same inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _machine import Rates, model_flops
from _report import OURS, Row, in_turns, median, spread
from _shapes import Shape
from _systems import Choice, System, Worker, device, inputs_file, running
from numpy.typing import NDArray

WARM_UP = 16
REFERENCE = 32
CALIBRATION = 24


@dataclass(slots=True)
class Figures:
    """Of each system: seconds of its rounds, its output, tokens it computed, and its dtype."""

    seconds: dict[str, list[float]]
    outputs: dict[str, NDArray[Any]]
    computed: dict[str, int | None]
    dtypes: dict[str, str]
    details: dict[str, str]
    versions: dict[str, dict[str, str]]
    reference: NDArray[Any]
    rates: Rates


def compare(
    shape: Shape,
    folder: Path,
    inputs: Sequence[Any],
    choice: Choice,
    *,
    seconds: float,
    rounds: int,
) -> Figures:
    """Load the systems, warm them up, and let them take turns."""
    choice = prepared(choice, shape, folder, inputs)
    with (
        tempfile.TemporaryDirectory() as scratch,
        inputs_file(inputs) as file,
        running(choice) as workers,
    ):
        rates = Rates(shape, {w.facts["dtype"] for w in workers.values()}, device())
        for worker in workers.values():
            worker.ask("load", file=str(file))
            worker.run(first=WARM_UP)
        times = in_turns(
            {name: worker.run for name, worker in workers.items()},
            rounds,
            seconds_each=seconds / len(workers),
            before_round=rates.measure,
        )
        outputs = {name: worker.output(Path(scratch)) for name, worker in workers.items()}
        reference = _reference(shape, folder, inputs)
        return Figures(
            times,
            outputs,
            {name: worker.computed for name, worker in workers.items()},
            {name: worker.facts["dtype"] for name, worker in workers.items()},
            {name: worker.facts["detail"] for name, worker in workers.items()},
            {name: worker.facts["versions"] for name, worker in workers.items()},
            reference,
            rates,
        )


def prepared(choice: Choice, shape: Shape, folder: Path, inputs: Sequence[Any]) -> Choice:
    """The systems with the model, device and calibration texts that they are to load."""
    passages = [one if isinstance(one, str) else one[-1] for one in inputs]
    common = {
        "task": shape.task,
        "model": str(folder),
        "device": device(),
        "dimension": shape.width,
        "cache": str(folder.parent / "cache"),
    }
    # Few: what the ranges of random weights are makes no difference to the speed. Trained ones
    # are calibrated as they are for users, since there the outputs are judged, too.
    few = {"calibration": [text for text in passages[:CALIBRATION] if isinstance(text, str)]}
    (folder.parent / "cache").mkdir(exist_ok=True)
    choice.systems = [
        system.with_settings(**common)
        if shape.trained and system.settings["system"] == "retrieval"
        else system.with_settings(**common, **few)
        for system in choice.systems
    ]
    return choice


def _reference(shape: Shape, folder: Path, inputs: Sequence[Any]) -> NDArray[Any]:
    """Outputs for the first inputs, by transformers alone in fp32."""
    system = System("reference", {"system": "reference"})
    choice = prepared(Choice([system]), shape, folder, inputs)
    with (
        tempfile.TemporaryDirectory() as scratch,
        inputs_file(inputs[:REFERENCE]) as file,
        Worker(choice.systems[0], Path(scratch) / "log") as worker,
    ):
        worker.wait_until_ready()
        worker.ask("load", file=str(file))
        worker.run()
        return worker.output(Path(scratch))


def speed_rows(
    case: str, shape: Shape, figures: Figures, lengths: NDArray[np.int64], unit: str
) -> list[Row]:
    """Throughput, waste, share of the matmul rate, spread, and ours against each."""
    tokens = int(lengths.sum())
    rows = []
    for name, times in figures.seconds.items():
        middle = median(times)
        ours = name.startswith(OURS)
        row = Row(case, name, "throughput", len(lengths) / middle, f"{unit}/s")
        rows.append(row)
        rows.append(replace(row, metric="tokens", value=tokens / middle, unit="tokens/s"))
        computed = figures.computed[name]
        if computed:
            waste = 100 * (1 - tokens / computed)
            rows.append(replace(row, metric="padding and probes", value=waste, unit="%"))
        dtype = figures.dtypes[name]
        for kind in ("square", "model"):
            rate = figures.rates.rate(dtype, kind)
            if rate is None:
                continue
            own = model_flops(shape, lengths, first_only=ours) / middle / 1e9
            share = Row(case, name, f"share of {kind} matmul rate", 100 * own / rate, "%")
            rows.append(share)
        rows.append(replace(row, metric="spread", value=100 * spread(times), unit="%"))
        rows.append(replace(row, metric="rounds", value=len(times), unit=""))
    for base in [name for name in figures.seconds if name.startswith(OURS)]:
        for name, times in figures.seconds.items():
            if name != base and not name.startswith(OURS):
                ratio = median(times) / median(figures.seconds[base])
                rows.append(Row(f"{case}: {base} against", name, "faster by", ratio, "×"))
    return rows


def notes(figures: Figures, choice: Choice, **more: Any) -> dict[str, Any]:
    """What a reader of the JSON must know beside the figures."""
    return {
        **more,
        "device": device(),
        "systems": {
            name: f"{figures.details[name]} ({figures.dtypes[name]})" for name in figures.details
        },
        "versions of systems": figures.versions,
        "left out": choice.left_out,
        "matmul rates, GFLOP/s": {k: round(v, 1) for k, v in figures.rates.all().items()},
        "share of matmul rate": (
            "products on real tokens a second, padding not counted, over the machine's rate in "
            "the system's number format; square: 2048 x 2048, model: the model's own shapes. Ours "
            "counts what it computes: of the last layer the first token only"
        ),
    }
