"""`run_tasks`: mteb's tasks by name, with both stages."""

from __future__ import annotations

import contextlib
import copy
import difflib
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mteb
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.results import TaskResult

from retrieval._validate import whole_number
from retrieval.errors import Fault, InvalidInput, first_line
from retrieval.evaluation.text_table import text_table
from retrieval.integrations.mteb.models import MtebCrossEncoder, MtebEncoder
from retrieval.models.options import SETTINGS, checked, of_encoder, of_reranker
from retrieval.types import Encoder, Reranker

_UNREACHED = (
    ConnectionError, DatasetNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError,
)  # fmt: skip
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a split of a task came to.

    Attributes:
        task, type, split: of mteb.
        measure: its main score, by mteb's name.
        first: the encoder's, the mean over subsets (languages).
        second: with the candidates re-ranked; None where there is no reranker, or the task has
            nothing to re-rank.
        seconds: of the encoder's run, without loading data.
        second_seconds: of the reranker's.
    """

    task: str
    type: str
    split: str
    measure: str
    first: float
    second: float | None
    seconds: float
    second_seconds: float | None


def run_tasks(
    tasks: Sequence[str | AbsTask],
    *,
    encoder: str | Encoder = "auto",
    reranker: str | Reranker | None = None,
    candidates: int = 100,
    output: str | os.PathLike[str] | None = None,
    languages: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    instruction: str = "model",
    on_score: Callable[[TaskScore], object] | None = None,
    on_notice: Callable[[str], object] | None = None,
    **options: Any,
) -> list[TaskScore]:
    """Run tasks of mteb with an encoder and, where they retrieve, a reranker behind it.

    The second stage follows mteb's protocol: the reranker reads the encoder's best `candidates` of
    each query, or those that the task itself brings, and its scores alone are the order.

    Args:
        tasks: names of tasks or benchmarks ("MTEB(cmn, v1)"), or task objects, whose data stays
            loaded where it is.
        encoder: as for `MtebEncoder`.
        reranker: as for `MtebCrossEncoder`; None runs the first stage alone.
        candidates: how many the reranker reads a query.
        output: a folder for mteb's result files, in its own layout (`mteb.ResultCache`). What it
            has from the same model, settings and data is not run again.
        languages: only subsets in these languages, such as "deu" or "deu-Latn".
        splits: only these, in place of the task's own choice.
        instruction: before the queries of retrieval tasks: "model" for the encoder's own, "none",
            or the text itself, verbatim. An encoder that is loaded has its own already.
        on_score: called with each score as soon as there is one.
        on_notice: called with each sentence on the models that were chosen.
        options: how both models run, see `MtebEncoder` and `MtebCrossEncoder`.

    Returns:
        A score for each split of each task.

    Raises:
        InvalidInput: no such task, split or language, or an option that cannot be used.
        Fault: a task's data cannot be fetched. What was finished before is in `output`.
    """
    whole_number(candidates, "candidates")
    chosen = [one for task in tasks for one in _found(task, languages, splits)]
    if not chosen:
        raise InvalidInput("no task was named", fix='Name one, such as "SciFact".')
    cache = None if output is None else mteb.ResultCache(Path(output))
    scores: list[TaskScore] = []
    with _models(encoder, reranker, instruction, candidates, options, on_notice) as (first, second):
        for task in chosen:
            with _data_errors(task):
                results = _run(task, first, second, candidates, cache)
            for score in _scores(task, *results):
                scores.append(score)
                if on_score is not None:
                    on_score(score)
    return scores


# --- which tasks ----------------------------------------------------------------------------


def _found(
    task: str | AbsTask, languages: Sequence[str] | None, splits: Sequence[str] | None
) -> list[AbsTask]:
    """The task of that name, or the tasks of the benchmark of that name."""
    if isinstance(task, AbsTask):
        found = [task]
    else:
        with contextlib.suppress(KeyError):
            return [_filtered(mteb.get_task(task), languages, splits)]
        try:
            found = list(mteb.get_benchmark(task).tasks)
        except KeyError:
            raise _unknown(task) from None
    return [_filtered(one, languages, splits) for one in found]


def _filtered(
    task: AbsTask, languages: Sequence[str] | None, splits: Sequence[str] | None
) -> AbsTask:
    name = task.metadata.name
    if splits:
        there = list(task.metadata.eval_splits)
        missing = [split for split in splits if split not in there]
        if missing:
            raise InvalidInput(
                f"{name} has no split {missing[0]!r}; it has {', '.join(there)}",
                fix="Name one of them, or leave the splits out.",
            )
        task.filter_eval_splits(list(splits))
    if languages:
        try:
            task.filter_languages(list(languages))
        except ValueError as error:
            spoken = ", ".join(sorted(task.metadata.languages))
            raise InvalidInput(
                f"{name} has no subset in {', '.join(languages)}; it has {spoken}",
                fix="Name one of them, by its three letters (ISO 639-3), or leave languages out.",
            ) from error
    return task


def _unknown(name: str) -> InvalidInput:
    names = [one.metadata.name for one in mteb.get_tasks(exclude_superseded=False)]
    names += [one.name for one in mteb.get_benchmarks()]
    folded = {one.casefold(): one for one in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=_NEAREST, cutoff=0.6)
    nearest = f"; the nearest names are {', '.join(folded[one] for one in near)}" if near else ""
    return InvalidInput(
        f"mteb {mteb.__version__} has no task or benchmark {name!r}{nearest}",
        fix="Correct the name; `python -c 'import mteb; print(mteb.get_tasks())'` lists the tasks.",
    )


# --- running --------------------------------------------------------------------------------


@contextlib.contextmanager
def _models(
    encoder: str | Encoder,
    reranker: str | Reranker | None,
    instruction: str,
    candidates: int,
    options: dict[str, Any],
    on_notice: Callable[[str], object] | None,
) -> Iterator[tuple[MtebEncoder, MtebCrossEncoder | None]]:
    own = {name: value for name, value in options.items() if name in SETTINGS}
    running = {name: value for name, value in options.items() if name not in own}
    named = isinstance(encoder, str), isinstance(reranker, str)
    checked(running, encoder=named[0], reranker=named[1])
    if instruction != "model":
        own["query_instruction"] = "" if instruction == "none" else instruction
    first_options = own | of_encoder(running) if named[0] else own
    with contextlib.ExitStack() as stack:
        first = MtebEncoder(encoder, **first_options)
        stack.callback(first.close)
        second = None
        if reranker is not None:
            second = MtebCrossEncoder(reranker, **of_reranker(running) if named[1] else {})
            stack.callback(second.close)
            # what it finds hangs on what it is given to read
            meta, before = second.mteb_model_meta, first.mteb_model_meta
            told = {"first_stage": before.model_name_with_experiment, "candidates": candidates}
            experiment = {**(meta.experiment_kwargs or {}), **told}
            second.mteb_model_meta = meta.model_copy(update={"experiment_kwargs": experiment})
        if on_notice is not None:
            for notice in dict.fromkeys((*first.notices, *(second.notices if second else ()))):
                on_notice(notice)
        yield first, second


def _run(
    task: AbsTask,
    first: MtebEncoder,
    second: MtebCrossEncoder | None,
    candidates: int,
    cache: mteb.ResultCache | None,
) -> tuple[TaskResult, TaskResult | None]:
    if second is None or not isinstance(task, AbsTaskRetrieval):
        return _evaluated(first, task, cache), None
    done = (
        None
        if cache is None
        else cache.load_task_result(task.metadata.name, second.mteb_model_meta)
    )
    if done is not None and not done.get_missing_evaluations(task):
        return _evaluated(first, task, cache), done
    ours = not task.data_loaded
    if ours:
        task.load_data()
    try:
        with tempfile.TemporaryDirectory(prefix="retrieval-mteb-") as predictions:
            # always: a result that is kept does not say which candidates there were
            result = _evaluated(
                first, task, cache, prediction_folder=predictions, overwrite_strategy="always"
            )
            return result, _evaluated(second, _reranking(task, predictions, candidates), cache)
    finally:
        if ours:
            task.unload_data()


def _reranking(task: AbsTaskRetrieval, predictions: str, candidates: int) -> AbsTaskRetrieval:
    """The task with the encoder's candidates, where it does not bring its own; a copy."""
    kept = [data for subset in task.dataset.values() for data in subset.values()]
    if any(data["top_ranked"] is not None for data in kept):
        return task
    second = copy.copy(task)
    second.dataset = {
        subset: {
            split: data.copy() for split, data in by_split.items() if split in task.eval_splits
        }
        for subset, by_split in task.dataset.items()
        if subset in task.hf_subsets
    }
    return second.convert_to_reranking(predictions, top_k=candidates)


