"""`retrieval keys`: make, list and revoke API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import Config, KeysFile
from app.settings import sources

DEFAULT_FILE = "retrieval-keys.json"

app = typer.Typer(
    help="Make, list and revoke the API keys of `retrieval serve`.", no_args_is_help=True
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Public name of the key, shown in logs.")],
    keys_file: KeysFile = None,
    config: Config = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="May search, but not change collections.")
    ] = False,
    collections: Annotated[
        str | None, typer.Option(metavar="A,B", help="Collections that it may use. [all]")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Tenant of all its calls. [the one that a call names]")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/TIME", help="Limit of requests, such as 600/minute. [the service's]"
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH", help="How long it is valid, such as 12h, 90d or 8w. [always]"
        ),
    ] = None,
) -> None:
    """Make a key and print it, once: it is kept nowhere."""
    from app.security import api_keys

    place = _place(keys_file, config)
    names = None if collections is None else [one.strip() for one in collections.split(",")]
    token, key = api_keys.create(
        place,
        name,
        write=not read_only,
        collections=names,
        tenant=tenant,
        rate=rate,
        expires=expires,
    )
    typer.echo(token)
    typer.echo(
        f"The key {key.id!r} ({_rights(key.write)}) is shown only this once. "
        f"Its digest is in {place}: retrieval serve --keys-file {place}",
        err=True,
    )


@app.command("list")
def list_keys(keys_file: KeysFile = None, config: Config = None) -> None:
    """List the keys: their names and rights, not the keys themselves."""
    from app.security.key_file import read_keys

    lines = [("NAME", "RIGHTS", "COLLECTIONS", "TENANT", "RATE", "CREATED", "EXPIRES")]
    for key in read_keys(_place(keys_file, config)):
        over = " (over)" if key.expired() else ""
        lines.append(
            (
                key.id,
                _rights(key.write),
                "all" if key.collections is None else ",".join(key.collections),
                key.tenant or "-",
                key.rate or "-",
                key.created,
                (key.expires or "never") + over,
            )
        )
    wide = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(f"{text:<{w}}" for text, w in zip(line, wide, strict=True)).rstrip())


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    keys_file: KeysFile = None,
    config: Config = None,
) -> None:
    """Revoke a key; a running service refuses it from its next request on."""
    from app.security import api_keys

    api_keys.revoke(_place(keys_file, config), name)
    typer.echo(f"The key {name!r} is revoked.", err=True)


def _place(given: Path | None, config: Path | None) -> Path:
    if given is not None:
        return given
    return sources.load(config=config).keys_file or Path(DEFAULT_FILE)


def _rights(write: bool) -> str:
    return "read-write" if write else "read-only"
