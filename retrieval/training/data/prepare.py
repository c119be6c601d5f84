"""One checked file of training data, from as many sources of as many formats as there are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from retrieval._validate import one_of
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.readers.read import read
from retrieval.training.data.flag_jsonl import check_target, write_flag_jsonl
from retrieval.training.data.from_documents import (
    MOST_PER_DOCUMENT,
    PairKind,
    pairs_from_documents,
)
from retrieval.training.data.leaks import Leaks, check_leaks, without_leaks
from retrieval.training.data.merging import merge_queries
from retrieval.training.data.reading import TRAIN, read_examples
from retrieval.training.data.split import split_dev
from retrieval.training.data.tables import Columns
from retrieval.training.examples import TrainingExample
from retrieval.types import Problem

LEAKED = "examples whose query is one of the evaluation's, or nearly"
WithLeaks = Literal["refuse", "drop", "allow"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of texts, in characters: the median, what 95 of 100 do not exceed, the longest."""

    median: int
    most_of_95: int
    longest: int


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was written.

    Attributes:
        path: of the file.
        examples, positives, negatives: how many it has.
        unmined: examples without a negative.
        scored: examples with a teacher's scores.
        queries, passages: how long they are.
    """

    path: Path
    examples: int
    positives: int
    negatives: int
    unmined: int
    scored: int
    queries: Lengths
    passages: Lengths


@dataclass(frozen=True, slots=True)
class DataReport:
    """What became of the sources.

    Attributes:
        sources: as given → how many examples were read there.
        train: what is trained on.
        dev: what was held out; None where nothing was.
        dropped: reason → how many.
        leaks: between the examples and the evaluation, also those that were dropped then; None
            where no evaluation was given.
        notices: sentences on what was passed over and on what to know before training.
    """

    sources: Mapping[str, int]
    train: DataFile
    dev: DataFile | None
    dropped: Mapping[str, int]
    leaks: Leaks | None
    notices: tuple[str, ...]


def prepare_data(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    split: str = TRAIN,
    columns: Columns | None = None,
    pairs: Sequence[PairKind] = (),
    most_per_document: int = MOST_PER_DOCUMENT,
    evaluation: Sequence[JudgedQueries] = (),
    with_leaks: WithLeaks = "refuse",
    dev: float | None = None,
    dev_out: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> DataReport:
    """Read training data, check it and write it as FlagEmbedding's JSONL.

    Nothing is written before everything is checked. Examples of the same query become one, and
    the same sources, options and seed give the same bytes.

    Args:
        sources: as `load_examples` reads them; with `pairs`, documents as
            `retrieval.read_documents` reads them.
        out: the file to write, `….jsonl`.
        split: of folders.
        columns: of tables whose columns are not named so that it is clear what they hold.
        pairs: "titles", "headings" or both: make pairs of documents, see `pairs_from_documents`.
        most_per_document: of such pairs.
        evaluation: judged queries that will be measured on.
        with_leaks: whether training queries that are queries of the evaluation, or nearly, are
            refused, dropped or allowed.
        dev: the share that is held out, see `split_dev`.
        dev_out: where to; by default beside `out` as `….dev.jsonl`.
        seed: of what is drawn.

    Raises:
        CorpusError: a source cannot be read, or a part of it is bad, or nothing is left.
        InvalidInput: an argument that cannot be used, or there are leaks.
        MissingExtra: a parquet file, without pyarrow.
        DiskFull, StoreDenied, StoreFault: a file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from retrieval.training.data.prepare import prepare_data
        >>> _ = Path("faq.csv").write_text("question,answer\\nwhen?,At ten.\\nwhen?,At noon.\\n")
        >>> report = prepare_data(["faq.csv"], "train.jsonl")
        >>> report.train.examples, report.train.positives, report.train.unmined
        (1, 2, 1)
    """
    target, held_out = _targets(sources, out, dev, dev_out)
    one_of(with_leaks, ("refuse", "drop", "allow"), "with_leaks")
    notices: list[str] = []
    dropped: Counter[str] = Counter()
    counts: dict[str, int] = {}
    found: list[TrainingExample] = []
    for source in sources:
        if pairs:
            examples, left_out = _pairs_of(source, pairs, most_per_document, seed, notices)
        else:
            examples, left_out = read_examples(
                source, split=split, columns=columns, on_notice=notices.append
            )
        counts[str(source)] = counts.get(str(source), 0) + len(examples)
        dropped += left_out
        found += examples
    merged, left_out = merge_queries(found)
    dropped += left_out
    leaks: Leaks | None = None
    if evaluation:
        leaks = check_leaks(merged, evaluation, allow=with_leaks != "refuse")
        if with_leaks == "drop" and leaks.queries:
            kept = without_leaks(merged, leaks)
            dropped[LEAKED] += len(merged) - len(kept)
            merged = kept
    if not merged:
        raise CorpusError(
            "no example is left after the checks: "
            + (", ".join(f"{n:,} {reason}" for reason, n in dropped.items()) or "none was there"),
            fix="Give other sources, or queries of which the evaluation has none.",
        )
    kept, dev_part = (merged, []) if dev is None else split_dev(merged, dev, seed)
    notices += _to_know(kept)
    write_flag_jsonl(target, kept)
    if held_out is not None:
        write_flag_jsonl(held_out, dev_part)
    return DataReport(
        sources=counts,
        train=_described(target, kept),
        dev=None if held_out is None else _described(held_out, dev_part),
        dropped=dict(+dropped),
        leaks=leaks,
        notices=tuple(notices),
    )


def _targets(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    dev: float | None,
    dev_out: str | os.PathLike[str] | None,
) -> tuple[Path, Path | None]:
    if isinstance(sources, (str, os.PathLike)) or not sources:
        raise InvalidInput(
            f"sources is {sources!r}, expected a list of files and folders",
            fix="Give ['own.jsonl'], for example.",
        )
    if dev is None and dev_out is not None:
        raise InvalidInput(
            f"a file for a held out part was named ({dev_out}), and no share of it",
            fix="Say how much is held out: --dev 0.1",
        )
    target = Path(out)
    beside = None if dev is None else Path(dev_out or target.with_suffix(".dev.jsonl"))
    known = {os.path.realpath(source): str(source) for source in sources}
    for one in (target, beside):
        if one is None:
            continue
        check_target(one)
        if source := known.get(os.path.realpath(one)):
            raise InvalidInput(
                f"{one} is to be written, and is the source {source}",
                fix="Write to another file.",
            )
    if beside is not None and os.path.realpath(beside) == os.path.realpath(target):
        raise InvalidInput(
            f"both parts are to be written to {target}", fix="Name two files: --out and --dev-out."
        )
    return target, beside


def _pairs_of(
    source: str | os.PathLike[str],
    kinds: Sequence[PairKind],
    most: int,
    seed: int,
    notices: list[str],
) -> tuple[list[TrainingExample], Counter[str]]:
    def noted(problem: Problem) -> None:
        notices.append(f"{problem}.")

    documents = read(source, on_problem=noted)
    found, dropped = pairs_from_documents(documents, kinds, most_per_document=most, seed=seed)
    if not found:
        notices.append(f"{source}: no pairs could be made of its documents.")
    return found, dropped


def _to_know(examples: Sequence[TrainingExample]) -> list[str]:
    """What would surprise somebody who trains on the file with another tool."""
    notices = []
    unmined = sum(not one.negatives for one in examples)
    if unmined:
        notices.append(
            f"{unmined:,} of {len(examples):,} examples have no negatives, at which FlagEmbedding "
            "stops; `retrieval mine` finds hard ones."
        )
    prompts = sum(one.prompt is not None for one in examples)
    if 0 < prompts < len(examples):
        notices.append(
            f"{prompts:,} of {len(examples):,} examples have a prompt of their own; FlagEmbedding "
            "puts the word None before the queries of the others."
        )
    scored = sum(one.positive_scores is not None for one in examples)
    if 0 < scored < len(examples):
        notices.append(
            f"{scored:,} of {len(examples):,} examples have a teacher's scores; distillation needs "
            "them of all."
        )
    return notices


def _described(path: Path, examples: Sequence[TrainingExample]) -> DataFile:
    passages = [len(text) for one in examples for text in (*one.positives, *one.negatives)]
    return DataFile(
        path=path,
        examples=len(examples),
        positives=sum(len(one.positives) for one in examples),
        negatives=sum(len(one.negatives) for one in examples),
        unmined=sum(not one.negatives for one in examples),
        scored=sum(one.positive_scores is not None for one in examples),
        queries=_lengths([len(one.query) for one in examples]),
        passages=_lengths(passages),
    )


def _lengths(lengths: Sequence[int]) -> Lengths:
    middle, most, longest = np.percentile(lengths, (50, 95, 100), method="higher")
    return Lengths(int(middle), int(most), int(longest))
