"""`retrieval defaults | calibrate`: how a collection is searched where a search does not say, and
what its scores mean."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retrieval.cli.options import (
    RUNNING,
    ApiKey,
    AsJson,
    RerankerOption,
    Store,
    with_model_options,
    with_search_options,
)
from retrieval.cli.output import check_places, open_store, read_api_key, write, write_json
from retrieval.errors import InvalidInput

_OPTIONS = (
    "mode",
    "fusion",
    "candidates",
    "rerank",
    "read",
    "blend",
    "blend_weight",
    "min_relevance",
)


@with_search_options(*_OPTIONS)
def defaults(
    collection: Annotated[str, typer.Argument(help="Name of the collection.")],
    store: Store = ".retrieval",
    reranker: Annotated[
        str | None, typer.Option(help="Second stage that `auto` takes: a model's name, or none.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Number format that models run in.")] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Forget those there are, before what is given.")
    ] = False,
    forget_calibration: Annotated[
        bool, typer.Option("--forget-calibration", help="Forget what scores mean.")
    ] = False,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    *,
    search_options: dict[str, Any],
) -> None:
    """Show or set what searches of a collection take where they do not say.

    Without options it shows what there is. A running service takes a change within a second.
    """
    from retrieval.cli.render import tuning_as_rows
    from retrieval.search.options import SearchOptions
    from retrieval.types import SearchDefaults, Tuning

    place = open_store(store, api_key)
    manifest = place.manifest(collection)
    given = {**search_options, **_models(reranker, dtype)}
    now = SearchDefaults() if clear else manifest.tuning.defaults
    if given:
        SearchOptions(**search_options)  # which says what cannot be used
        today = datetime.now(UTC).date().isoformat()
        now = replace(now, **given, chosen=f"{today} by hand")
    if forget_calibration:
        place.set_calibration(collection, None)
    if now != manifest.tuning.defaults:
        place.set_defaults(collection, now)
    if as_json:
        write_json({"collection": collection, "defaults": asdict(now)})
        return
    rows = tuning_as_rows(Tuning(now))
    width = max(map(len, rows), default=0)
    shown = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    write("\n".join(shown or [f"{collection} has no defaults of its own."]))


def _models(reranker: str | None, dtype: str | None) -> dict[str, Any]:
    known = ("auto", "fp32", "bf16", "fp16", "int8")
    if dtype is not None and dtype not in known:
        raise InvalidInput(
            f"--dtype is {dtype!r}, expected one of {', '.join(known)}", fix="Correct it."
        )
    given = {"reranker": reranker, "dtype": dtype}
    return {name: value for name, value in given.items() if value is not None}


@with_model_options(*RUNNING, "long_passages")
@with_search_options(*(name for name in _OPTIONS if name != "min_relevance"), "refine", "tenant")
def calibrate(
    judgements: Annotated[
        Path, typer.Argument(metavar="JUDGEMENTS", help="Judged queries, as `retrieval eval`.")
    ],
    collection: Annotated[str, typer.Option(help="Name of the collection.")] = "docs",
    store: Store = ".retrieval",
    split: Annotated[str, typer.Option(help="Which split of a folder.")] = "test",
    reranker: RerankerOption = "auto",
    signal: Annotated[
        Literal["auto", "stage1", "stage2", "score"], typer.Option(help="Score to read.")
    ] = "auto",
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=THRESHOLD", help="A name of your own: strict=precision:0.9."),
    ] = None,
    cascade: Annotated[
        bool, typer.Option(help="Also find scores beyond which no reranker is needed.")
    ] = False,
    grade: Annotated[int, typer.Option(help="From which grade on it means relevant.", min=1)] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first N queries.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, and store nothing.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file as JSON.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write the report to this file as a page.")
    ] = None,
    api_key: ApiKey = None,
    *,
    search_options: dict[str, Any],
    model_options: dict[str, Any],
) -> None:
    """Learn from judged queries what a collection's scores mean.

    From then on relevance is the probability of being relevant, and --min-relevance takes
    recall:0.95, precision:0.9 or a name.
    """
    from retrieval.api.calibrate import calibrate as learn
    from retrieval.cli.progress import evaluation_bar
    from retrieval.evaluation.trec import write_atomically

    key = read_api_key(api_key)
    check_places(json_file, None, html_file)
    with evaluation_bar() as bar:
        report = learn(
            judgements,
            collection,
            split=split,
            store=store,
            reranker=reranker,
            signal=None if signal == "auto" else signal,
            names=_named(name or []),
            find_cascade=cascade,
            grade=grade,
            limit=limit,
            keep=not dry_run,
            api_key=key,
            progress=lambda done, total: bar("calibrating", done, total),
            model_options=model_options,
            **search_options,
        )
    write(report.as_text())
    if json_file is not None:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(json_file, lambda file: file.write(text))
    if html_file is not None:
        from retrieval.evaluation.calibration_html import calibration_as_html

        page = calibration_as_html(report)
        write_atomically(html_file, lambda file: file.write(page))


def _named(given: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for one in given:
        name, equals, threshold = one.partition("=")
        if not equals or not name.strip() or ":" in name or ":" not in threshold:
            raise InvalidInput(
                f"--name is {one!r}, expected NAME=THRESHOLD",
                fix="Write, for example, --name strict=precision:0.9.",
            )
        names[name.strip()] = threshold.strip()
    return names
