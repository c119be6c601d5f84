"""What a merge and a sweep over merges say: as JSON, and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.api.measure_stages import StageScores, System
from retrieval.evaluation.significance import bootstrap_interval
from retrieval.evaluation.text_table import text_table
from retrieval.training.merging.choosing import SweepPoint
from retrieval.training.merging.report import MergeReport, shown_name
from retrieval.training.merging.weights import MergeWeights
from retrieval.types import ResolvedModel


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What each merge of a tuned model with its original is worth.

    Attributes:
        models: the tuned one and the original, as they were found.
        points: in the order of their shares; chosen: the place of the one to take; front: the
            places of those on the Pareto front of task against the general mean.
        task: name and split of the set that decides; general: of those that must not suffer.
        measure, system: what was measured. most_loss: the bound of the rule.
        scores: of each point all that was measured, the task first.
        notices: what is to be known of it, in sentences.
    """

    models: tuple[ResolvedModel, ResolvedModel]
    points: tuple[SweepPoint, ...]
    chosen: int
    front: tuple[int, ...]
    task: tuple[str, str]
    general: tuple[tuple[str, str], ...]
    measure: str
    system: System
    most_loss: float
    scores: tuple[tuple[StageScores, ...], ...]
    notices: tuple[str, ...]

    @property
    def weights(self) -> MergeWeights:
        """Those of the chosen merge."""
        share = self.points[self.chosen].share
        return MergeWeights((share, 1.0 - share), "sweep", rule=self.rule)

    def gains(self) -> list[tuple[float, float, float]]:
        """Of each point: what it gains over the original on the task, and the 95% interval of it
        (paired bootstrap over queries)."""
        original = self.scores[0][0].per_query
        rows = [
            [own[0].per_query[query] - original[query] for query in original] for own in self.scores
        ]
        differences = np.array(rows, dtype=np.float64)
        low, high = bootstrap_interval(differences)
        return list(
            zip(differences.mean(axis=1).tolist(), low.tolist(), high.tolist(), strict=True)
        )

    @property
    def rule(self) -> str:
        """How the choice was made, as a sentence."""
        task, split = self.task
        if not self.general:
            return f"the best {self.measure} on {task} ({split}); no general set was given"
        return (
            f"the best {self.measure} on {task} ({split}) among merges that lose at most "
            f"{self.most_loss:g} against the original on each of "
            + ", ".join(f"{name} ({own})" for name, own in self.general)
        )


def merge_as_dict(report: MergeReport) -> dict[str, Any]:
    """A merge as JSON, see docs/json.md."""
    losses = report.weights.losses
    spec = report.model.spec
    settings: dict[str, Any] = {"max_length": spec.max_length}
    if spec.kind == "encoder":
        settings |= {
            "pooling": spec.pooling,
            "query_instruction": spec.query_instruction,
            "passage_instruction": spec.passage_instruction,
        }
    return {
        "model": spec.name,
        "fingerprint": report.model.fingerprint,
        "kind": spec.kind,
        "settings": settings,
        "sources": [
            {
                "model": one.spec.name,
                "fingerprint": one.fingerprint,
                "weight": weight,
                "loss": None if losses is None else losses[place],
            }
            for place, (one, weight) in enumerate(
                zip(report.sources, report.weights.values, strict=True)
            )
        ],
        "weights": {
            "found": report.weights.found,
            "examples": report.weights.examples,
            "temperature": report.weights.temperature,
        },
        "method": report.method,
        "dtype": report.dtype,
        "tensors": report.tensors,
        "collinear": report.collinear,
        "notices": list(report.notices),
    }


def merge_as_text(report: MergeReport) -> str:
    """A merge in a few lines; notices are not among them."""
    losses = report.weights.losses
    rows = [
        [one.spec.name, f"{weight:.4g}", *([f"{losses[place]:.4f}"] if losses else [])]
        for place, (one, weight) in enumerate(
            zip(report.sources, report.weights.values, strict=True)
        )
    ]
    head = ["model", "weight", *(["loss"] if losses else [])]
    return "\n".join(
        [
            *text_table([head, *rows], left=1),
            "",
            f"{report.method} average of {report.tensors} tensors, weights {report.weights.told()}",
            f"in {report.model.spec.name}",
        ]
    )


def sweep_as_dict(report: SweepReport) -> dict[str, Any]:
    """A sweep as JSON, see docs/json.md."""
    return {
        "models": [one.spec.name for one in report.models],
        "measure": report.measure,
        "system": report.system,
        "task": dict(zip(("set", "split"), report.task, strict=True)),
        "general": [{"set": name, "split": split} for name, split in report.general],
        "most_loss": report.most_loss,
        "rule": report.rule,
        "points": [
            {
                "share": point.share,
                "task": point.task,
                "gain": dict(zip(("difference", "low", "high"), gain, strict=True)),
                "general": dict(point.general),
                "general_loss": point.general_loss(report.points[0]),
                "front": place in report.front,
                "chosen": place == report.chosen,
            }
            for place, (point, gain) in enumerate(zip(report.points, report.gains(), strict=True))
        ],
        "notices": list(report.notices),
    }


def sweep_as_text(report: SweepReport) -> str:
    """A sweep as a table: `*` marks the Pareto front, `>` the merge that is taken."""
    names = [name for name, _ in report.general]
    several = len(names) > 1
    head = ["", f"share of {shown_name(report.models[0])}", report.task[0], "gain", "95%", *names]
    head += ["general", "worst loss"] if several else ["loss"] if names else []
    rows = [head]
    for place, (point, gain) in enumerate(zip(report.points, report.gains(), strict=True)):
        marks = (">" if place == report.chosen else "") + ("*" if place in report.front else "")
        row = [
            marks,
            f"{point.share:g}",
            f"{point.task:.4f}",
            f"{gain[0]:+.4f}",
            f"{gain[1]:+.4f} to {gain[2]:+.4f}",
        ]
        row += [f"{point.general[name]:.4f}" for name in names]
        row += [f"{point.general_mean:.4f}"] if several else []
        row += [f"{point.general_loss(report.points[0]):+.4f}"] if names else []
        rows.append(row)
    lines = text_table(rows, left=1)
    chosen = report.points[report.chosen]
    return "\n".join(
        [
            f"{report.measure}, {report.system}; * Pareto front of task and general mean, > taken",
            "",
            *lines,
            "",
            f"Taken: {chosen.share:g} of {report.models[0].spec.name} and {1 - chosen.share:g} of "
            f"{report.models[1].spec.name}: {report.rule}.",
            *(["No merge is better than the original."] if chosen.share == 0 else []),
        ]
    )
