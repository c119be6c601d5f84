"""The output of the command line, and what it reads besides its arguments; errors of both."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from retrieval.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from retrieval.index.store import Store


class ReaderGone(Exception):
    """Whoever read our output has closed it (`retrieval … | head`)."""


def write(text: str) -> None:
    """A result, to standard output.

    Raises:
        ReaderGone: the reader has closed the stream.
        Fault: it could not be written.
    """
    try:
        typer.echo(text)
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise Fault(
            f"the output could not be written ({error.strerror})",
            fix="Free space where it goes, or send it elsewhere.",
        ) from error


def write_json(value: Any) -> None:
    """A result as JSON, to standard output. Raises: as `write`."""
    _write_json(value, indent=2)


def write_json_line(value: Any) -> None:
    """One of many results as a line of JSON, to standard output. Raises: as `write`."""
    _write_json(value, indent=None)


def _write_json(value: Any, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8; escaped, it is valid JSON
        text = json.dumps(value, indent=indent)
    write(text)


def complain(message: str) -> None:
    """A sentence to standard error."""
    with suppress(OSError):  # the stream may have no reader; the exit code says it, too
        typer.echo(message, err=True)


def read_api_key(given: str | None) -> str | None:
    """An API key from the command line, or from a file so that it stays out of `ps`.

    Raises:
        InvalidInput: the file cannot be read.
    """
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(
            f"the API key file {given[1:]!r} cannot be read ({reason})",
            fix="Give --api-key @FILE with a readable file.",
        ) from error


def open_store(place: str, key: str | None) -> Store:
    """The store that `--store` and `--api-key` name.

    Raises:
        InvalidInput: neither a folder nor a URL, or the key's file cannot be read.
    """
    from retrieval.index.store import Store

    return Store(place, api_key=read_api_key(key))


def check_places(json_file: Path | None, runs: Path | None, html_file: Path | None = None) -> None:
    """Refuse before the long work what could not be written after it.

    Raises:
        InvalidInput: a folder where a file is expected, or the other way round.
    """
    for name, file in (("json", json_file), ("html", html_file)):
        if file is not None and file.is_dir():
            raise InvalidInput(
                f"--{name} is the folder {str(file)!r}, expected a file",
                fix=f"Name a file in it, such as --{name} figures.{name}.",
            )
    if runs is not None and runs.exists() and not runs.is_dir():
        raise InvalidInput(
            f"--runs is the file {str(runs)!r}, expected a folder",
            fix="Name a folder; it is made where it does not exist.",
        )


def shell_line(arguments: Sequence[str]) -> str:
    """The command line as a shell takes it, without an API key that stands in it."""
    shown: list[str] = []
    for place, argument in enumerate(arguments):
        name, given, value = argument.partition("=")
        if name == "--api-key" and given and not value.startswith("@"):
            argument = "--api-key=…"
        elif place and arguments[place - 1] == "--api-key" and not argument.startswith("@"):
            argument = "…"
        shown.append(argument)
    return shlex.join(["retrieval", *shown])


def listed(text: str) -> list[str]:
    """The parts of a list that is joined by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def given_only(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that were left out; `devices` as a list."""
    given = {name: value for name, value in options.items() if value is not None}
    if "devices" in given:
        given["devices"] = listed(given["devices"])
    return given
