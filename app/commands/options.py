"""The options of the app's commands: those made of the settings, and those that they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.settings import settings
from app.settings.declaration import Setting, declared

Browser = Annotated[bool, typer.Option(help="Open the page in a browser where there is a desktop.")]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Settings in TOML. [$RETRIEVAL_CONFIG, or retrieval.toml if it exists]"
    ),
]
KeysFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="API keys, made by `retrieval keys create`.")
]


def settings_of(command: str) -> Mapping[str, Any]:
    """The settings that a command takes as options, for `retrieval.cli.options.with_options`."""
    return {
        setting.name: _option(setting)
        for setting in declared(settings.Settings)
        if command in setting.commands
    }


def _option(setting: Setting) -> Any:
    """The type of an option that is None where it is not given; bounds are the settings' affair."""
    text = f"{setting.text[:1].upper()}{setting.text[1:]}."
    flag = "--" + setting.name.replace("_", "-")
    if setting.kind is bool and setting.default == "true":
        flag += f"/--no-{flag[2:]}"
    shown = setting.default not in ("", "false")
    option = typer.Option(
        flag,
        help=f"{text} [{setting.default}]" if shown else text,
        rich_help_panel=setting.section,
    )
    kind: Any = setting.kind if setting.kind in (bool, int, float, Path) else str
    return Annotated[kind | None, option]
