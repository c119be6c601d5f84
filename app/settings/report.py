"""The settings in force, each with where it came from: what `retrieval config` prints."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass

import tomli_w

from app.settings import settings
from app.settings.declaration import Setting, declared
from app.settings.sources import Loaded

MASK = "********"

# Variables with the prefix that something else than `Settings` reads.
OTHER_VARIABLES = ("config", "hub", "test_require", "weights")


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """A setting in force.

    value: as JSON has it; None where it is not set; a secret is masked. origin: "option",
    "default", or the variable or file.
    """

    setting: Setting
    value: object
    origin: str


def rows(loaded: Loaded) -> list[ConfigRow]:
    """All settings in the order of their declaration."""
    values = loaded.settings.model_dump(mode="json")
    found = []
    for setting in declared(settings.Settings):
        value, origin = values[setting.name], str(loaded.origins[setting.name])
        if origin == "environment":
            origin = f"environment {settings.PREFIX}{setting.name.upper()}"
        elif origin == "file":
            origin = f"file {loaded.file}"
        masked = setting.secret and value is not None
        found.append(ConfigRow(setting, MASK if masked else value, origin))
    return found


def as_text(loaded: Loaded) -> str:
    """A table for people: name, value, origin; then notes, where there are any."""
    table = [(row.setting.name, _shown(row.value), row.origin) for row in rows(loaded)]
    names, values = (max(len(line[column]) for line in table) for column in range(2))
    lines = [f"{name:<{names}}  {value:<{min(values, 40)}}  {at}" for name, value, at in table]
    return "\n".join([f"settings file: {loaded.file or 'none'}", "", *lines, *_notes()]) + "\n"


def as_toml(loaded: Loaded) -> str:
    """A settings file that gives the same settings again.

    Settings that are not set, and secrets, are in it as comments: the file may be shown to others.
    """
    text = "# The settings of `retrieval serve`, as they were in force. Secrets are left out.\n"
    # Tables last: whatever follows a table's head in TOML belongs to it.
    for row in sorted(rows(loaded), key=lambda row: isinstance(row.value, dict)):
        name = row.setting.name
        text += f"\n# {row.setting.text} ({row.origin})\n"
        if row.value is None:
            text += f"# {name} is not set\n"
        elif row.setting.secret:
            text += f"# {name}: set, not shown; give it as {settings.PREFIX}{name.upper()}\n"
        else:
            text += tomli_w.dumps({name: row.value})
    return text


def _notes() -> list[str]:
    """Variables with the service's prefix that no setting has, with near names."""
    known = settings.Settings.model_fields
    found = []
    for variable, value in sorted(os.environ.items()):
        name = variable.lower().removeprefix(settings.PREFIX.lower())
        ours = name != variable.lower() and value
        if ours and name not in known and name not in OTHER_VARIABLES:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            meant = f" (meant {settings.PREFIX}{near[0].upper()}?)" if near else ""
            found.append(f"note: {variable} is set, and no setting has this name{meant}")
    return ["", *found] if found else []


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)