def _evaluated(
    model: MtebEncoder | MtebCrossEncoder,
    task: AbsTask,
    cache: mteb.ResultCache | None,
    **options: Any,
) -> TaskResult:
    with warnings.catch_warnings():
        # what mteb says of its own tasks (superseded, beta, deprecated classes)
        warnings.simplefilter("ignore")
        result = mteb.evaluate(
            model, task, cache=cache, co2_tracker=False, show_progress_bar=False, **options
        )
    return result.task_results[0]


@contextlib.contextmanager
def _data_errors(task: AbsTask) -> Iterator[None]:
    try:
        yield
    except _UNREACHED as error:
        path = task.metadata.dataset.get("path", "its data")
        raise Fault(
            f"the data of {task.metadata.name} ({path}) could not be fetched: {first_line(error)}",
            fix="Check the network and HF_ENDPOINT, or fetch it where there is one and bring the "
            "folder of HF_HOME here; results that were finished are kept.",
        ) from error


# --- results --------------------------------------------------------------------------------


def _scores(task: AbsTask, first: TaskResult, second: TaskResult | None) -> Iterator[TaskScore]:
    for split in first.scores:
        yield TaskScore(
            task=task.metadata.name,
            type=task.metadata.type,
            split=split,
            measure=task.metadata.main_score,
            first=_mean(first, split),
            second=None if second is None else _mean(second, split),
            seconds=first.evaluation_time or 0.0,
            second_seconds=None if second is None else second.evaluation_time,
        )


def _mean(result: TaskResult, split: str) -> float:
    return statistics.fmean(float(subset["main_score"]) for subset in result.scores[split])


def scores_as_text(scores: Iterable[TaskScore]) -> str:
    """A table for a terminal: a line for each split of each task."""
    scores = list(scores)
    both = any(score.second is not None for score in scores)
    head = ["task", "type", "split", "measure", "encoder"]
    head += ["re-ranked", "seconds", "and"] if both else ["seconds"]
    lines = [head]
    for score in scores:
        line = [score.task, score.type, score.split, score.measure, f"{score.first:.4f}"]
        second = ["-" if score.second is None else f"{score.second:.4f}"] if both else []
        seconds = [f"{score.seconds:.1f}"]
        if both:
            seconds.append("-" if score.second_seconds is None else f"{score.second_seconds:.1f}")
        lines.append([*line, *second, *seconds])
    return "\n".join(text_table(lines, left=4))
