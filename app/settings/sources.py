"""Where settings are written: the TOML file, the environment, and lists as one text."""

from __future__ import annotations

import difflib
import json
import logging
import os
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from retrieval.errors import InvalidInput

log = logging.getLogger(__name__)

DEFAULT_FILE = "retrieval.toml"


def find_file(given: Path | str | None, prefix: str) -> Path | None:
    """The settings file to read: the given one, `<prefix>CONFIG`'s, or `retrieval.toml` here.

    Raises:
        InvalidInput: one is named that is not there.
    """
    named = os.environ.get(f"{prefix}CONFIG") or None
    place, origin = (given, "--config") if given is not None else (named, f"{prefix}CONFIG")
    if place is None:
        default = Path(DEFAULT_FILE)
        return default if default.is_file() else None
    file = Path(place).expanduser()
    if not file.is_file():
        raise InvalidInput(
            f"{origin} names {str(place)!r}, which is no file",
            fix="Give the path of a TOML file; `retrieval config --toml` prints one.",
        )
    return file


def read_file(file: Path, known: Collection[str], secrets: Collection[str]) -> dict[str, Any]:
    """The settings in a TOML file, by name.

    Raises:
        InvalidInput: it cannot be read, is no TOML, or has a name that no setting has.
    """
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(
            f"the settings file {str(file)!r} cannot be read ({error.strerror or error})",
            fix="Let the user that runs the service read it.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the settings file {str(file)!r} is no TOML: {error}",
            fix='Write lines such as port = 8000 and collection = "docs".',
        ) from None
    for name in written:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            raise InvalidInput(
                f"the settings file {str(file)!r} has {name!r}, which is no setting",
                fix=f"Did you mean {' or '.join(near)}?"
                if near
                else "`retrieval config` lists the settings.",
            )
    held = sorted(name for name in written if name in secrets)
    if held and stat.S_IMODE(file.stat().st_mode) & 0o077:
        log.warning(
            "%s holds %s and can be read by other users; run: chmod 600 %s",
            file,
            " and ".join(held),
            file,
        )
    return written


def set_variables(prefix: str) -> frozenset[str]:
    """The settings that the environment gives, by their names without the prefix.

    An empty variable counts as none, as `Settings` has it.
    """
    low = prefix.lower()
    return frozenset(
        name.lower().removeprefix(low)
        for name, value in os.environ.items()
        if value and name.lower().startswith(low)
    )


def list_of(text: str) -> list[Any]:
    """A list from its text: JSON, or items joined by commas."""
    if text.lstrip().startswith("["):
        value = _json(text)
        assert isinstance(value, list)
        return value
    return [part.strip() for part in text.split(",") if part.strip()]


def table_of(text: str) -> dict[str, Any]:
    """A table from its text: JSON, or `name=value` joined by commas."""
    if text.lstrip().startswith("{"):
        value = _json(text)
        assert isinstance(value, dict)
        return value
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if not all(len(pair) == 2 and pair[0].strip() and pair[1].strip() for pair in pairs):
        raise ValueError('expected {"name": "value"} or name=value,other=value')
    return {name.strip(): value.strip() for name, value in pairs}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"it begins as JSON and is none ({error})") from None
