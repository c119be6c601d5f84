"""Trains a stage: data read and checked, told what it will take, trained, resumed, written.

    report = train_encoder(EncoderTraining(train_data=("train.jsonl",), output_dir="tuned"))

The loop is sentence-transformers' trainer; batches and losses are this package's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from retrieval.errors import InvalidInput, MissingExtra
from retrieval.models.engines.hardware import cpu_cores
from retrieval.models.resolve import resolve
from retrieval.training.data.reading import load_examples
from retrieval.training.data.split import split_dev
from retrieval.training.dropout import set_dropout
from retrieval.training.encoder import prepare_encoder
from retrieval.training.examples import TrainingExample
from retrieval.training.identity import Place, data_hash, identify
from retrieval.training.lora import add_adapter
from retrieval.training.precision import check_deepspeed
from retrieval.training.probe import Forecast, forecast
from retrieval.training.report import TrainingReport
from retrieval.training.reranker import prepare_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining, TrainingSettings
from retrieval.training.trainable import Trainable

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from, and is measured on."""

    train: tuple[TrainingExample, ...]
    dev: tuple[TrainingExample, ...]
    hashes: dict[str, str]


def train_encoder(
    settings: EncoderTraining,
    *,
    restart: bool = False,
    on_notice: Notice | None = None,
    on_line: Notice | None = None,
) -> TrainingReport:
    """Fine-tune a bi-encoder; a run that was cut off is gone on with.

    Args:
        settings: of the run.
        restart: throw away what an earlier run has left at `output_dir`.
        on_notice: told what the run will take, and what was found in the data.
        on_line: shown how it goes; on a terminal a curve is drawn instead.

    Returns:
        What was done; the tuned model lies in `settings.output_dir`.

    Raises:
        CorpusError: data that cannot be read; the message names file, line and field.
        InvalidInput: settings or data that cannot be used, too little memory or time.
        ModelNotFound, ModelSettingUnknown, ModelFault: the model to start from.
        MissingExtra: the packages of the extra `train` are not installed.
    """
    return _train(settings, restart, on_notice, on_line)


def train_reranker(
    settings: RerankerTraining,
    *,
    restart: bool = False,
    on_notice: Notice | None = None,
    on_line: Notice | None = None,
) -> TrainingReport:
    """Fine-tune a cross-encoder; otherwise as `train_encoder`, which see."""
    return _train(settings, restart, on_notice, on_line)


def _train(
    settings: EncoderTraining | RerankerTraining,
    restart: bool,
    on_notice: Notice | None,
    on_line: Notice | None,
) -> TrainingReport:
    check_packages()
    from retrieval.training.loop import Loop  # its packages take seconds to import

    if not is_first_process():
        on_notice = on_line = None
    notice = on_notice or (lambda sentence: None)
    data = read_data(settings, notice)
    place = Place.of(settings.output_dir)
    base = resolve(settings.model, settings.stage)
    identity = identify(settings, base.fingerprint, data.train, data.dev, world_size())
    goes_on = place.check(identity, restart=restart)
    check_deepspeed(settings)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads or cpu_cores())
    trainable = _prepared(settings, data)
    loop = Loop(settings, trainable, len(data.train), place, on_line)
    if not goes_on:
        found = forecast(trainable, loop.rows, settings, loop.steps)
        notice(found.as_text())
        if is_first_process():
            place.claim(identity)
        loop.remember(found.cached)
    started = time.monotonic()
    outcome = loop.train(place.checkpoint() if goes_on else None)
    report = TrainingReport(
        stage=settings.stage,
        output=place.output,
        model=base.spec.name,
        fingerprint=base.fingerprint,
        queries=len(data.train),
        dev_queries=len(data.dev),
        steps=loop.steps,
        best_step=outcome.best_step,
        seconds=time.monotonic() - started,
        losses=tuple(sorted(outcome.losses.items())),
        before=outcome.before,
        measured=tuple(sorted(outcome.measured.items())),
        data=data.hashes,
    )
    if is_first_process():
        loop.write(report)
    return report


