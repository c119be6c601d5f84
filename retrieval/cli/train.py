"""`retrieval train …`: data, encoder, reranker, gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from retrieval.cli import gate_options, train_data, train_gate
from retrieval.cli.options import AsJson, with_options
from retrieval.cli.output import write
from retrieval.cli.progress import comparison_bar, say, show_notices
from retrieval.evaluation.gate import MOST_LOSS
from retrieval.training.settings import (
    Bounds,
    EncoderTraining,
    RerankerTraining,
    TrainingSettings,
    default_of,
    make_settings,
    read_settings,
    settings_of,
)

if TYPE_CHECKING:
    from retrieval.evaluation.gate import GateReport
    from retrieval.training.report import TrainingReport

train = typer.Typer(name="train", help="Tune either stage on one's own data.", no_args_is_help=True)

_SETTINGS = "Settings"
_GATE = gate_options.PANEL
_FIRST = ("model", "dev_data")
_NOT_OPTIONS = ("train_data", "output_dir")
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}

_Data = Annotated[
    list[str] | None,
    typer.Argument(metavar="TRAIN", help="What to train on: files or folders, as `train data`."),
]
_Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="Folder of the tuned model.")
]
_Run = Annotated[
    Path | None,
    typer.Option("--run", metavar="FILE", help="TOML with settings; options come before it."),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it will take, and train nothing.")
]
_Restart = Annotated[
    bool, typer.Option("--restart", help="Throw away what an earlier run has left there.")
]
_GATE_OPTIONS: dict[str, Any] = {
    "gate": Annotated[
        Path | None,
        typer.Option(
            metavar="JUDGED",
            help="Measure before and after on these judged queries; exit code 3 where it fails.",
            rich_help_panel=_GATE,
        ),
    ],
    "gate_split": (
        Annotated[str, typer.Option(help="Which of its judgements.", rich_help_panel=_GATE)],
        "dev",
    ),
    "general": gate_options.General,
    "general_split": (gate_options.GeneralSplit, "test"),
    "other": (
        Annotated[
            str,
            typer.Option(help="The other stage, as it is used.", rich_help_panel=_GATE),
        ],
        "auto",
    ),
    "most_loss": (gate_options.MostLoss, MOST_LOSS),
}


def _options(cls: type[TrainingSettings]) -> dict[str, Any]:
    """The settings of a stage as options; what is not given stays as the file or default has it."""
    declared = {
        name: _option(cls, name, kind, bounds)
        for name, kind, bounds in settings_of(cls)
        if name not in _NOT_OPTIONS
    }
    return {**{name: declared[name] for name in _FIRST}, **declared}


def _option(cls: type[TrainingSettings], name: str, kind: Any, bounds: Bounds) -> Any:
    kinds = [one for one in get_args(kind) if one is not type(None)]
    plain: Any = kinds[0] if kinds and get_origin(kind) is not Literal else kind
    panel = None if name in _FIRST else _SETTINGS
    if get_origin(kind) is tuple:
        shown = typer.Option(
            metavar="N", help=f"{bounds.help} May be repeated.", rich_help_panel=panel
        )
        return Annotated[list[int] | None, shown]
    flag, flags = f"--{name.replace('_', '-')}", []
    metavar: str | None = _METAVARS.get(plain, "NAME")
    if plain is bool:
        flags = [f"{flag}/--no-{flag[2:]}" if default_of(cls, name) else flag]
        metavar = None
    shown = typer.Option(*flags, metavar=metavar, help=bounds.help, rich_help_panel=panel)
    return Annotated[plain | None, shown]


def _command(cls: type[EncoderTraining] | type[RerankerTraining]) -> Callable[..., None]:
    """The command that trains a stage."""

    @with_options(settings=_options(cls), gate=_GATE_OPTIONS)
    def command(
        data: _Data = None,
        out: _Out = None,
        run: _Run = None,
        dry_run: _DryRun = False,
        restart: _Restart = False,
        as_json: AsJson = False,
        *,
        settings: dict[str, Any],
        gate: dict[str, Any],
    ) -> None:
        _train(cls, data, out, run, settings, gate, dry_run, restart, as_json)

    return command


train.command(
    "encoder",
    help="Fine-tune a bi-encoder: contrastive, with hard negatives; goes on where it was cut off.",
)(_command(EncoderTraining))
train.command(
    "reranker",
    help="Fine-tune a cross-encoder on queries with hard negatives; goes on where it was cut off.",
)(_command(RerankerTraining))


def _train(
    cls: type[EncoderTraining] | type[RerankerTraining],
    data: list[str] | None,
    out: str | None,
    file: Path | None,
    given: dict[str, Any],
    gate: dict[str, Any],
    dry_run: bool,
    restart: bool,
    as_json: bool,
) -> None:
    if data:
        given["train_data"] = data
    if out:
        given["output_dir"] = out
    if file is None:
        settings = make_settings(cls, given, "the command line")
    else:
        settings = read_settings(cls, file, given)
    if dry_run:
        from retrieval.training.run import plan_run

        notices: list[str] = []
        write(plan_run(settings, on_notice=notices.append).as_text())
        show_notices(notices)
        return
    from retrieval.api.train import train as run_training
    from retrieval.training.run import is_first_process

    gated = _gate(gate)
    if gated is None:
        report, found = run_training(settings, restart=restart, on_notice=say, on_line=say)
    else:
        with comparison_bar(str(gated.task)) as bar:
            report, found = run_training(
                settings,
                gated=gated,
                restart=restart,
                on_notice=say,
                on_line=say,
                on_index=bar.index,
                on_search=bar.search,
            )
    if is_first_process():
        _show(report, found, as_json)
    if found is not None and not found.passed:
        raise typer.Exit(3)


def _gate(given: dict[str, Any]) -> Any:
    """The gate that the options ask for; None without one."""
    from retrieval.api.train import Gate
    from retrieval.errors import InvalidInput
    from retrieval.evaluation.gate import GateRule

    task = given.get("gate")
    if task is None:
        if given.get("general"):
            raise InvalidInput(
                "--general was given without --gate",
                fix="Name judged queries of the task, too: --gate JUDGED.",
            )
        return None
    return Gate(
        task=task,
        general=tuple(given.get("general") or ()),
        task_split=given["gate_split"],
        general_split=given["general_split"],
        other=given["other"],
        rule=GateRule(most_loss=given["most_loss"]),
    )


def _show(report: TrainingReport, gate: GateReport | None, as_json: bool) -> None:
    from retrieval.evaluation.gate_report import gate_as_dict, gate_as_text

    if as_json:
        found = {**report.as_dict(), "gate": None if gate is None else gate_as_dict(gate)}
        write(json.dumps(found, indent=2, ensure_ascii=False))
        return
    write(report.as_text())
    if gate is not None:
        write("\n" + gate_as_text(gate))


train_data.add_to(train)
train_gate.add_to(train)
