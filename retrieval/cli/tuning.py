"""`retrieval defaults`: how a collection is searched where a search does not say."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from retrieval.cli.options import ApiKey, AsJson, Store, with_search_options
from retrieval.cli.output import open_store, write, write_json
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


def add_to(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command()(defaults)


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
