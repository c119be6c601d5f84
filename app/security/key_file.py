"""The file of API keys: what an entry holds, how it is read, and how it is changed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from app.settings.settings import rate_of
from app.types import Caller
from retrieval._files import atomic_write
from retrieval.errors import InvalidInput

log = logging.getLogger(__name__)

# Half-understood rights would be wrong rights: unknown fields and other types are refused.
_STRICT = ConfigDict(extra="forbid", strict=True)


def _rate(text: str) -> str:
    rate_of(text)
    return text


def _time_with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the file has it.

    id: its public name. sha256: of the key, hexadecimal. write: may change collections.
    collections, tenant: see `Caller`. rate: such as "600/minute"; None takes the service's.
    created, expires: ISO 8601, UTC; expires None: never.
    """

    __pydantic_config__ = _STRICT

    id: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    write: bool = True
    collections: tuple[str, ...] | None = None
    tenant: str | None = None
    rate: Annotated[str, AfterValidator(_rate)] | None = None
    created: str = ""
    expires: Annotated[str, AfterValidator(_time_with_zone)] | None = None

    @property
    def caller(self) -> Caller:
        """The caller with this key."""
        return Caller(self.id, self.write, self.collections, self.tenant)

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its time has passed."""
        now = now or datetime.now(UTC)
        return self.expires is not None and datetime.fromisoformat(self.expires) <= now


@dataclass(frozen=True, slots=True)
class _KeyFile:
    __pydantic_config__ = _STRICT

    version: Literal[1]
    keys: tuple[Key, ...]


_KEY_FILE = TypeAdapter(_KeyFile)


def read_keys(path: Path | str) -> list[Key]:
    """The keys of a file, oldest first; warns where others could change it.

    Raises:
        InvalidInput: there is no such file, or it is not a file of keys.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise InvalidInput(
            f"the file of keys {str(path)!r} cannot be read ({error.strerror or error})",
            fix=f"Make a first key: retrieval keys create NAME --keys-file {path}",
        ) from None
    try:
        keys = list(_KEY_FILE.validate_json(content).keys)
    except ValidationError as error:
        raise InvalidInput(
            f"{str(path)!r} is not a file of keys ({_reason(error)})",
            fix="Use one that `retrieval keys create` has made; do not edit it by hand.",
        ) from None
    if mode & 0o022:
        log.warning("%s can be changed by other users; run: chmod 600 %s", path, path)
    return keys


def _reason(error: ValidationError) -> str:
    first = error.errors(include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """One change at a time, of all processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """The whole file or none of it; only its owner can read it, from the first byte on."""
    content = _KEY_FILE.dump_json(_KeyFile(1, tuple(keys)), indent=2)
    try:
        with atomic_write(path, "wb", permissions=0o600) as file:
            file.write(content + b"\n")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"the file of keys {str(path)!r} cannot be written ({error.strerror or error})",
        fix="Give a place that you may write to: --keys-file FILE",
    )
