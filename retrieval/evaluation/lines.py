"""Lines and JSON records of judged files, plain or compressed; a bad one is named as path:line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from retrieval._validate import is_whole_number
from retrieval.errors import CorpusError


def existing(path: Path) -> Path | None:
    """The file, or the same one compressed (`….gz`); None where there is neither."""
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def lines(path: Path, *, torn: list[str] | None = None) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1 and without line ends.

    Args:
        path: of the file.
        torn: of a file that is appended to: a last line without an end, as a loss of power or a
            writer at work leaves it, is left out, and a sentence about it goes here.

    Raises:
        CorpusError: the file cannot be read, or is not UTF-8.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                if torn is not None and not raw.endswith(b"\n"):
                    torn.append(f"{path}:{number} is incomplete and was left out.")
                    return
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}:{number}: the line is not UTF-8 text (byte {error.start + 1} is "
            f"0x{error.object[error.start]:02x})",
            fix="Convert the file, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusError(
            f"cannot read {path} after line {number}: {reason}",
            fix="Check the file and its permissions; a damaged .gz must be made again.",
        ) from error


def records(path: Path, *, torn: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line as a JSON object, with its place as path:line; `torn` as for `lines`.

    Raises:
        CorpusError: as `lines`, or a line is no JSON object.
    """
    for number, line in lines(path, torn=torn):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CorpusError(
                f"{where}: the line is not JSON ({reason})",
                fix="Each line holds one JSON object; correct or remove this one.",
            ) from error
        if not isinstance(record, dict):
            raise CorpusError(
                f"{where}: the line is a JSON {type(record).__name__}, expected an object",
                fix='Write it as {"id": "…", "text": "…"}.',
            )
        yield where, record


def id_of(record: dict[str, Any], key: str, where: str) -> str:
    """An id, which may be written as a whole number: judgements are text, so 1 and "1" are one.

    Raises:
        CorpusError: it is missing, empty or of another kind.
    """
    id_ = record.get(key)
    if is_whole_number(id_):
        id_ = str(id_)
    if not isinstance(id_, str) or not id_:
        raise CorpusError(
            f'{where}: "{key}" is {id_!r}, expected a text that is not empty',
            fix=f'Give every line an "{key}".',
        )
    return id_


def text_of(record: dict[str, Any], key: str, where: str) -> str:
    """A text, which may be empty.

    Raises:
        CorpusError: it is missing or of another kind.
    """
    text = record.get(key)
    if not isinstance(text, str):
        what = f'"{key}" is missing' if key not in record else f'"{key}" is {text!r}'
        raise CorpusError(f"{where}: {what}, expected a text", fix=f'Give the line a "{key}".')
    return text


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")
