"""Options of the commands that judge tuned models: what must not get worse, and what passes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from retrieval.evaluation.gate import Losses, Need

PANEL = "What passes"

General: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="JUDGED", help="What must not get worse; may be repeated.", rich_help_panel=PANEL
    ),
]
GeneralSplit: TypeAlias = Annotated[
    str, typer.Option(help="Which of their judgements.", rich_help_panel=PANEL)
]
NeedOption: TypeAlias = Annotated[
    Need,
    typer.Option("--need", help="On the task: better or not-worse.", rich_help_panel=PANEL),
]
MostLoss: TypeAlias = Annotated[
    float, typer.Option(help="Loss of a general set that passes.", rich_help_panel=PANEL)
]
LossesOption: TypeAlias = Annotated[
    Losses,
    typer.Option(
        "--losses",
        help="Which greater losses refuse: observed, possible (by the interval), significant.",
        rich_help_panel=PANEL,
    ),
]
