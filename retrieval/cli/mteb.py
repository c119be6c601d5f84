"""`retrieval mteb`: tasks of MTEB and C-MTEB by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.cli.options import CUTTING, RUNNING, with_model_options
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.output import listed, write

_CHANGING = ("pooling", "passage_instruction", "max_length")


@with_model_options(*_CHANGING, *RUNNING, *CUTTING, "long_passages")
def mteb(
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASK…", help="Tasks or benchmarks by mteb's names: SciFact."),
    ],
    encoder: Annotated[
        str, typer.Option(help="A model's name or folder.", rich_help_panel=MODELS_PANEL)
    ] = "auto",
    reranker: Annotated[
        str,
        typer.Option(
            help="Second stage of tasks that retrieve: none, auto, a model's name or folder.",
            rich_help_panel=MODELS_PANEL,
        ),
    ] = "none",
    candidates: Annotated[int, typer.Option(help="How many it reads a query.", min=1)] = 100,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep results as mteb does; what is there is not run again."
        ),
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Only these, joined by commas: deu,eng-Latn.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only these, joined by commas.")] = None,
    instruction: Annotated[
        str,
        typer.Option(
            metavar="model|none|TEXT", help="Before queries of tasks that retrieve, verbatim."
        ),
    ] = "model",
    *,
    model_options: dict[str, Any],
) -> None:
    """Measure the models on tasks of MTEB, as its leaderboard does (extra mteb)."""
    from retrieval.cli.progress import say, show_notices
    from retrieval.integrations.mteb import run_tasks, scores_as_text

    scores = run_tasks(
        tasks,
        encoder=encoder,
        reranker=None if reranker == "none" else reranker,
        candidates=candidates,
        output=output,
        languages=listed(languages) if languages else None,
        splits=listed(split) if split else None,
        instruction=instruction,
        on_score=lambda score: say(f"{score.task} {score.split}: {score.first:.4f}"),
        on_notice=lambda notice: show_notices([notice]),
        **model_options,
    )
    write(scores_as_text(scores))