def plan_run(
    settings: EncoderTraining | RerankerTraining, *, on_notice: Notice | None = None
) -> Forecast:
    """What a run would take, without training: data and model are read, parts of a batch are run.

    Raises:
        As `train_encoder`.
    """
    check_packages()
    from retrieval.training.loop import Loop

    data = read_data(settings, on_notice or (lambda sentence: None))
    torch.set_num_threads(settings.threads or cpu_cores())
    trainable = _prepared(settings, data)
    loop = Loop(settings, trainable, len(data.train), Place.of(settings.output_dir), None)
    return forecast(trainable, loop.rows, settings, loop.steps)


def read_data(settings: TrainingSettings, notice: Notice) -> Data:
    """The examples to train on, and those held out or given to measure on.

    Raises:
        CorpusError: data that cannot be read.
        InvalidInput: nothing is left to train on; dev queries are among those trained on.
    """
    hashes: dict[str, str] = {}
    examples: list[TrainingExample] = []
    for name in settings.train_data:
        found = load_examples(name, on_notice=notice)
        hashes[Path(name).name] = data_hash(found)
        examples += found
    dev: list[TrainingExample] = []
    if settings.dev_data is not None:
        dev = load_examples(settings.dev_data, on_notice=notice)
        hashes[Path(settings.dev_data).name] = data_hash(dev)
        _check_dev(examples, dev, settings)
    elif settings.dev_share:
        examples, dev = _held_out(examples, settings, notice)
    if not examples:
        raise InvalidInput(
            f"{', '.join(settings.train_data)} has no examples to train on",
            fix="Give a file with at least one query and a passage that answers it.",
        )
    if settings.knowledge_distillation != "none":
        without = [one for one in examples if not _is_scored(one)]
        if without:
            raise InvalidInput(
                f"knowledge_distillation is {settings.knowledge_distillation}, and {len(without)} "
                f"of {len(examples)} examples have no pos_scores and neg_scores (the first: "
                f"{without[0].where})",
                fix="Let a teacher score them: retrieval mine … --teacher MODEL.",
            )
    return Data(tuple(examples), tuple(dev), hashes)


def _held_out(
    examples: list[TrainingExample], settings: TrainingSettings, notice: Notice
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """The examples, and a part of them to choose the best checkpoint by; few are all trained on."""
    try:
        train, dev = split_dev(examples, settings.dev_share, settings.seed)
    except InvalidInput:
        notice(
            f"of {len(examples)} queries none can be held out (dev_share {settings.dev_share:g}): "
            "the last checkpoint is kept, and nothing says whether it is better"
        )
        return examples, []
    notice(
        f"{len(dev)} of {len(examples)} queries are held out to choose the best checkpoint "
        "(dev_share)"
    )
    return train, dev


def check_packages() -> None:
    """Raise MissingExtra unless what training needs is installed."""
    for package in ("sentence_transformers", "datasets", "accelerate"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtra(package, extra="train", purpose="training") from error


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the one process of torchrun's that writes files."""
    return os.environ.get("RANK", "0") == "0"


def _is_scored(one: TrainingExample) -> bool:
    return one.positive_scores is not None and (
        one.negative_scores is not None or not one.negatives
    )


def _check_dev(
    examples: Sequence[TrainingExample], dev: Sequence[TrainingExample], settings: TrainingSettings
) -> None:
    """Refuse to measure on queries that are trained on."""
    from retrieval.evaluation.judged import JudgedQueries
    from retrieval.training.data.leaks import check_leaks

    queries = {str(number): one.query for number, one in enumerate(dev)}
    judged = JudgedQueries("dev_data", "dev", queries, {query: {} for query in queries})
    check_leaks(examples, [judged], allow=settings.allow_leaks)


def _prepared(settings: EncoderTraining | RerankerTraining, data: Data) -> Trainable:
    device = _device(settings.device)
    if isinstance(settings, EncoderTraining):
        trainable = prepare_encoder(settings, data.train, data.dev, device)
    else:
        trainable = prepare_reranker(settings, data.train, data.dev, device)
    if settings.dropout is not None:
        set_dropout(trainable.model, settings.dropout)
    if settings.lora_rank is not None:
        add_adapter(trainable.model, settings)
    if settings.gradient_checkpointing:
        trainable.model[0].auto_model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return trainable


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"
