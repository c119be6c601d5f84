"""Runs systems side by side, each in a process of its own, and lets them take turns.

A system is described by the settings that `peers/worker.py` gets: which system, which task, which
model folder, which device, and options. Packages that cannot be installed beside this library have
interpreters of their own, given as `--peer NAME=PYTHON`; see `peers/README.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from _report import OURS, machine
from numpy.typing import NDArray

WORKER = Path(__file__).resolve().parent / "peers" / "worker.py"
ISA = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
}
"""`--isa`: what torch, its MKL and oneDNN (torch's and OpenVINO's) read when they start. Of
OpenVINO, products in int8 and bf16 obey; those in fp32 and its fused attention go by the CPU."""

START = 600
"""Seconds a system may take to load, int8 calibration included."""


@dataclass(frozen=True, slots=True)
class System:
    """name: as the table has it. python: the interpreter. settings: what it is loaded with."""

    name: str
    settings: dict[str, Any]
    python: str = sys.executable

    def with_settings(self, **more: Any) -> System:
        return System(self.name, {**self.settings, **more}, self.python)


def _own() -> dict[str, System]:
    """The systems that live beside this library."""
    found = [System(OURS, {"system": "retrieval"})]
    if not on_gpu():
        found.append(System(f"{OURS} int8", {"system": "retrieval", "dtype": "int8"}))
    flag = {"system": "FlagEmbedding"}
    found += [
        System("FlagEmbedding, its batch", flag),
        System("FlagEmbedding, batch 32", {**flag, "batch_size": 32}),
        System("sentence-transformers", {"system": "sentence-transformers"}),
    ]
    return {system.name: system for system in found}


_NEEDS = {
    f"{OURS} int8": ("nncf", "openvino"),
    "FlagEmbedding, its batch": ("FlagEmbedding",),
    "FlagEmbedding, batch 32": ("FlagEmbedding",),
    "sentence-transformers": ("sentence_transformers",),
}


_NOT_QUICK = {f"{OURS} int8", "FlagEmbedding, its batch"}
"""What --quick leaves out: a minute is short."""


def _peers() -> dict[str, list[System]]:
    """What each `--peer NAME` brings."""
    onnx = {"system": "sentence-transformers", "instructions": _instructions()}
    return {
        "onnx": [
            System("sentence-transformers ONNX", {**onnx, "backend": "onnx"}),
            System("sentence-transformers ONNX int8", {**onnx, "backend": "onnx-int8"}),
            System("ONNX Runtime int8", {"system": "onnxruntime"}),
        ],
        "openvino": [
            System(
                "sentence-transformers OpenVINO",
                {"system": "sentence-transformers", "backend": "openvino"},
            ),
            System(
                "sentence-transformers OpenVINO int8",
                {"system": "sentence-transformers", "backend": "openvino-int8"},
            ),
        ],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every script that compares systems takes."""
    known = [*_own(), *(system.name for systems in _peers().values() for system in systems)]
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="an interpreter for a peer: onnx=… or openvino=…, see benchmarks/peers/README.md",
    )
    parser.add_argument(
        "--systems", nargs="+", metavar="NAME", help=f"only these; there are: {', '.join(known)}"
    )
    parser.add_argument("--engine", default="auto", help="of this library")
    parser.add_argument("--dtype", default="auto", help="of this library: auto, fp32, bf16, …")
    parser.add_argument("--token-budget", type=int, help="of this library; its own by default")
    parser.add_argument(
        "--isa", choices=sorted(ISA), help="limit the instructions of torch and oneDNN to these"
    )
    parser.add_argument(
        "--models-dir", type=Path, help="keeps models and compiled graphs for the next run"
    )


@dataclass(slots=True)
class Choice:
    """What is to run, and why something that could be asked for is not: name → reason."""

    systems: list[System]
    left_out: dict[str, str] = field(default_factory=dict)


