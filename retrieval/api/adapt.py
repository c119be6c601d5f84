"""One command that closes the loop: labels become tuned models that a collection is searched with.

split → mine → train-encoder, train-reranker → merge → encode → gate → calibrate → switch

Each step is done in a folder of its own and passed over while its inputs are the same (see
`adapt_state`), so that a killed run, run again, goes on where it was. The collection's version at
the beginning stays what is compared with; searches use it until the last step, which is one rename
or one call. What the gate does not let pass is never searched with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from retrieval.api.adapt_cost import estimated_seconds
from retrieval.api.adapt_settings import STEPS, AdaptSettings, Labels, Step, read_labels
from retrieval.api.adapt_state import AdaptFolder, Progress, Values
from retrieval.api.adapt_steps import AdaptSteps, reranker_searched_with
from retrieval.api.adapt_work import WORKS
from retrieval.errors import InvalidInput
from retrieval.index.store import Store, StoreLike
from retrieval.types import Manifest

DEFAULT_FOLDER = ".retrieval-adapt"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What became of a step.

    Attributes:
        step: its name.
        state: done (now), unchanged (done before), skipped (as asked for), or stopped (what came
            before forbids it).
        text: what it found, in a sentence.
        result: the same as JSON values; empty where it was not done.
    """

    step: Step
    state: Literal["done", "unchanged", "skipped", "stopped"]
    text: str
    result: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What an adaptation did.

    Attributes:
        collection: its name.
        folder: where steps keep what they make.
        steps: in their order.
        recommended: which new models the gate lets pass: encoder, reranker, both; None for none.
        gate: its report, see `gate_as_dict`; and as text.
        version: that searches use now.
    """

    collection: str
    folder: Path
    steps: tuple[StepOutcome, ...]
    recommended: str | None
    gate: Values
    gate_text: str
    version: str

    def as_dict(self) -> Values:
        """JSON values, described in docs/json.md."""
        return {
            "collection": self.collection,
            "folder": str(self.folder),
            "version": self.version,
            "recommended": self.recommended,
            "steps": [
                {"step": one.step, "state": one.state, "text": one.text, "result": one.result}
                for one in self.steps
            ],
            "gate": self.gate,
        }

    def as_text(self) -> str:
        """The steps in a line each, and the table of before and after."""
        width = max(len(one.step) for one in self.steps)
        lines = [f"{one.step:<{width}}  {one.state:<9}  {one.text}" for one in self.steps]
        return "\n".join([*lines, "", self.gate_text])


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What a run would do: a step, how far it is, and how long it takes, as far as that is known.

    Attributes:
        state: done, begun, new, changed (inputs: it is done again), or skipped.
        seconds: roughly; None where only an earlier step can say.
    """

    step: Step
    state: Progress | Literal["skipped"]
    seconds: float | None


def adapt(
    collection: str,
    labels: str | os.PathLike[str],
    *,
    settings: AdaptSettings | None = None,
    folder: str | os.PathLike[str] | None = None,
    store: StoreLike = ".retrieval",
    tenant: str | None = None,
    on_step: Callable[[StepOutcome], None] | None = None,
    on_begin: Callable[[Step], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> AdaptReport:
    """Tune both stages on judged queries of a collection, and switch to them if they are better.

    Args:
        collection: its name.
        labels: judged queries in any format that `load_judgements` reads; what they name is looked
            up in the collection.
        settings: how; see `AdaptSettings`.
        folder: where steps keep what they make; `.retrieval-adapt/COLLECTION` by default. Models
            that are switched to stay there: the collection names them.
        store, tenant: of the collection.
        on_begin, on_step: called before and after each step.
        on_notice: told what is to be known before or while a step is done.
        progress: called with (what, done, total).

    Returns:
        What each step did, and before and after in a table.

    Raises:
        InvalidInput: a setting or the labels cannot be used; or the folder is another collection's.
        CorpusError: the labels cannot be read.
        CollectionNotFound, ModelNotFound, MissingExtra and others, as the steps.
    """
    settings = settings or AdaptSettings()
    place = Store.of(store)
    steps, state = _begin(collection, labels, settings, folder, place, tenant, claim=True)
    steps.on_notice, steps.progress = on_notice, progress
    outcomes: list[StepOutcome] = []
    for step in STEPS:
        if on_begin is not None:
            on_begin(step)
        reason = steps.left_out(step)
        if reason is not None:
            state_: Any = "skipped" if step in settings.skip else "stopped"
            outcome = StepOutcome(step, state_, reason)
        else:
            result, now = state.run(step, steps.inputs(step), partial(WORKS[step], steps))
            steps.results[step] = result
            outcome = StepOutcome(step, "done" if now else "unchanged", result["text"], result)
        outcomes.append(outcome)
        if on_step is not None:
            on_step(outcome)
    gate = steps.results["gate"]
    return AdaptReport(
        collection=collection, folder=state.path, steps=tuple(outcomes),
        recommended=gate["recommended"], gate=gate["report"], gate_text=gate["table"],
        version=place.current(collection),
    )  # fmt: skip


def plan(
    collection: str,
    labels: str | os.PathLike[str],
    *,
    settings: AdaptSettings | None = None,
    folder: str | os.PathLike[str] | None = None,
    store: StoreLike = ".retrieval",
    tenant: str | None = None,
) -> list[PlannedStep]:
    """What `adapt` would do, without doing it; nothing is written.

    Seconds are estimated from how fast both models read some of the collection's passages.
    """
    settings = settings or AdaptSettings()
    place = Store.of(store)
    steps, state = _begin(collection, labels, settings, folder, place, tenant, claim=False)
    planned: list[PlannedStep] = []
    known, seconds = True, estimated_seconds(steps)
    for step in STEPS:
        if step in settings.skip:
            planned.append(PlannedStep(step, "skipped", None))
            continue
        if known and steps.left_out(step) is not None:
            planned.append(PlannedStep(step, "skipped", None))
            continue
        how: Progress = state.state(step, steps.inputs(step)) if known else "new"
        if how == "done":
            steps.results[step] = state.result(step) or {}
        else:
            known = False
        planned.append(PlannedStep(step, how, 0.0 if how == "done" else seconds[step]))
    return planned


def _begin(
    collection: str,
    labels: str | os.PathLike[str],
    settings: AdaptSettings,
    folder: str | os.PathLike[str] | None,
    place: Store,
    tenant: str | None,
    *,
    claim: bool,
) -> tuple[AdaptSteps, AdaptFolder]:
    """The steps, on the version that the adaptation began with."""
    state = AdaptFolder(Path(DEFAULT_FOLDER) / collection if folder is None else folder)
    read: Labels = read_labels(labels, settings)
    head = state.head()
    if head is None:
        version = place.current(collection)
        built = place.manifest(version)
        head = {
            "collection": collection, "version": version, "id": built.id,
            "reranker": reranker_searched_with(built, settings),
        }  # fmt: skip
        if claim:
            state.claim(head)
    if head["collection"] != collection:
        raise InvalidInput(
            f"the folder {state.path} is of the collection {head['collection']!r}, and "
            f"{collection!r} was named",
            fix="Name another folder.",
        )
    manifest: Manifest = place.manifest(head["version"])
    if manifest.id != head["id"]:
        raise InvalidInput(
            f"{head['version']} was made anew since the adaptation in {state.path} began",
            fix="Begin anew in another folder.",
        )
    steps = AdaptSteps(place, head["version"], manifest, read, settings, tenant, head["reranker"])
    return steps, state
