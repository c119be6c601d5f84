"""What every benchmark shares: arguments, the machine, timing in turns, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

OURS = "retrieval"
"""The `system` of this library's own rows."""

_PACKAGES = ("two-stage-retrieval", "numpy", "torch", "transformers", "tokenizers", "openvino")
_PACKAGES += ("nncf",)


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


def in_turns(
    systems: Mapping[str, Callable[[], float | object]],
    rounds: int,
    *,
    seconds_each: float = math.inf,
    before_round: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each run. Systems take turns, so that a slow spell of the machine hits all.

    Args:
        systems: what to run; one that returns a float has timed itself.
        rounds: how often at most.
        seconds_each: a system that has used up this time, or would with its next turn, sits out;
            everyone has one turn at least.
        before_round: called before each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        playing = [n for n, t in seconds.items() if not t or sum(t) + min(t) <= seconds_each]
        if not playing:
            break
        if before_round is not None:
            before_round()
        for name in playing:
            start = time.perf_counter()
            own = systems[name]()
            passed = time.perf_counter() - start
            seconds[name].append(own if isinstance(own, float) else passed)
    return seconds


def median(values: list[float]) -> float:
    """The median, which one disturbed round does not move."""
    return float(statistics.median(values))


def spread(values: list[float]) -> float:
    """(largest - smallest) / median: how far one may trust the median."""
    return (max(values) - min(values)) / median(values)


def table(rows: list[Row]) -> str:
    """For each case a table: a line for each system, a column for each metric.

    Where there is one system only, one table of all cases that have the same metrics.
    """
    alone = len({row.system for row in rows}) == 1
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row.case, []).append(row)
    tables: dict[tuple[object, ...], list[Row]] = {}
    for case, own in cases.items():
        key = tuple((row.metric, row.unit) for row in own) if alone else (case,)
        tables.setdefault(key, []).extend(own)
    blocks = []
    for own in tables.values():
        block = _grid(own, "case" if alone else "system")
        blocks.append(block if alone else f"{own[0].case}\n" + _indented(block))
    return "\n\n".join(blocks)


def _grid(rows: list[Row], by: Literal["case", "system"]) -> str:
    heads = list(dict.fromkeys((row.metric, row.unit) for row in rows))
    lines: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        line = lines.setdefault(getattr(row, by), {})
        line[row.metric, row.unit] = f"{row.value:.6g}"
    cells = [[by, *(f"{metric} [{unit}]" if unit else metric for metric, unit in heads)]]
    cells += [[name, *(line.get(head, "") for head in heads)] for name, line in lines.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def report(
    rows: list[Row],
    *,
    file: Path | None = None,
    packages: Iterable[str] = (),
    at_start: dict[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> None:
    """Print the rows as a table, and write them to `file` as JSON.

    Args:
        rows: the figures.
        file: where to write; None for the table alone.
        packages: whose versions matter besides those of the library's own parts.
        at_start: `machine()` as it was before the measuring, whose own load it then leaves out.
        notes: what else a reader must know: settings, versions of peers, what was left out.
        quiet: write only.
    """
    if not quiet:
        print(table(rows))
    if file is None:
        return
    content = {
        "machine": at_start or machine(),
        "versions": versions(packages),
        "command": shlex.join(["python", *sys.argv]),
        **({"notes": dict(notes)} if notes else {}),
        "rows": [asdict(row) for row in rows],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(file)
    if not quiet:
        print(f"\nwritten to {file}")
