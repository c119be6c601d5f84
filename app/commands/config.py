"""`retrieval config`: the settings that `retrieval serve` would have here."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import Config
from app.settings import report, sources


def config(
    config: Config = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a settings file that gives the same settings.")
    ] = False,
) -> None:
    """Print the service's settings and where each came from; secrets are masked.

    An option goes before a variable of the environment, that before the file, that before the
    default.
    """
    loaded = sources.load_with_origins(config=config)
    typer.echo(report.as_toml(loaded) if toml else report.as_text(loaded), nl=False)
