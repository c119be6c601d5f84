"""The settings in force, each with where it came from: what `retrieval config` prints."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.settings import sources
from app.settings.settings import PREFIX, Loaded, Origin, Settings

MASK = "********"

# Variables of this prefix that are meant for somebody else than `Settings`.
_OTHERS = ("config", "test_require")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. value: None where it is not set; a secret is masked. secret: it is one."""

    name: str
    value: Any
    origin: Origin
    description: str
    secret: bool


def rows(loaded: Loaded) -> list[Row]:
    """All settings in the order of `Settings`."""
    found = []
    for name, field in Settings.model_fields.items():
        value = getattr(loaded.settings, name)
        secret = isinstance(value, SecretStr)
        found.append(
            Row(
                name,
                MASK if secret else value,
                loaded.origins[name],
                field.description or "",
                secret,
            )
        )
    return found


def as_text(loaded: Loaded) -> str:
    """A table for people: name, value, origin; then notes, where there are any."""
    table = [(row.name, _shown(row), _place(row, loaded.file)) for row in rows(loaded)]
    wide = [max(len(line[column]) for line in table) for column in range(2)]
    lines = [
        f"{name:<{wide[0]}}  {value:<{min(wide[1], 40)}}  {origin}" for name, value, origin in table
    ]
    file = "none" if loaded.file is None else str(loaded.file)
    return "\n".join([f"settings file: {file}", "", *lines, *notes()]) + "\n"


def as_toml(loaded: Loaded) -> str:
    """A settings file that gives the same settings again.

    What is not set, and secrets, stand in it as comments: the file may be shown to others.
    """
    lines = ["# The settings of `retrieval serve`, as they were in force. Secrets are left out."]
    tables: list[str] = []
    for row in rows(loaded):
        lines += ["", f"# {row.description} ({_place(row, loaded.file)})"]
        if row.secret:
            lines.append(f"# {row.name}: set, not shown; give it as {PREFIX}{row.name.upper()}")
        elif row.value is None:
            lines.append(f"# {row.name} is not set")
        elif isinstance(row.value, Mapping):
            tables += ["", f"[{row.name}]"]
            tables += [f"{_text(name)} = {_toml(value)}" for name, value in row.value.items()]
            lines.append(f"# {row.name}: see its table at the end")
        else:
            lines.append(f"{row.name} = {_toml(row.value)}")
    return "\n".join([*lines, *tables]) + "\n"


def notes() -> list[str]:
    """Variables with the service's prefix that no setting has, with near names."""
    found = []
    for name in sorted(sources.set_variables(PREFIX)):
        if name not in Settings.model_fields and name not in _OTHERS:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.6)
            meant = f" (meant {PREFIX}{near[0].upper()}?)" if near else ""
            found.append(
                f"note: {PREFIX}{name.upper()} is set, and no setting has this name{meant}"
            )
    return ["", *found] if found else []


def _shown(row: Row) -> str:
    if row.value is None:
        return "-"
    if row.secret:
        return MASK
    if isinstance(row.value, Mapping):
        return ", ".join(f"{name}={value}" for name, value in row.value.items()) or "-"
    if isinstance(row.value, tuple):
        return ", ".join(map(str, row.value)) or "-"
    return str(row.value).lower() if isinstance(row.value, bool) else str(row.value)


def _place(row: Row, file: Path | None) -> str:
    if row.origin == "file":
        return f"file {file}"
    if row.origin == "environment":
        return f"environment {PREFIX}{row.name.upper()}"
    return "option" if row.origin == "option" else "default"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return _text(str(value))


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, and for the pairs that ensure_ascii would write
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
