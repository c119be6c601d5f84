"""What an adaptation is asked for, and the labels that it learns from and is judged by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from retrieval._validate import number, one_of, unicode_text
from retrieval.api.adapt_state import Values, digest_of
from retrieval.api.gate import queries_of, read_set
from retrieval.errors import InvalidInput
from retrieval.evaluation.gate import GateRule
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.training.data.leaks import find_leaks, without_leaks
from retrieval.training.data.split import split_dev
from retrieval.training.examples import TrainingExample
from retrieval.training.mining.settings import MiningSettings

Step: TypeAlias = Literal[
    "split", "mine", "train-encoder", "train-reranker", "merge", "encode", "gate", "calibrate",
    "switch",
]  # fmt: skip
STEPS: tuple[Step, ...] = get_args(Step)

SKIPPABLE: tuple[Step, ...] = ("train-encoder", "train-reranker", "merge", "calibrate", "switch")
"""Steps that can be left out. Splitting, mining and the gate cannot: without them nobody knows
whether anything has become better."""

RECIPE = ("mine", "encoder", "reranker")
"""Tables of a recipe: settings of mining and of both trainings, by their own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptSettings:
    """How a collection is adapted.

    Attributes:
        split: of the labels, to train on; None takes `train` of a folder, and all of a file.
        dev_split: of the labels, to judge by; None holds out `dev_share` of the queries.
        dev_share, seed: of that choice; queries that share an answer stay on one side.
        general, general_split: judged sets that must not get worse.
        reranker: the second stage that is tuned; "auto" is what searches take.
        merge_share: of the tuned model in the merge with the one before.
        rule: of the gate.
        candidates: passages that the gate re-ranks.
        recipe: "mine", "encoder", "reranker" → settings of `MiningSettings` (and `teacher`, as
            for `mine`), `EncoderTraining` and `RerankerTraining`.
        skip: steps to leave out, see `SKIPPABLE`.
        model_options: how models run, as for `retrieval.open`.

    Raises:
        InvalidInput: a value cannot be used.
    """

    split: str | None = None
    dev_split: str | None = None
    dev_share: float = 0.2
    seed: int = 0
    general: Sequence[str | os.PathLike[str]] = ()
    general_split: str = "test"
    reranker: str = "auto"
    merge_share: float = 0.5
    rule: GateRule = field(default_factory=GateRule)
    candidates: int = 50
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skip: Sequence[str] = ()
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for step in self.skip:
            one_of(step, SKIPPABLE, "a step to skip")
        if {"train-encoder", "train-reranker"} <= set(self.skip):
            raise InvalidInput(
                "both trainings are to be skipped, so that nothing would be new",
                fix="Train one stage at least.",
            )
        number(
            self.merge_share, "merge_share", above=0, most=1,
            expected="a number above 0 up to 1",
            fix="Give the tuned model's share, such as 0.5; 1 takes it as it is.",
        )  # fmt: skip
        for table, values in self.recipe.items():
            one_of(table, RECIPE, "a table of the recipe")
            if not isinstance(values, Mapping):
                raise InvalidInput(
                    f"{table!r} of the recipe is {values!r}, expected a table of settings",
                    fix=f"Write [{table}], and its settings below.",
                )
        self.mining()
        for table in ("encoder", "reranker"):
            taken = {"model", "train_data", "output_dir"} & set(self.recipe.get(table, {}))
            if taken:
                raise InvalidInput(
                    f"[{table}] of the recipe has {', '.join(sorted(taken))}, which the steps "
                    "before decide",
                    fix="Leave it out.",
                )

    def mining(self) -> tuple[MiningSettings, str | None]:
        """How is mined, and the teacher; None for the collection's reranker."""
        own = dict(self.recipe.get("mine", {}))
        teacher = own.pop("teacher", None)
        if teacher is not None:
            unicode_text(teacher, "teacher", fix="Name one as `retrieval mine --teacher` takes it.")
        known = [one.name for one in fields(MiningSettings)]
        unknown = sorted(set(own) - set(known))
        if unknown:
            raise InvalidInput(
                f"[mine] of the recipe has {unknown[0]!r}, which mining does not have",
                fix=f"These are known: teacher, {', '.join(known)}.",
            )
        return MiningSettings(**own), teacher


@dataclass(frozen=True, slots=True)
class Labels:
    """Judged queries to learn from (`train`), and to judge by (`dev`); without documents of their
    own: those of the collection are meant.

    leaked: how many are in neither, since they ask nearly the same as what is judged by.
    """

    train: JudgedQueries
    dev: JudgedQueries
    leaked: int = 0

    def inputs(self) -> Values:
        """What they are, for whether a step has to be done again."""
        parts = {"train": self.train, "dev": self.dev}
        return {name: digest_of([one.queries, one.qrels]) for name, one in parts.items()}


def read_labels(labels: str | os.PathLike[str], settings: AdaptSettings) -> Labels:
    """Labels in two parts that have no answer in common, where they are parted here.

    Queries to train on that the other part or a general set has, too, or nearly, are left out.

    Raises:
        CorpusError: they cannot be read.
        InvalidInput: there are too few to be parted.
    """
    split = settings.split or ("train" if Path(labels).is_dir() else "test")
    read = _without_documents(load_judgements(labels, split))
    train = [
        TrainingExample(read.queries[id_], relevant, query_id=id_, positive_ids=relevant)
        for id_, grades in read.qrels.items()
        if (relevant := tuple(key for key, grade in grades.items() if grade > 0))
    ]
    if settings.dev_split is None:
        train, held_out = split_dev(train, settings.dev_share, settings.seed)
        dev = replace(_only(read, held_out), split=f"{split}-dev")
    else:
        dev = _without_documents(load_judgements(labels, settings.dev_split))
    general = [read_set(one, settings.general_split) for one in settings.general]
    judged = [_without_documents(queries_of(one)) for one in general]
    kept = without_leaks(train, find_leaks(train, [dev, *judged]))
    if not kept:
        raise InvalidInput(
            f"no query is left to train on: of {len(read.queries):,} labels, "
            f"{len(train):,} are not held out, and all of them are asked there, too, or nearly",
            fix="Label more queries, or name another split to judge by.",
        )
    return Labels(_only(read, kept), dev, len(train) - len(kept))


def _without_documents(judged: JudgedQueries) -> JudgedQueries:
    return replace(judged, corpus=None, corpus_file=None)


def _only(judged: JudgedQueries, examples: Sequence[TrainingExample]) -> JudgedQueries:
    ids = [one.query_id for one in examples]
    qrels = {id_: judged.qrels[id_] for id_ in ids}
    return replace(
        judged, queries={id_: judged.queries[id_] for id_ in ids}, qrels=qrels,
        typed={key: where for own in qrels.values() for key in own
               if (where := judged.typed.get(key))},
    )  # fmt: skip
