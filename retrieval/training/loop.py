"""The loop: sentence-transformers' trainer with our batches, loss, measure and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import (
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

from retrieval.training.folder import copy_files, new_folder, write_settings
from retrieval.training.groups import draws
from retrieval.training.identity import Place
from retrieval.training.lora import merge_adapter, network_of
from retrieval.training.micro_batches import MicroBatches
from retrieval.training.precision import precision
from retrieval.training.progress import METRIC, Progress
from retrieval.training.report import TrainingReport, write_record
from retrieval.training.settings import TrainingSettings
from retrieval.training.trainable import Trainable, quietly

_BOUND = 1000  # steps up to which each one's loss is logged


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop found: by step, losses and measurements, and which weights it ended with."""

    losses: dict[int, float]
    measured: dict[int, float]
    before: float | None
    best_step: int


class Loop:
    """One run of a stage.

    Args:
        settings: of the run.
        trainable: the stage.
        examples: how many there are.
        place: of its files.
        on_line: shows how it goes.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        trainable: Trainable,
        examples: int,
        place: Place,
        on_line: Callable[[str], None] | None,
    ) -> None:
        self._settings = settings
        self._trainable = trainable
        self._place = place
        self._on_line = on_line
        self.cached = settings.gradient_cache == "on"
        self._arguments = self._make_arguments()
        self._is_first = self._arguments.process_index == 0
        order = draws(examples, settings.num_train_epochs, settings.seed)
        of_step = (
            settings.per_device_train_batch_size
            * settings.gradient_accumulation_steps
            * self._arguments.world_size
        )
        steps = -(-len(order) // of_step)
        if settings.max_steps is not None and settings.max_steps < steps:
            steps = settings.max_steps
            order = order[: steps * of_step]
        self.steps = steps
        self.steps_per_epoch = max(1, -(-examples // of_step))
        self.rows = [{"example": example, "epoch": epoch} for example, epoch in order]
        self._between = min(settings.eval_steps or self.steps_per_epoch, steps)
        self._arguments.eval_steps = self._arguments.save_steps = self._between
        self._arguments.warmup_steps = round(settings.warmup_ratio * steps)
        self._arguments.logging_steps = 1 if steps <= _BOUND else 10
        plan = place.work / "plan.json"
        if plan.exists():
            self.cached = bool(json.loads(plan.read_text("utf-8"))["cached"])

    def remember(self, cached: bool) -> None:
        """Keep, for a run that goes on, whether the gradient cache is used."""
        self.cached = cached
        if self._is_first:
            (self._place.work / "plan.json").write_text(json.dumps({"cached": cached}), "utf-8")

    def train(self, checkpoint: Path | None) -> Outcome:
        """Train to the end, from a checkpoint or from the start, and keep the best weights."""
        progress = Progress(self._place.work / "log.jsonl", self.steps_per_epoch, self._on_line)
        trainer = self._trainer(progress)
        step = 0
        if checkpoint is not None:
            state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
            step = int(state["global_step"])
        if self._is_first:
            progress.resume(step)
        if step == 0 and self._trainable.evaluate is not None:
            progress.start_with(_Dev(self._trainable.evaluate)(self._trainable.model)["dev"])
        try:
            with quietly():
                trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        finally:
            progress.close()
        measured = dict(progress.measured)
        before = measured.pop(0, None)
        best = trainer.state.best_global_step if self._trainable.evaluate is not None else None
        return Outcome(
            losses=dict(progress.losses),
            measured=measured,
            before=before,
            best_step=int(best or trainer.state.global_step),
        )

    def write(self, report: TrainingReport) -> None:
        """Write the tuned model's folder: weights, the files beside them, record and card.

        Raises:
            StoreDenied, DiskFull, StoreFault: it cannot be written.
        """
        model, base = self._trainable.model, self._trainable.base
        if self._settings.lora_rank is not None:
            merge_adapter(model)
        network = network_of(model)
        with new_folder(self._place.output, overwrite=True, sources=[base.path]) as folder:
            copy_files([base], folder)
            with quietly():
                network.save_pretrained(str(folder))
            write_settings(folder, base.spec, "F32")
            write_record(report, self._settings, base, folder)

    def _trainer(self, progress: Progress) -> Any:
        trainable = self._trainable
        loss = MicroBatches(
            trainable.model,
            trainable.output,
            trainable.objective,
            tokens=self._settings.micro_batch_tokens,
            cached=self.cached,
        )
        dataset = Dataset.from_dict(
            {name: [row[name] for row in self.rows] for name in ("example", "epoch")}
        )
        evaluator = None if trainable.evaluate is None else _Dev(trainable.evaluate)
        is_encoder = self._settings.stage == "encoder"
        kind: Any = _EncoderTrainer if is_encoder else _RerankerTrainer
        trainer = kind(
            model=trainable.model,
            args=self._arguments,
            train_dataset=dataset,
            loss=loss,
            data_collator=trainable.collate,
            evaluator=evaluator,
        )
        for one in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(one)
        trainer.add_callback(progress)
        if evaluator is not None and self._settings.early_stopping_patience:
            trainer.add_callback(EarlyStoppingCallback(self._settings.early_stopping_patience))
        if self._settings.tensorboard and self._is_first:
            _add_tensorboard(trainer, self._place.work / "tensorboard")
        return trainer

    def _make_arguments(self) -> Any:
        own = self._settings
        device = self._trainable.model.device
        measured = self._trainable.evaluate is not None
        kind: Any = (
            SentenceTransformerTrainingArguments
            if own.stage == "encoder"
            else CrossEncoderTrainingArguments
        )
        arguments = kind(
            output_dir=str(self._place.work),
            num_train_epochs=1,  # the order has every epoch
            per_device_train_batch_size=own.per_device_train_batch_size,
            gradient_accumulation_steps=own.gradient_accumulation_steps,
            learning_rate=own.learning_rate,
            weight_decay=own.weight_decay,
            max_grad_norm=own.max_grad_norm,
            lr_scheduler_type=own.lr_scheduler_type,
            seed=own.seed,
            use_cpu=device.type == "cpu",
            deepspeed=own.deepspeed,
            eval_strategy="steps" if measured else "no",
            save_strategy="steps",
            save_total_limit=2,
            load_best_model_at_end=measured,
            metric_for_best_model=METRIC if measured else None,
            greater_is_better=True if measured else None,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=device.type == "cuda",
            **precision(own, device),
        )
        arguments.batch_sampler = in_order
        return arguments


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
    """Batches in the order of the rows, which is drawn beforehand."""
    return DefaultBatchSampler(
        SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last
    )


class _Dev(BaseEvaluator):
    """The dev set's measure, as a trainer asks for it."""

    def __init__(self, evaluate: Callable[[], float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._evaluate = evaluate
        self.primary_metric = "dev"

    def __call__(self, model: Any, *_: Any, **__: Any) -> dict[str, float]:
        was_training = model.training
        model.eval()
        try:
            return {"dev": self._evaluate()}
        finally:
            model.train(was_training)


class _OwnCard:
    """A trainer without sentence-transformers' card, which describes columns of a data set."""

    def add_model_card_callback(self, *_: Any) -> None:
        """None is added: our card is written at the end."""


class _EncoderTrainer(_OwnCard, SentenceTransformerTrainer):
    pass


class _RerankerTrainer(_OwnCard, CrossEncoderTrainer):
    pass


def _add_tensorboard(trainer: Any, folder: Path) -> None:
    """Log to TensorBoard, where it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback
    except ImportError:
        return
    trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(folder))))