def choose(arguments: argparse.Namespace) -> Choice:
    """The systems asked for that are here. Exits where a name or a peer does not exist.

    `--isa` takes effect here: before anything has imported torch or OpenVINO.
    """
    os.environ.update(ISA.get(arguments.isa, {}))
    peers = _peers()
    options = {"engine": arguments.engine, "token_budget": arguments.token_budget}
    options = {key: value for key, value in options.items() if value is not None}
    systems = dict(_own())
    left_out: dict[str, str] = {}
    for name, packages in _NEEDS.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing and systems.pop(name, None):
            left_out[name] = f"{', '.join(missing)} is not installed"
    pythons = dict(_peer(value, list(peers)) for value in arguments.peer)
    for kind, kinds in peers.items():
        for system in kinds:
            if kind in pythons:
                systems[system.name] = System(system.name, system.settings, pythons[kind])
            else:
                left_out[system.name] = f"no --peer {kind}=… was given"
    if arguments.quick and not arguments.systems:
        for name in set(systems) & _NOT_QUICK:
            del systems[name]
            left_out[name] = "--quick"
    if arguments.systems:
        unknown = [name for name in arguments.systems if name not in systems]
        if unknown:
            why = left_out.get(unknown[0], f"there are: {', '.join(systems)}")
            raise SystemExit(f"--systems {unknown[0]!r} cannot be run: {why}")
        systems = {name: systems[name] for name in arguments.systems}
        left_out = {}
    chosen = []
    for system in systems.values():
        ours = system.settings["system"] == "retrieval"
        own = {"dtype": arguments.dtype} | options | system.settings
        chosen.append(System(system.name, own if ours else system.settings, system.python))
    return Choice(chosen, left_out)


def _peer(value: str, known: list[str]) -> tuple[str, str]:
    name, _, python = value.partition("=")
    if name not in known or not Path(python).is_file():
        raise SystemExit(
            f"--peer {value!r} was given, expected NAME=PYTHON with a NAME of {', '.join(known)} "
            "and the interpreter's path. See benchmarks/peers/README.md."
        )
    return name, python


class Worker:
    """A system in its process. Use `with`; orders are those of `peers/worker.py`.

    Raises:
        RuntimeError: the system does not load, or failed; with its own words.
    """

    def __init__(self, system: System, log: Path) -> None:
        self.system = system
        self._log = log.open("w", encoding="utf-8")
        self._log_path = log
        self._process = subprocess.Popen(
            [system.python, str(WORKER), json.dumps(system.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        self.facts: dict[str, Any] = {}
        self.computed: int | None = None
        self.output_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def wait_until_ready(self) -> None:
        self.facts = self._read()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died: `_read` tells why
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
        return self._read()

    def run(self, first: int | None = None) -> float:
        """Seconds of one run over all inputs, or over the first ones."""
        answer = self.ask("run", **({} if first is None else {"first": first}))
        self.computed, self.output_bytes = answer["computed"], answer["bytes"]
        return float(answer["seconds"])

    def output(self, folder: Path) -> NDArray[Any]:
        """What the last run gave."""
        file = folder / "output.npy"
        self.ask("save", file=str(file))
        result: NDArray[Any] = np.load(file)
        return result

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log_path.read_text(encoding="utf-8", errors="replace")[-1500:]
            raise RuntimeError(f"{self.system.name} ended without an answer:\n{tail}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.system.name}: {answer['error']}")
        return answer


@contextlib.contextmanager
def running(choice: Choice) -> Iterator[dict[str, Worker]]:
    """The systems, loaded. One that does not load is left out, with its reason, except ours."""
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-logs-")))
        ready: dict[str, Worker] = {}
        for number, system in enumerate(choice.systems):
            # One after the other: loading at once would need the memory of all loads together.
            worker = stack.enter_context(Worker(system, logs / f"{number}.log"))
            try:
                worker.wait_until_ready()
            except RuntimeError as error:
                if system.name == OURS:
                    raise
                choice.left_out[system.name] = str(error)
                print(f"left out: {error}", flush=True)
                continue
            print(f"{system.name}: {worker.facts['detail']} ({worker.facts['dtype']})", flush=True)
            ready[system.name] = worker
        yield ready


@contextlib.contextmanager
def inputs_file(inputs: Sequence[Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-inputs-") as folder:
        file = Path(folder) / "inputs.json"
        file.write_text(json.dumps(inputs), encoding="utf-8")
        yield file


def device() -> str:
    return "cuda:0" if on_gpu() else "cpu"


def on_gpu() -> bool:
    from retrieval.models.engines.hardware import may_have_accelerator

    if not may_have_accelerator():
        return False
    import torch

    return torch.cuda.is_available()


def _instructions() -> str:
    """Which of sentence-transformers' int8 recipes fits this processor."""
    features = machine()["features"]
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return "avx2"
    if "avx512_vnni" in features:
        return "avx512_vnni"
    if "avx512f" in features:
        return "avx512"
    return "arm64" if platform.machine() in ("arm64", "aarch64") else "avx2"
