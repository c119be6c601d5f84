"""Fine-tuning with a gate: the tuned model is measured beside the one that it started from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrieval.api.gate import SetLike, gate, queries_of, read_set
from retrieval.errors import InvalidInput
from retrieval.evaluation.gate import GateReport, GateRule
from retrieval.models.resolve import resolve
from retrieval.training.data.leaks import check_leaks
from retrieval.training.data.reading import load_examples
from retrieval.training.merging.merge import merge_models
from retrieval.training.merging.weights import equal_weights
from retrieval.training.report import TrainingReport
from retrieval.training.run import is_first_process, train_encoder, train_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining


@dataclass(frozen=True, slots=True)
class Gate:
    """What a tuned model is measured on, and beside which other stage.

    Attributes:
        task: judged queries of the task, which must not be trained on.
        general: what else the model must still be good at.
        task_split, general_split: of sets that are given as paths.
        other: the other stage, unchanged: a reranker beside an encoder, and the other way round.
        rule: what passes.
    """

    task: SetLike
    general: tuple[SetLike, ...] = ()
    task_split: str = "dev"
    general_split: str = "test"
    other: str = "auto"
    rule: GateRule = field(default_factory=GateRule)


def train(
    settings: EncoderTraining | RerankerTraining,
    *,
    gated: Gate | None = None,
    restart: bool = False,
    on_notice: Callable[[str], None] | None = None,
    on_line: Callable[[str], None] | None = None,
    **progress: Any,
) -> tuple[TrainingReport, GateReport | None]:
    """Fine-tune a stage and, with a gate, say what it has won and lost.

    Args:
        settings: of the run.
        gated: what to measure before and after; None measures on the dev set alone.
        restart, on_notice, on_line: see `retrieval.training.run.train_encoder`.
        progress: `on_index` and `on_search` of the gate, see `measure_stages`.

    Raises:
        InvalidInput: as `train_encoder`, or the gate's queries are trained on; that is found before
            anything is trained.
        As `retrieval.training.run.train_encoder` and `retrieval.api.gate.gate`.
    """
    if gated is not None:
        _check_gate(settings, gated)
    run: Any = train_encoder if isinstance(settings, EncoderTraining) else train_reranker
    if isinstance(settings, EncoderTraining) and settings.two_variants:
        run = _two_variants
    report: TrainingReport = run(settings, restart=restart, on_notice=on_notice, on_line=on_line)
    if gated is None or not is_first_process():
        return report, None
    start, tuned = settings.model, str(report.output)
    if isinstance(settings, EncoderTraining):
        before, after = (start, gated.other), (tuned, gated.other)
    else:
        before, after = (gated.other, start), (gated.other, tuned)
    return report, gate(
        before,
        after,
        task=gated.task,
        general=gated.general,
        task_split=gated.task_split,
        general_split=gated.general_split,
        rule=gated.rule,
        **progress,
    )


def _two_variants(
    settings: EncoderTraining,
    *,
    restart: bool,
    on_notice: Callable[[str], None] | None,
    on_line: Callable[[str], None] | None,
) -> TrainingReport:
    """Train with the query instruction and without it, and average both, as bge-large-zh-v1.5.

    The merged model takes the instruction, and needs it less. Both variants lie beside it.
    """
    found = resolve(
        settings.model, "encoder", query_instruction=settings.query_instruction_for_retrieval
    )
    instruction = found.spec.query_instruction
    if not instruction:
        raise InvalidInput(
            f"two_variants was asked for, and {found.spec.name} takes no query instruction",
            fix="Give query_instruction_for_retrieval, or leave two_variants out.",
        )
    output = Path(settings.output_dir)
    variants = [
        replace(
            settings,
            output_dir=str(output.with_name(f"{output.name}-{name}")),
            query_instruction_for_retrieval=own,
            two_variants=False,
        )
        for name, own in (("instructed", instruction), ("bare", ""))
    ]
    reports = []
    for one in variants:
        if on_notice is not None:
            on_notice(f"{Path(one.output_dir).name}:")
        reports.append(train_encoder(one, restart=restart, on_notice=on_notice, on_line=on_line))
    models = [resolve(one.output, "encoder") for one in reports]
    merge_models(models, equal_weights(2), output, overwrite=restart)
    return replace(reports[0], output=output, seconds=sum(one.seconds for one in reports))


def _check_gate(settings: EncoderTraining | RerankerTraining, gated: Gate) -> None:
    """Refuse to measure on what is trained on, before it costs hours."""
    judged = [queries_of(read_set(gated.task, gated.task_split))]
    judged += [queries_of(read_set(one, gated.general_split)) for one in gated.general]
    for name in settings.train_data:
        check_leaks(load_examples(Path(name)), judged, allow=settings.allow_leaks)
