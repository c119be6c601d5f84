"""One system in an interpreter of its own, which takes orders as JSON lines.

Started by `_systems.py` as `python worker.py SETTINGS`; see there for what SETTINGS holds. Answers
one line for each line it reads, and times only the work itself, so that systems whose packages
cannot live together take turns in one run:

    {"do": "load", "file": F}               inputs from a JSON file: texts or [query, passage]
    {"do": "run", "first": N}               all inputs, or the first N → seconds, computed tokens
    {"do": "latency", "runs": N, "most": S} each input alone, in turn, N times or S seconds
    {"do": "memory"}                        resident bytes: now, and the most since the last `reset`
    {"do": "reset"}                         start to look for a new peak
    {"do": "save", "file": F}               the last run's output as .npy

It uses nothing of this project unless the system is `retrieval`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def main() -> int:
    # Libraries print what they like; the way back to the caller must stay clean.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    try:
        from systems import load, versions

        system = load(settings)
        answer(replies, {"versions": versions(), "detail": system.detail, "dtype": system.dtype})
        serve(system, replies)
    except Exception as error:  # the caller's terminal is where it must be read
        answer(replies, {"error": f"{type(error).__name__}: {error}".strip()[:1500]})
        raise
    return 0


def answer(replies: TextIO, content: dict[str, Any]) -> None:
    replies.write(json.dumps(content) + "\n")
    replies.flush()


def serve(system: Any, replies: TextIO) -> None:
    inputs: list[Any] = []
    output: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        result: dict[str, Any] = {}
        if order["do"] == "load":
            inputs = json.loads(Path(order["file"]).read_text(encoding="utf-8"))
        elif order["do"] == "run":
            output = None
            part = inputs[: order.get("first")]
            system.computed = 0
            start = time.perf_counter()
            output = system.run(part)
            result["seconds"] = time.perf_counter() - start
            result["computed"] = system.computed or None
            result["bytes"] = int(output.nbytes)
        elif order["do"] == "latency":
            result["seconds"] = latencies(system, inputs, order["runs"], order["most"])
        elif order["do"] == "memory":
            result.update(memory())
        elif order["do"] == "reset":
            result["exact"] = reset_peak()
        elif order["do"] == "save":
            import numpy as np

            np.save(order["file"], np.asarray(output))
        else:
            raise ValueError(f"unknown order {order['do']!r}")
        answer(replies, result)


def latencies(system: Any, inputs: list[Any], runs: int, most: float) -> list[float]:
    """Seconds of each call with one input; an input may be a list of pairs, which go together."""
    seconds: list[float] = []
    until = time.perf_counter() + most
    for number in range(runs):
        one = inputs[number % len(inputs)]
        start = time.perf_counter()
        system.run_query(one)
        end = time.perf_counter()
        seconds.append(end - start)
        if end > until:
            break
    return seconds


def memory() -> dict[str, int]:
    """Resident bytes now and at their peak. Linux tells both; elsewhere the peak of the process."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return {
            name: 1024 * int(fields[key].split()[0])
            for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))
        }
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"now": peak, "peak": peak}


def reset_peak() -> bool:
    """Whether the system could be told to forget the peak so far (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
