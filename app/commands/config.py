"""`retrieval config`: the settings that `retrieval serve` would have here."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import Config


def config(
    config: Config = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a settings file that says the same.")
    ] = False,
) -> None:
    """Print the service's settings and where each came from; secrets are masked.

    An option goes before a variable of the environment, that before the file, that before the
    default.
    """
    from app.settings import report as effective
    from app.settings import settings

    loaded = settings.load_all(config=config)
    text = effective.as_toml(loaded) if toml else effective.as_text(loaded)
    typer.echo(text, nl=False)
