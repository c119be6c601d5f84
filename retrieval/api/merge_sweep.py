"""A sweep over the weights of a merge: each merge measured, the front, and which to take."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval._validate import number
from retrieval.api.measure_stages import StageScores, System, measure_stages
from retrieval.api.merge import ModelName, resolve_all
from retrieval.api.merge_report import SweepReport
from retrieval.errors import InvalidInput
from retrieval.evaluation import beir, flag_embedding
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.models.options import SETTINGS
from retrieval.training.merging.average import Method
from retrieval.training.merging.choosing import SweepPoint, choose, pareto_front
from retrieval.training.merging.merge import merge_models
from retrieval.training.merging.weights import MergeWeights
from retrieval.types import ModelKind

_CHOOSING_SPLITS = ("dev", "validation", "valid")


def sweep_merges(
    tuned: ModelName,
    original: ModelName,
    shares: Sequence[float],
    *,
    task: JudgedQueries,
    general: Sequence[JudgedQueries] = (),
    kind: ModelKind | None = None,
    method: Method = "linear",
    system: System | None = None,
    encoder: str | os.PathLike[str] = "starter",
    reranker: str | os.PathLike[str] | None = None,
    measure: str = "nDCG@10",
    most_loss: float = 0.01,
    options: Mapping[str, Any] | None = None,
    on_point: Callable[[float, int, int], None] | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
) -> SweepReport:
    """Merge a tuned model with its original at several shares, and measure each merge.

    Merges lie in a temporary folder: of encoders one at a time, of rerankers all, which are then
    measured on the same candidates. The original alone is always measured: what general sets lose
    is counted against it.

    Args:
        tuned, original: two encoders or two rerankers, see `retrieval.api.merge.merge`.
        shares: of the tuned model, from 0 to 1.
        task: the judged queries that decide; never those on which the result is reported.
        general: judged sets that must not suffer.
        system: what is searched with, see `measure_stages`. Default: dense for encoders,
            two-stage for rerankers.
        encoder: of the first stage, where rerankers are merged.
        reranker: of the second stage, where encoders are merged and `system` is two-stage.
        most_loss: what each general set may lose against the original.
        options: how models run, and settings that they leave open.
        on_point: called as (share, how many are done, of how many) before each merge is measured.
        on_search: progress of its searches, see `measure_stages`.

    Raises:
        InvalidInput, CorpusError, ModelNotFound, ModelFault: see `merge` and `measure_stages`.
    """
    for share in shares:
        number(
            share, "a share of the sweep", least=0.0, most=1.0, expected="a number from 0 to 1",
            fix="Give shares of the first model, such as 0,0.25,0.5,0.75,1.",
        )  # fmt: skip
    options = dict(options or {})
    number(most_loss, "most_loss", least=0.0, fix="Give a difference of the measure, such as 0.01.")
    found = resolve_all([tuned, original], kind, options)
    running = {name: value for name, value in options.items() if name not in SETTINGS}
    is_encoder = found[0].spec.kind == "encoder"
    system = system or ("dense" if is_encoder else "two-stage")
    _check_system(is_encoder, system, reranker)
    _check_names(general)
    values = sorted({0.0, *map(float, shares)})
    sets = [task, *general]
    common: dict[str, Any] = {
        "systems": [system], "measure": measure, "options": running, "on_search": on_search,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="retrieval-merge-") as scratch:

        def merged(share: float) -> Path:
            folder = Path(scratch) / f"share-{share:g}"
            weights = MergeWeights((share, 1.0 - share), "sweep")
            return merge_models(found, weights, folder, method=method).model.path

        scores: list[tuple[StageScores, ...]] = []
        if is_encoder:
            for place, share in enumerate(values):
                if on_point is not None:
                    on_point(share, place, len(values))
                folder = merged(share)
                scores.append(
                    tuple(measure_stages(sets, encoder=folder, reranker=reranker, **common))
                )
                shutil.rmtree(folder)
        else:
            folders = [merged(share) for share in values]
            made = measure_stages(sets, encoder=encoder, reranker=folders, **common)
            scores = [tuple(made[place :: len(values)]) for place in range(len(values))]
    points = [
        SweepPoint(share, own[0].value, {one.set: one.value for one in own[1:]})
        for share, own in zip(values, scores, strict=True)
    ]
    return SweepReport(
        models=(found[0], found[1]),
        points=tuple(points),
        chosen=choose(points, points[0], most_loss),
        front=tuple(pareto_front(points)),
        task=(task.name, task.split),
        general=tuple((one.name, one.split) for one in general),
        measure=scores[0][0].measure,
        system=system,
        most_loss=most_loss,
        scores=tuple(scores),
        notices=tuple(dict.fromkeys(note for own in scores for one in own for note in one.notices)),
    )


def judged_for_choosing(
    path: str | os.PathLike[str], split: str | None, *, general: bool = False
) -> tuple[JudgedQueries, str | None]:
    """Judged queries that a choice may look at, and what is to be said of that.

    Args:
        split: which judgements; None for the first there is of dev, validation and valid.
        general: a general set may have nothing but a test split: it is taken then, and said.

    Raises:
        InvalidInput: nothing was said, and there is none to choose on.
        CorpusError: see `load_judgements`.
    """
    root = Path(path)
    if not root.is_dir():
        return load_judgements(root), None
    name = root.resolve().name
    there = _splits(root)
    if split is None:
        split = next((one for one in _CHOOSING_SPLITS if one in there), None)
    if split is None and general and "test" in there:
        split = "test"
    if split is None:
        raise InvalidInput(
            f"{root} has no dev split to choose on; it has {', '.join(there) or 'none'}",
            fix="Name a split with --task-split: one that nothing was trained on and that the "
            "result will not be reported on.",
        )
    notice = None
    if split == "test":
        notice = (
            f"the choice looks at the test split of {name}: figures on it are no longer "
            "evidence for what was chosen"
        )
    return load_judgements(root, split), notice


def _splits(root: Path) -> list[str]:
    folders = [root, *(one for one in sorted(root.iterdir()) if one.is_dir())]
    for folder in folders:
        found = beir.splits(folder) or flag_embedding.splits(folder)
        if found:
            return found
    return []


def _check_system(is_encoder: bool, system: System, reranker: object) -> None:
    if not is_encoder and system != "two-stage":
        raise InvalidInput(
            f"the system {system!r} was asked for a sweep over rerankers, which it does not use",
            fix="Use 'two-stage', or leave it out.",
        )
    if is_encoder and system == "two-stage" and reranker is None:
        raise InvalidInput(
            "a sweep over encoders by 'two-stage' needs a reranker",
            fix="Name one with reranker=… (CLI: --reranker starter).",
        )


def _check_names(general: Sequence[JudgedQueries]) -> None:
    names = [one.name for one in general]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(
            f"two general sets are called {twice[0]!r}, and their figures go by their names",
            fix="Rename the folder of one of them.",
        )
