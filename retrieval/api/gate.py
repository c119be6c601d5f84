"""Measure models before and after tuning, on the task and elsewhere, and judge by a rule."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from retrieval.api.lent_models import EncoderLike, RerankerLike, loaded_encoder, loaded_reranker
from retrieval.api.measure_stages import JudgedCollection, StageScores, System, measure_stages
from retrieval.api.remembering import RememberingReranker
from retrieval.errors import InvalidInput
from retrieval.evaluation.gate import BeforeAfter, GateReport, GateRule, New, gate_report
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.ingestion import IngestProgressCallback
from retrieval.training.data.leaks import check_leaks
from retrieval.training.examples import TrainingExample
from retrieval.types import BlendChoice, Encoder

Models: TypeAlias = "tuple[EncoderLike, RerankerLike | None]"
"""An encoder and a reranker: names, folders or loaded ones; None for no second stage."""

SetLike: TypeAlias = "str | os.PathLike[str] | JudgedQueries | JudgedCollection"
"""A judged set, or where `load_judgements` finds one; a collection is searched as it is."""


def gate(
    before: Models,
    after: Models,
    *,
    task: SetLike,
    general: Sequence[SetLike] = (),
    task_split: str = "dev",
    general_split: str = "test",
    trained_on: Sequence[TrainingExample] = (),
    allow_leaks: bool = False,
    rule: GateRule | None = None,
    measure: str = "nDCG@10",
    candidates: int = 50,
    blend: BlendChoice = "auto",
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    on_index: IngestProgressCallback | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
) -> GateReport:
    """Whether tuned models may take the place of those before.

    Dense, hybrid and two-stage search are measured before and after, on the task's judged queries
    and on general sets. Where both models are new, two-stage is measured in all four combinations.
    Each text is encoded once per encoder, each pair scored once per reranker.

    Args:
        before, after: encoder and reranker. Where the rerankers are None, hybrid decides.
        task: what the models were tuned for; queries that they were not trained on.
        general: what else they must still be good at.
        task_split, general_split: of sets that are given as paths.
        trained_on: what the new models were trained on, to find judged queries among it.
        allow_leaks: measure also where there are some.
        rule: what passes, see `retrieval.evaluation.gate`.
        measure, candidates, blend, options, on_index, on_search: see `measure_stages`.
        limit: only the first queries of each set, for a quick look.

    Returns:
        A table of what was won and lost, the verdict, and which models to take.

    Raises:
        InvalidInput: nothing is new, a set is given twice, one reranker is None alone, or judged
            queries were trained on.
        CorpusError: a set cannot be read, or has no documents.
        ModelNotFound, ModelFault: see `retrieval.open`.
    """
    rule = rule or GateRule()
    if (before[1] is None) != (after[1] is None):
        raise InvalidInput(
            "a reranker was given on one side only: before and after would be different pipelines",
            fix="Give a reranker for both, or for neither; the same one where it is unchanged.",
        )
    sets = [read_set(task, task_split), *(read_set(one, general_split) for one in general)]
    sets = [one.first(limit) for one in sets]
    judged = [queries_of(one) for one in sets]
    _check_each_once(judged)
    notices: list[str] = []
    leaks = check_leaks(trained_on, judged, allow=allow_leaks)
    if leaks.queries:
        notices.append(
            f"{leaks.examples:,} training queries are queries of these sets, or nearly: figures "
            "are too good."
        )
    if not general:
        notices.append(
            "No general set was given: nothing here says what the models lost elsewhere."
        )
    with _Pair.loaded(before, after, options or {}) as pair:
        systems: list[System] = ["dense", "hybrid"] if "after" in pair.encoders else []
        if pair.rerankers:
            systems.append("two-stage")
        found: dict[str, list[StageScores]] = {}
        for encoder in pair.encoders:
            found[encoder] = measure_stages(
                sets, encoder=pair.encoders[encoder], reranker=list(pair.rerankers.values()),
                systems=systems, measure=measure, candidates=candidates, blend=blend,
                on_index=on_index, on_search=on_search,
            )  # fmt: skip
        notices += [notice for own in found.values() for one in own for notice in one.notices]
        return gate_report(
            pair.compared(found, judged[0]), measure=found["before"][0].measure,
            before=pair.names("before"), after=pair.names("after"), changed=pair.changed,
            system=systems[-1], rule=rule, notices=notices,
        )  # fmt: skip


class _Pair:
    """The models of both sides, each loaded once; what did not change is there as "before" alone.

    Attributes:
        encoders, rerankers: side → model.
    """

    def __init__(
        self, encoders: dict[str, Encoder], rerankers: dict[str, RememberingReranker]
    ) -> None:
        self.encoders = encoders
        self.rerankers = rerankers

    @classmethod
    @contextlib.contextmanager
    def loaded(cls, before: Models, after: Models, options: Mapping[str, Any]) -> Iterator[_Pair]:
        """Both sides until the block ends.

        Raises:
            InvalidInput: both are the same.
        """
        with contextlib.ExitStack() as stack:
            old = stack.enter_context(loaded_encoder(before[0], options))
            encoders = {"before": old}
            if after[0] is not before[0] and after[0] != before[0]:
                new = stack.enter_context(loaded_encoder(after[0], options))
                if replace(new.info, model="") != replace(old.info, model=""):
                    encoders["after"] = new
            rerankers: dict[str, RememberingReranker] = {}
            if before[1] is not None and after[1] is not None:
                first = stack.enter_context(loaded_reranker(before[1], old, options))
                rerankers["before"] = first
                if after[1] is not before[1] and after[1] != before[1]:
                    second = stack.enter_context(loaded_reranker(after[1], old, options))
                    if second.info.fingerprint != first.info.fingerprint:
                        rerankers["after"] = second
            if "after" not in {**encoders, **rerankers}:
                raise InvalidInput(
                    f"nothing is new: before and after are both {old.info.model}"
                    + (f" and {first.info.model}" if rerankers else ""),
                    fix="Give the tuned encoder, the tuned reranker, or both.",
                )
            yield cls(encoders, rerankers)

    @property
    def changed(self) -> New:
        """What is new after."""
        if "after" in self.encoders:
            return "both" if "after" in self.rerankers else "encoder"
        return "reranker"

    def names(self, side: str) -> tuple[str, str | None]:
        """Of encoder and reranker on one side."""
        encoder = self.encoders.get(side, self.encoders["before"])
        reranker = self.rerankers.get(side, self.rerankers.get("before"))
        return encoder.info.model, None if reranker is None else reranker.info.model

    def compared(
        self, found: Mapping[str, Sequence[StageScores]], task: JudgedQueries
    ) -> list[BeforeAfter]:
        """What was measured, side by side: all that is new against nothing new."""
        by_place: dict[tuple[str, str, str], dict[tuple[str, str], StageScores]] = {}
        for encoder, own in found.items():
            sides = {id(one): side for side, one in self._sides(own)}
            for one in own:
                table = by_place.setdefault((one.set, one.split, one.system), {})
                table[encoder, sides[id(one)]] = one
        kinds: dict[tuple[str, str], New] = {
            ("after", "before"): "encoder",
            ("before", "after"): "reranker",
            ("after", "after"): "both",
        }
        return [
            BeforeAfter(
                set=set_, split=split, task=(set_, split) == (task.name, task.split),
                system=system, new=kinds[sides_],
                before=table["before", "before"].per_query, after=one.per_query,
            )
            for (set_, split, system), table in by_place.items()
            for sides_, one in table.items()
            if sides_ in kinds
        ]  # fmt: skip

    def _sides(self, own: Sequence[StageScores]) -> Iterator[tuple[str, StageScores]]:
        """Each result with the side of its reranker: they come in the rerankers' order."""
        order = itertools.cycle(self.rerankers)
        for one in own:
            yield (next(order) if one.system == "two-stage" else "before"), one


def read_set(given: SetLike, split: str) -> JudgedQueries | JudgedCollection:
    """A judged set: the split of one that is given by its path, others as they are."""
    if isinstance(given, JudgedQueries | JudgedCollection):
        return given
    return load_judgements(given, split)


def queries_of(given: JudgedQueries | JudgedCollection) -> JudgedQueries:
    """The queries and judgements of a set."""
    return given.judged if isinstance(given, JudgedCollection) else given


def _check_each_once(sets: Sequence[JudgedQueries]) -> None:
    named = [(one.name, one.split) for one in sets]
    for one in named:
        if named.count(one) > 1:
            raise InvalidInput(
                f"the judged set {one[0]!r}, split {one[1]!r}, was given twice",
                fix="Give each set once; two of one name must be of different splits.",
            )
