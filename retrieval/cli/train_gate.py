"""`retrieval train gate`: may tuned models take the place of those before?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.cli.gate_options import General, GeneralSplit, LossesOption, MostLoss, NeedOption
from retrieval.cli.options import MODELS as MODELS_PANEL
from retrieval.cli.options import RUNNING, with_model_options
from retrieval.cli.output import check_places, write
from retrieval.evaluation.gate import MOST_LOSS
from retrieval.types import BlendChoice


def add_to(train: typer.Typer) -> None:
    """Give the group `train` its `gate`."""
    train.command("gate")(gate_models)


@with_model_options(*RUNNING)
def gate_models(
    task: Annotated[
        Path,
        typer.Option(metavar="JUDGED", help="Judged queries of the task, not trained on."),
    ],
    task_split: Annotated[str, typer.Option(help="Which of its judgements.")] = "dev",
    general: General = None,
    general_split: GeneralSplit = "test",
    encoder: Annotated[
        str | None,
        typer.Option(help="The tuned encoder. Default: not changed.", rich_help_panel=MODELS_PANEL),
    ] = None,
    encoder_before: Annotated[
        str, typer.Option(help="The encoder before.", rich_help_panel=MODELS_PANEL)
    ] = "auto",
    reranker: Annotated[
        str | None,
        typer.Option(
            help="The tuned reranker. Default: not changed.", rich_help_panel=MODELS_PANEL
        ),
    ] = None,
    reranker_before: Annotated[
        str,
        typer.Option(help="The reranker before; none: hybrid.", rich_help_panel=MODELS_PANEL),
    ] = "auto",
    train: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="What was trained on, to refuse sets that have its queries."
        ),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Measure on such sets all the same.")
    ] = False,
    need: NeedOption = "better",
    most_loss: MostLoss = MOST_LOSS,
    losses: LossesOption = "observed",
    measure: Annotated[str, typer.Option(help="The measure that decides.")] = "nDCG@10",
    candidates: Annotated[int, typer.Option(help="Passages that are re-ranked.", min=1)] = 50,
    blend: Annotated[
        BlendChoice, typer.Option(help="How both stages' orders are joined.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first N queries.", min=1)] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
    ] = None,
    *,
    model_options: dict[str, Any],
) -> None:
    """Measure before and after on the task and on general sets; exit code 3 where it fails.

    Dense, hybrid and two-stage search, each new model also with the other one as before.
    """
    from retrieval.api.gate import gate
    from retrieval.cli.progress import comparison_bar
    from retrieval.evaluation.gate import GateRule
    from retrieval.evaluation.gate_report import gate_as_dict, gate_as_text
    from retrieval.evaluation.trec import write_atomically
    from retrieval.training.data.reading import load_examples

    check_places(json_file, None)
    old = None if reranker_before == "none" else reranker_before
    trained_on = [one for path in train or [] for one in load_examples(path)]
    with comparison_bar(task.name) as bar:
        report = gate(
            (encoder_before, old),
            (encoder or encoder_before, reranker or old),
            task=task, task_split=task_split, general=general or [], general_split=general_split,
            trained_on=trained_on, allow_leaks=allow_leaks, rule=GateRule(need, most_loss, losses),
            measure=measure, candidates=candidates,
            blend=blend, limit=limit, options=model_options,
            on_index=bar.index, on_search=bar.search,
        )  # fmt: skip
    write(gate_as_text(report))
    if json_file is not None:
        text = json.dumps(gate_as_dict(report), indent=2, ensure_ascii=False)
        write_atomically(json_file, lambda file: file.write(text + "\n"))
    if not report.passed:
        raise typer.Exit(3)
