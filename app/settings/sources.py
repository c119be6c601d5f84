"""Where the values of settings come from: options, the environment, a TOML file, defaults."""

from __future__ import annotations

import difflib
import logging
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from app.settings import settings
from app.settings.declaration import declared
from retrieval.errors import InvalidInput

log = logging.getLogger(__name__)

DEFAULT_FILE = "retrieval.toml"

Origin: TypeAlias = Literal["option", "environment", "file", "default"]


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each of them came from. file: the TOML file that was read, if any."""

    settings: settings.Settings
    origins: Mapping[str, Origin]
    file: Path | None


def load(*, config: Path | str | None = None, **options: Any) -> settings.Settings:
    """Settings; options that are not None go before the environment, that before the file.

    Args:
        config: the TOML file; None takes the one that `RETRIEVAL_CONFIG` names, or
            `retrieval.toml` of the current folder where there is one.
        options: fields of `Settings`.

    Raises:
        InvalidInput: a value cannot be used, or the file; says which, from where, and what was
            expected.
    """
    return load_with_origins(config=config, **options).settings


def load_with_origins(*, config: Path | str | None = None, **options: Any) -> Loaded:
    """What `load` gives, with where each setting came from."""
    model = settings.Settings
    file = _find_file(config)
    sources: dict[Origin, dict[str, Any]] = {
        "option": {name: value for name, value in options.items() if value is not None},
        "environment": EnvSettingsSource(model)(),
        "file": {} if file is None else _read_file(file),
    }
    origins: dict[str, Origin] = dict.fromkeys(model.model_fields, "default")
    values: dict[str, Any] = {}
    for origin in reversed(sources):  # the strongest last
        values |= sources[origin]
        origins |= dict.fromkeys(sources[origin], origin)
    try:
        return Loaded(model(**values), origins, file)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise _unusable(name, origins[name], file, first["input"], first["msg"]) from None


def _find_file(config: Path | str | None) -> Path | None:
    """The settings file to read: the given one, RETRIEVAL_CONFIG's, or `retrieval.toml` here."""
    origin = f"{settings.PREFIX}CONFIG" if config is None else "--config"
    place = (os.environ.get(origin) or None) if config is None else config
    if place is None:
        default = Path(DEFAULT_FILE)
        return default if default.is_file() else None
    file = Path(place).expanduser()
    if not file.is_file():
        raise InvalidInput(
            f"{origin} names {str(place)!r}, but there is no such file",
            fix="Give the path of a TOML file; `retrieval config --toml` prints one.",
        )
    return file


def _read_file(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, by name; a name that no setting has is refused."""
    try:
        written = TomlConfigSettingsSource(settings.Settings, file).toml_data
    except OSError as error:
        raise InvalidInput(
            f"the settings file {str(file)!r} cannot be read ({error.strerror or error})",
            fix="Let the user that runs the service read it.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the settings file {str(file)!r} is not valid TOML: {error}",
            fix='Write lines such as port = 8000 and collection = "docs".',
        ) from None
    known = {one.name: one for one in declared(settings.Settings)}
    for name in written:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            raise InvalidInput(
                f"the settings file {str(file)!r} has {name!r}, which is not a setting",
                fix=f"Did you mean {' or '.join(near)}?"
                if near
                else "`retrieval config` lists the settings.",
            )
    secrets = " and ".join(sorted(name for name in written if known[name].secret))
    if secrets and stat.S_IMODE(file.stat().st_mode) & 0o077:
        log.warning(
            "%s holds %s and can be read by other users; run: chmod 600 %s", file, secrets, file
        )
    return written


def _unusable(
    name: str, origin: Origin, file: Path | None, value: object, reason: str
) -> InvalidInput:
    [wrong] = [one for one in declared(settings.Settings) if one.name == name]
    place, fix = {
        "option": (f"--{name.replace('_', '-')}", "Correct the option"),
        "environment": (
            f"the environment variable {settings.PREFIX}{name.upper()}",
            "Correct or unset the variable",
        ),
        "file": (f"{name} in {file}", "Correct the file"),
        "default": (name, "Give another value"),
    }[origin]
    shown = "not shown" if wrong.secret else repr(value)
    reason = reason.removeprefix("Value error, ")
    return InvalidInput(
        f"{place} is {shown}: {reason[:1].lower() + reason[1:]}", fix=f"{fix} ({wrong.text})."
    )
