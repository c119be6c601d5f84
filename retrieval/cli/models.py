"""`retrieval models`: which models are known and where their weights are; `get` fetches them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.cli.options import AsJson
from retrieval.cli.output import write, write_json
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from retrieval.types import ModelKind

models = typer.Typer(
    name="models",
    help="The models whose settings are known here, where their weights are, and fetching them. "
    "Others are read from their own config.",
    invoke_without_command=True,
)


@models.callback()
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models that are known."""
    if context.invoked_subcommand is not None:
        return
    from retrieval.cli.render import models_as_text
    from retrieval.models.registry import list_models
    from retrieval.models.sources.known import sources_of
    from retrieval.serialization import models_as_dicts

    specs = list_models()
    sources = {spec.name: sources_of(spec) for spec in specs}
    if as_json:
        write_json(models_as_dicts(specs, sources))
    else:
        write(models_as_text(specs, sources))


@models.command()
def get(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME…", help="Names, hub ids, or starter for the pair."),
    ],
    kind: Annotated[
        Literal["encoder", "reranker"] | None,
        typer.Option(help="What a model is that is not in the list."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch weights, so that they are on this machine before they are needed."""
    from retrieval.models import registry
    from retrieval.models.resolve import resolve
    from retrieval.models.sources.known import sources_of

    got: list[dict[str, Any]] = []
    wanted: list[tuple[str, ModelKind]] = []
    for name in names:
        if name.strip().casefold() == registry.STARTER:
            wanted += [(name, "encoder"), (name, "reranker")]
            continue
        known = registry.find(name)
        own = kind if known is None else known.kind
        if own is None:
            raise InvalidInput(
                f"{name!r} is not a model that is known here, so it may be an encoder or a "
                "reranker",
                fix="Say which: --kind encoder or --kind reranker.",
            )
        wanted.append((name, own))
    for name, own in wanted:
        found = resolve(name, own)
        source = next(source for source in sources_of(found.spec) if source.folder is not None)
        said = {
            "name": found.spec.name,
            "kind": found.spec.kind,
            "source": source.kind,
            "from": source.detail,
            "folder": str(found.path),
            "int8_origin": source.int8_origin,
        }
        got.append(said)
        if not as_json:
            described = source.described()
            write(f"{found.spec.name} ({found.spec.kind}) from {described}\n  {found.path}")
    if as_json:
        write_json(got)
