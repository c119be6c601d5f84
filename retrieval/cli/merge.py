"""`retrieval merge`: one model from several by the average of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.cli.options import RUNNING, AsJson, with_model_options
from retrieval.cli.output import listed, write, write_json
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from retrieval.api.merge_report import SweepReport

_WEIGHTS = "Weights"
_SWEEP = "Sweep"
_OPTIONS = ("pooling", "query_instruction", "max_length")
_DOTS = ("…", "...")


@with_model_options(*_OPTIONS, *(name for name in RUNNING if name != "dtype"))
def merge(
    models: Annotated[
        list[str], typer.Argument(help="Two or more encoders, or rerankers: names or folders.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The merged model; a new folder.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="One for each model, such as 0.7,0.3; or equal (the default); or loss: by each "
            "model's loss on --examples.",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Training examples, for losses.", rich_help_panel=_WEIGHTS
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of softmax(-loss / temperature); 5 as LM-Cocktail has it.",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    normalize_weights: Annotated[
        bool,
        typer.Option(
            "--normalize-weights", help="Divide them by their sum.", rich_help_panel=_WEIGHTS
        ),
    ] = False,
    extrapolate: Annotated[
        bool,
        typer.Option("--extrapolate", help="Let weights be negative.", rich_help_panel=_WEIGHTS),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What the others were tuned from: merged as the last, and its instructions and "
            "length are taken.",
        ),
    ] = None,
    instruction_of: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model whose instructions and length are taken. Default: the first, or "
            "--base.",
        ),
    ] = None,
    kind: Annotated[
        Literal["encoder", "reranker"] | None,
        typer.Option(help="What the models are, where neither registry nor folder says it."),
    ] = None,
    method: Annotated[
        Literal["linear", "slerp"],
        typer.Option(help="linear, or for two models slerp, along the arc between them."),
    ] = "linear",
    dtype: Annotated[
        Literal["fp32", "fp16", "bf16"] | None,
        typer.Option(help="How weights are stored. Default: as the first model's."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in the folder.")
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Try these shares of the first of two models, such as 0,0.1,…,1, and take the "
            "best.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(
            metavar="JUDGED",
            help="Judged queries of the task, which decide.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    general: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="JUDGED",
            help="Judged queries that must not suffer; repeatable.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    task_split: Annotated[
        str | None,
        typer.Option(
            help="Which of the task's judgements. Default: its dev split; never test unless said.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    general_split: Annotated[
        str | None,
        typer.Option(
            help="Which of the general sets' judgements. Default: dev, else test.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    most_loss: Annotated[
        float,
        typer.Option(
            help="What each general set may lose against the second model.",
            rich_help_panel=_SWEEP,
        ),
    ] = 0.01,
    measure: Annotated[
        str, typer.Option(help="The measure that decides.", rich_help_panel=_SWEEP)
    ] = "nDCG@10",
    system: Annotated[
        Literal["dense", "hybrid", "two-stage"] | None,
        typer.Option(
            help="What is searched with. Default: dense for encoders, two-stage for rerankers.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(help="First stage, where rerankers are merged.", rich_help_panel=_SWEEP),
    ] = "starter",
    reranker: Annotated[
        str | None,
        typer.Option(help="Second stage of --system two-stage.", rich_help_panel=_SWEEP),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Only the first N queries of each set.", min=1, rich_help_panel=_SWEEP),
    ] = None,
    as_json: AsJson = False,
    *,
    model_options: dict[str, Any],
) -> None:
    """Merge models that were tuned from one into a new one: LM-Cocktail.

    A tuned model, merged with the one it was tuned from, keeps most of what it won on its task and
    gets back most of what it lost elsewhere. --sweep finds how much of each.
    """
    from retrieval.api.merge import merge as merge_named
    from retrieval.api.merge_report import (
        merge_as_dict,
        merge_as_text,
        sweep_as_dict,
        sweep_as_text,
    )
    from retrieval.cli.progress import evaluation_bar, say, show_notices
    from retrieval.training.merging.weights import TEMPERATURE

    given = {
        "task": task, "general": general, "task-split": task_split, "general-split": general_split,
        "system": system, "reranker": reranker, "limit": limit,
    }  # fmt: skip
    _check_sweep(sweep, given, weights, base, models)
    shares = _weights(weights)
    swept = None
    if sweep is not None:
        assert task is not None  # checked
        swept = _swept(
            models, _shares(sweep), task, general or [], task_split, general_split, limit, out,
            overwrite, kind=kind, method=method, system=system, encoder=encoder, reranker=reranker,
            measure=measure, most_loss=most_loss, options=model_options,
        )  # fmt: skip
        shares = swept.weights
        if not as_json:
            write(sweep_as_text(swept) + "\n")
    with evaluation_bar() as bar:
        report = merge_named(
            models, out, weights=shares, examples=examples,
            temperature=TEMPERATURE if temperature is None else temperature, base=base, kind=kind,
            method=method, dtype=dtype, instruction_of=instruction_of,
            normalize_weights=normalize_weights, extrapolate=extrapolate, overwrite=overwrite,
            options=model_options, on_notice=lambda notice: say(f"note: {notice}"),
            progress=lambda done, total: bar("tensors", done, total),
        )  # fmt: skip
    show_notices(report.notices)
    if as_json:
        sweep_part = {} if swept is None else {"sweep": sweep_as_dict(swept)}
        write_json({**merge_as_dict(report), **sweep_part})
        return
    write(merge_as_text(report))


def _swept(
    models: list[str],
    shares: list[float],
    task: Path,
    general: list[Path],
    task_split: str | None,
    general_split: str | None,
    limit: int | None,
    out: Path,
    overwrite: bool,
    **options: Any,
) -> SweepReport:
    from retrieval.api.merge_sweep import judged_for_choosing, sweep_merges
    from retrieval.cli.progress import evaluation_bar, say, show_notices
    from retrieval.training.folder import check_place

    check_place(out, overwrite=overwrite, sources=[])  # now: not after all the work
    found = [judged_for_choosing(task, task_split)]
    found += [judged_for_choosing(one, general_split, general=True) for one in general]
    for _, notice in found:
        if notice:
            say(f"note: {notice}")
    judged, *others = (one.first(limit) for one, _ in found)
    with evaluation_bar() as progress:
        report = sweep_merges(
            models[0], models[1], shares, task=judged, general=others,
            on_search=progress,
            on_point=lambda share, done, total: say(f"share {share:g} ({done + 1} of {total})"),
            **options,
        )  # fmt: skip
    show_notices(report.notices)
    return report


def _check_sweep(
    sweep: str | None,
    given: dict[str, Any],
    weights: str | None,
    base: str | None,
    models: list[str],
) -> None:
    """Refuse what does not go together, before any work."""
    if sweep is None:
        named = next((name for name, value in given.items() if value), None)
        if named is not None:
            raise InvalidInput(
                f"--{named} was given without --sweep",
                fix="Give the shares to try, such as --sweep 0,0.25,0.5,0.75,1, or leave it out.",
            )
        return
    if weights is not None or base is not None:
        raise InvalidInput(
            f"--{'weights' if weights is not None else 'base'} was given with --sweep, which finds "
            "the weights of two models",
            fix="Leave it out; give the tuned model and then the original.",
        )
    if len(models) != 2:
        raise InvalidInput(
            f"--sweep was given with {len(models)} models, and it takes two",
            fix="Give the tuned model and then the original.",
        )
    if given["task"] is None:
        raise InvalidInput(
            "--sweep was given without --task, which decides",
            fix="Give judged queries of the task, such as --task my-beir-folder.",
        )


def _weights(text: str | None) -> Any:
    """`equal`, `loss`, or numbers.

    Raises:
        InvalidInput: neither.
    """
    if text is None or text in ("equal", "loss"):
        return text or "equal"
    try:
        return [float(one) for one in listed(text)]
    except ValueError as error:
        raise InvalidInput(
            f"--weights is {text!r}, expected numbers joined by commas, equal or loss",
            fix="Give one number for each model, such as --weights 0.7,0.3.",
        ) from error


def _shares(text: str) -> list[float]:
    """Numbers joined by commas; `…` or `...` goes on in the steps before it to the one behind.

    Raises:
        InvalidInput: another text.
    """
    shares: list[float] = []
    parts = [one.strip() for one in text.split(",")]
    wrong = InvalidInput(
        f"--sweep is {text!r}, expected numbers from 0 to 1 joined by commas",
        fix="Write for example --sweep 0,0.25,0.5,0.75,1 or --sweep 0,0.1,...,1.",
    )
    for place, part in enumerate(parts):
        if part in _DOTS:
            if len(shares) < 2 or place + 1 == len(parts) or shares[-1] <= shares[-2]:
                raise wrong
            continue
        try:
            value = float(part)
        except ValueError:
            raise wrong from None
        if place and parts[place - 1] in _DOTS:
            step = shares[-1] - shares[-2]
            for _ in range(1000):
                following = round(shares[-1] + step, 10)
                if following >= value:
                    break
                shares.append(following)
        shares.append(value)
    return shares
