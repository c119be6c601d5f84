"""What every benchmark shares: arguments, the machine, timing in turns, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OURS = "retrieval"
"""The `system` of this library's own rows."""

_PACKAGES = ("two-stage-retrieval", "numpy", "torch", "transformers", "tokenizers", "openvino")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was tried, by which system, what was measured, and in which unit."""

    case: str
    system: str
    metric: str
    value: float
    unit: str


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has: --quick and --json."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--quick", action="store_true", help="a smaller run, under a minute")
    result.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return result


def machine() -> dict[str, Any]:
    """The machine the figures hold for."""
    cpu, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        name = re.search(r"model name\s*:\s*(.+)", text)
        cpu = name[1].strip() if name else cpu
        flags = set(text.split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    result: dict[str, Any] = {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "features": [flag for flag in wanted if flag in flags],
        "system": platform.platform(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        result["memory_gib"] = round(pages * size / 2**30, 1)
    if hasattr(os, "getloadavg"):
        # Other work on the machine makes figures worse; a reader should see it.
        result["load_average"] = [round(load, 2) for load in os.getloadavg()]
    return result


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, of what this library stands on, and of `packages`."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def in_turns(systems: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run. Systems take turns, so that a slow spell of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, run in systems.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    """The median, which one disturbed round does not move."""
    return float(statistics.median(values))


def report(
    rows: list[Row],
    *,
    file: Path | None = None,
    packages: Iterable[str] = (),
    at_start: dict[str, Any] | None = None,
) -> None:
    """Print the rows as a table, and write them to `file` as JSON.

    Args:
        rows: the figures.
        file: where to write; None for the table alone.
        packages: whose versions matter besides those of the library's own parts.
        at_start: `machine()` as it was before the measuring, whose own load it then leaves out.
    """
    cells = [("case", "system", "metric", "value", "unit")]
    cells += [(row.case, row.system, row.metric, f"{row.value:.6g}", row.unit) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    for line in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    if file is None:
        return
    content = {
        "machine": at_start or machine(),
        "versions": versions(packages),
        "command": shlex.join(["python", *sys.argv]),
        "rows": [asdict(row) for row in rows],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(file)
    print(f"\nwritten to {file}")
