"""`retrieval compare`: a grid of settings on judged queries, and which of them to take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli.options import (
    RUNNING,
    ApiKey,
    Store,
    Tenant,
    with_model_options,
    with_options,
)
from retrieval.cli.output import check_places, listed, read_api_key, write
from retrieval.errors import InvalidInput
from retrieval.evaluation.settings import DIMENSIONS, NONE, OWN

if TYPE_CHECKING:
    from retrieval.evaluation.comparison import SettingResult

_PANEL = "What varies"
_LISTS: dict[str, Any] = {
    one.plural: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help=f"Joined by commas, or repeated: {one.expected}.",
            rich_help_panel=_PANEL,
        ),
    ]
    for one in DIMENSIONS.values()
}
_OUTPUTS = Path(".retrieval-compare")


@with_model_options(*(name for name in RUNNING if name != "dtype"))
@with_options(lists=_LISTS)
def compare(
    judged: Annotated[
        Path, typer.Argument(metavar="JUDGED", help="Judged queries, as `retrieval eval` reads.")
    ],
    grid: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML: lists by their names, or [[setting]] tables.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which of its judgements.")] = "test",
    qrels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judgements in a file of their own.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Index this source in place of the set's own documents.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Compare on this collection as it is; index nothing.")
    ] = None,
    store: Store = ".retrieval",
    tenant: Tenant = None,
    measure: Annotated[str, typer.Option(help="The measure that decides.")] = "nDCG@10",
    limit: Annotated[int | None, typer.Option(help="Only the first N queries.", min=1)] = None,
    most_minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Refuse what will take longer.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the BM25 terms.")] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help=f"Where each setting is kept that is done. Default: a new one in {_OUTPUTS}.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the comparison in --output.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this file as JSON.")
    ] = None,
    apply: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Let searches of this collection take the setting chosen."
        ),
    ] = None,
    api_key: ApiKey = None,
    *,
    lists: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Compare settings on judged queries, and say which to take and how sure that is.

    The first value of each list is the baseline. What is not said is as a search has it that says
    nothing.
    """
    from retrieval.api.compare import compare_settings
    from retrieval.api.compare_collection import apply_choice, base_setting
    from retrieval.cli.output import open_store
    from retrieval.cli.progress import comparison_bar, say
    from retrieval.evaluation.comparison_report import comparison_as_dict, comparison_as_text
    from retrieval.evaluation.grid import product, read_grid
    from retrieval.evaluation.trec import write_atomically

    key = read_api_key(api_key)
    check_places(json_file, None)
    if resume and output is None:
        raise InvalidInput(
            "--resume was given without --output", fix="Name the folder of the comparison."
        )
    if grid is not None and lists:
        raise InvalidInput(
            f"--grid and --{next(iter(lists))} were both given", fix="Give one of them."
        )
    if apply is not None:
        open_store(store, api_key).manifest(apply)  # now: not after all the work
    base = base_setting(collection, store, key)
    settings = read_grid(grid, base) if grid is not None else product(_values(lists), base)
    folder = output or _OUTPUTS / f"{judged.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        with comparison_bar(judged.name) as bar:
            report = compare_settings(
                judged, settings, output=folder, resume=resume, split=split, qrels=qrels,
                corpus=corpus, collection=collection, store=store, tenant=tenant, measure=measure,
                limit=limit, most_minutes=most_minutes, language=language, api_key=key,
                on_index=bar.index, on_search=bar.search,
                on_setting=lambda *done: bar.say(_done(*done)),
                on_notice=lambda notice: bar.say(f"note: {notice}"), **model_options,
            )  # fmt: skip
    except KeyboardInterrupt:
        if (folder / "comparison.json").is_file():
            say(f"What is done is in {folder}; the same with --output {folder} --resume goes on.")
        raise
    write(comparison_as_text(report))
    if json_file is not None:
        text = json.dumps(comparison_as_dict(report), indent=2, ensure_ascii=False)
        write_atomically(json_file, lambda file: file.write(text + "\n"))
    if apply is not None:
        write(apply_choice(report, apply, store, key))


def _values(lists: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What each list says; an instruction of one's own may have commas in it."""
    values: dict[str, list[str]] = {}
    for name, given in lists.items():
        values[name] = []
        for text in given:
            parts = listed(text)
            own = name == "instructions" and not set(parts) <= {NONE, OWN}
            values[name] += [text] if own else parts
    return values


def _done(done: int, total: int, result: SettingResult) -> str:
    return f"{done} of {total}: {result.name}: {result.mean:.4f}, {result.ms:.0f} ms a search"
