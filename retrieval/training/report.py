"""What a training run did, as text, JSON, and as the tuned model's card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write
from retrieval.training.dev_set import MEASURE
from retrieval.training.saving import base_models, table, write_card
from retrieval.training.settings import TrainingSettings
from retrieval.types import ResolvedModel

RECORD = "training.json"
"""The run's record in the tuned model's folder."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a run did.

    Attributes:
        stage: `encoder` or `reranker`.
        output: folder of the tuned model.
        model: what it started from; fingerprint: of those weights.
        queries, dev_queries: how many it was trained and measured on.
        steps: optimiser steps; best_step: the one whose weights were kept.
        seconds: of training, with what earlier, cut off runs of it took not counted.
        losses: (step, loss).
        before: nDCG@10 on the dev set of the model it started from; None without a dev set.
        measured: (step, nDCG@10) during training.
        data: file → sha256 of what was learned from.
    """

    stage: str
    output: Path
    model: str
    fingerprint: str
    queries: int
    dev_queries: int
    steps: int
    best_step: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    before: float | None
    measured: tuple[tuple[int, float], ...]
    data: Mapping[str, str]

    @property
    def after(self) -> float | None:
        """nDCG@10 on the dev set of the weights that were kept."""
        return dict(self.measured).get(self.best_step)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, described in docs/json.md."""
        return {
            "stage": self.stage,
            "output": str(self.output),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "queries": self.queries,
            "dev_queries": self.dev_queries,
            "steps": self.steps,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "losses": [list(one) for one in self.losses],
            "measure": MEASURE,
            "before": self.before,
            "after": self.after,
            "measured": [list(one) for one in self.measured],
            "data": dict(self.data),
        }

    def as_text(self) -> str:
        """What a user wants to know, in a few lines."""
        took = f"{self.seconds / 60:.1f} min" if self.seconds >= 60 else f"{self.seconds:.0f} s"
        lines = [f"{self.steps} steps on {self.queries:,} queries in {took}; {self._losses()}"]
        if self.before is not None and self.after is not None:
            lines.append(
                f"dev {MEASURE} {self.before:.4f} → {self.after:.4f} "
                f"({self.dev_queries} queries; step {self.best_step} was kept)"
            )
            if self.after <= self.before:
                lines.append("Nothing was gained on the dev set: keep the model it started from.")
        lines.append(
            f"Written to {self.output}. Whether it is better, `retrieval train gate` says."
        )
        return "\n".join(lines)

    def _losses(self) -> str:
        if not self.losses:
            return "no loss was logged"
        tenth = max(1, len(self.losses) // 10)
        first = [loss for _, loss in self.losses[:tenth]]
        last = [loss for _, loss in self.losses[-tenth:]]
        return f"loss {sum(first) / tenth:.4f} → {sum(last) / tenth:.4f}"


def write_record(
    report: TrainingReport, settings: TrainingSettings, base: ResolvedModel, folder: Path
) -> None:
    """Write training.json and the model card into the tuned model's folder.

    Raises:
        OSError: they cannot be written.
    """
    record = {**report.as_dict(), "output": folder.name, "settings": settings.as_dict()}
    with atomic_write(folder / RECORD) as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
    results: Sequence[Sequence[object]] = ()
    if report.before is not None:
        results = [
            ("start", f"{report.before:.4f}"),
            *((step, f"{value:.4f}") for step, value in report.measured),
        ]
    names = base_models([base])
    started = names[0] if names else base.spec.name
    sections = [
        ("Data", table(("file", "content"), list(report.data.items()))),
        ("Training settings", table(("setting", "value"), _changed(settings))),
    ]
    if results:
        sections.append(
            (
                "Results during training",
                f"{MEASURE} on {report.dev_queries} held-out queries; step {report.best_step} was "
                f"kept.\n\n{table(('step', MEASURE), results)}",
            )
        )
    write_card(
        folder,
        base.spec,
        title=folder.name,
        summary=f"{started}, fine-tuned as {_article(report.stage)} on {report.queries:,} queries "
        f"in {report.steps} steps. Its start had the fingerprint `{base.fingerprint}`.",
        sections=sections,
        base_models=names,
        licence=base.spec.licence,
    )


def _changed(settings: TrainingSettings) -> list[tuple[str, object]]:
    hidden = {"model", "train_data", "dev_data", "output_dir", "tensorboard", "threads", "device"}
    return [
        (name, value)
        for name, value in settings.as_dict().items()
        if name not in hidden and value not in (None, [], False)
    ]


def _article(stage: str) -> str:
    return f"an {stage}" if stage == "encoder" else f"a {stage}"
