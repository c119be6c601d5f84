"""What is seen of a run while it trains: a curve on a terminal, lines elsewhere, and a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from retrieval.training.dev_set import MEASURE

METRIC = "eval_dev"
"""The dev set's measure among the trainer's metrics."""

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_EVERY_S = 15.0  # between two lines where there is no terminal


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Logs losses and measurements, and shows them.

    Args:
        log: a file of JSON lines that is appended to: {"step", "loss"} or {"step", "dev"}.
        steps_per_epoch: optimiser steps in which every query is seen once.
        on_line: shows a line where there is no terminal; None shows nothing.
    """

    def __init__(
        self, log: Path, steps_per_epoch: int, on_line: Callable[[str], None] | None
    ) -> None:
        self._log = log
        self._steps_per_epoch = steps_per_epoch
        self._on_line = on_line
        self._live: Live | None = None
        self._started = self._shown = time.monotonic()
        self._first = 0
        self.losses: dict[int, float] = {}
        self.measured: dict[int, float] = {}

    def resume(self, step: int) -> None:
        """Take over what was logged up to a step; what came after it will come again."""
        kept: list[str] = []
        if self._log.exists():
            for line in self._log.read_text("utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the line at which the run was killed
                    continue
                if record["step"] <= step:
                    kept.append(line)
                    self._remember(record)
        self._log.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        self._first = step

    def start_with(self, dev: float) -> None:
        """Log the dev set's measure before the first step."""
        self._add({"step": 0, "dev": dev})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the curve."""
        self._started = time.monotonic()
        if self._on_line is not None and state.is_world_process_zero and sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """A loss, or a measurement."""
        if not state.is_world_process_zero or logs is None:
            return
        if "loss" in logs:
            self._add({"step": state.global_step, "loss": logs["loss"]})
        elif METRIC in logs:
            self._add({"step": state.global_step, "dev": logs[METRIC]})
        else:
            return
        self._show(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the curve."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, after an error, too."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _add(self, record: dict[str, float]) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._remember(record)

    def _remember(self, record: Mapping[str, float]) -> None:
        if "loss" in record:
            self.losses[int(record["step"])] = record["loss"]
        else:
            self.measured[int(record["step"])] = record["dev"]

    def _show(self, state: TrainerState) -> None:
        line = self._line(state.global_step, state.max_steps)
        if self._live is not None:
            curve = sparkline(list(self.losses.values()), _WIDTH)
            dev = sparkline(list(self.measured.values()), _WIDTH)
            shown = f"{line}\nloss {curve}" + (f"\ndev  {dev}" if dev else "")
            self._live.update(Text(shown), refresh=True)
        elif self._on_line is not None and time.monotonic() - self._shown >= _EVERY_S:
            self._shown = time.monotonic()
            self._on_line(line)

    def _line(self, step: int, steps: int) -> str:
        done = max(1, step - self._first)
        left = (time.monotonic() - self._started) / done * (steps - step)
        parts = [f"step {step}/{steps}", f"epoch {step / self._steps_per_epoch:.1f}"]
        if self.losses:
            last = list(self.losses.values())[-10:]
            parts.append(f"loss {sum(last) / len(last):.4f}")
        if self.measured:
            parts.append(f"dev {MEASURE} {list(self.measured.values())[-1]:.4f}")
        parts.append(
            f"about {left / 60:.0f} min left" if left >= 60 else f"about {left:.0f} s left"
        )
        return ", ".join(parts)


def sparkline(values: list[float], width: int) -> str:
    """Values as a line of bars, at most so many: the mean of each part of them.

    Example:
        >>> from retrieval.training.progress import sparkline
        >>> sparkline([3.0, 2.0, 1.0, 1.0], 4)
        '█▅▁▁'
    """
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    means = [
        sum(part) / len(part)
        for part in (values[start : start + size] for start in range(0, len(values), size))
    ]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[1 + round((mean - low) / span * (len(_BARS) - 2))] for mean in means)
