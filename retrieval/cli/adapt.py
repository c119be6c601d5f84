"""`retrieval adapt`: labels become tuned models that a collection is searched with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.cli.gate_options import General, GeneralSplit, LossesOption, MostLoss, NeedOption
from retrieval.cli.options import (
    RUNNING,
    ApiKey,
    RerankerOption,
    Store,
    Tenant,
    with_model_options,
)
from retrieval.cli.output import check_places, listed, open_store, write
from retrieval.evaluation.gate import MOST_LOSS


@with_model_options(*RUNNING)
def adapt(
    collection: Annotated[str, typer.Argument(help="Name of the collection.")],
    labels: Annotated[
        Path, typer.Option(metavar="JUDGED", help="Judged queries, as `retrieval eval` reads.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Of a folder of labels, to train on. Default: train.")
    ] = None,
    dev_split: Annotated[
        str | None, typer.Option(help="To judge by. Default: a part is held out.")
    ] = None,
    dev_share: Annotated[float, typer.Option(help="That part of the queries.")] = 0.2,
    general: General = None,
    general_split: GeneralSplit = "test",
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TOML with tables [mine], [encoder], [reranker] of settings."
        ),
    ] = None,
    merge_share: Annotated[
        float, typer.Option(help="Share of the tuned model, merged with the one before.")
    ] = 0.5,
    skip: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Joined by commas: train-encoder, train-reranker, merge, calibrate, switch.",
        ),
    ] = "",
    need: NeedOption = "better",
    most_loss: MostLoss = MOST_LOSS,
    losses: LossesOption = "observed",
    candidates: Annotated[int, typer.Option(help="Passages that are re-ranked.", min=1)] = 50,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where steps keep what they make. Default: .retrieval-adapt/COLLECTION."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it takes.")
    ] = False,
    reranker: RerankerOption = "auto",
    store: Store = ".retrieval",
    tenant: Tenant = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
    ] = None,
    api_key: ApiKey = None,
    *,
    model_options: dict[str, Any],
) -> None:
    """Split, mine, train both stages, merge, encode, gate, calibrate, switch: one after the other.

    Run again, it goes on where it was, and passes over what is done. Exit code 3 where the gate
    lets nothing pass; searches then go on as before.
    """
    from retrieval.api import adapt as work
    from retrieval.api.adapt_settings import AdaptSettings
    from retrieval.cli.progress import evaluation_bar, say
    from retrieval.evaluation.gate import GateRule
    from retrieval.evaluation.trec import write_atomically
    from retrieval.training.settings import read_toml

    check_places(json_file, None)
    settings = AdaptSettings(
        split=split, dev_split=dev_split, dev_share=dev_share, general=general or [],
        general_split=general_split, reranker=reranker, merge_share=merge_share,
        rule=GateRule(need, most_loss, losses), candidates=candidates,
        recipe={} if recipe is None else read_toml(recipe), skip=listed(skip),
        model_options=model_options,
    )  # fmt: skip
    place = open_store(store, api_key)
    given: dict[str, Any] = {"settings": settings, "folder": folder, "store": place}
    given["tenant"] = tenant
    if dry_run:
        write("\n".join(_planned(one) for one in work.plan(collection, labels, **given)))
        return
    with evaluation_bar() as bar:
        report = work.adapt(
            collection, labels, **given,
            on_begin=lambda step: say(f"{step} …"),
            on_step=lambda one: say(f"{one.step}: {one.state}: {one.text}"),
            on_notice=lambda notice: say(f"note: {notice}"),
            progress=lambda what, done, total: bar(what, done, total or 0),
        )  # fmt: skip
    write(report.as_text())
    if json_file is not None:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
        write_atomically(json_file, lambda file: file.write(text + "\n"))
    if report.recommended is None:
        raise typer.Exit(3)


def _planned(one: Any) -> str:
    told = {
        "done": "done",
        "begun": "goes on",
        "new": "to do",
        "changed": "to do again: its inputs have changed",
        "skipped": "left out",
    }[one.state]
    if one.seconds is None or one.state == "done":
        return f"{one.step:<14}  {told}"
    minutes = one.seconds / 60
    about = f"{one.seconds:.0f} s" if one.seconds < 90 else f"{minutes:.0f} min"
    return f"{one.step:<14}  {told}, about {about}"
