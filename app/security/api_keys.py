"""API keys: made, listed and revoked in one file, and found again for each request.

A key is 256 random bits, shown once. The file has its SHA-256 digest: a random key needs no slow
hash, since there is nothing to guess. Whoever reads the file cannot use the service.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.errors import Unauthorized
from app.settings.settings import rate_of
from app.types import Caller
from retrieval.errors import InvalidInput

log = logging.getLogger(__name__)

PREFIX = "tsr_"
MOST_CHARACTERS = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EXPIRES = re.compile(r"(\d{1,5})\s*(h|d|w)", re.ASCII)
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Key:
    """What the file says of a key.

    id: its public name. sha256: of the key, hexadecimal. write: may change collections.
    collections, tenant: see `Caller`. rate: such as "600/minute"; None takes the service's.
    created, expires: ISO 8601, UTC; expires None: never.
    """

    id: str
    sha256: str
    write: bool = True
    collections: tuple[str, ...] | None = None
    tenant: str | None = None
    rate: str | None = None
    created: str = ""
    expires: str | None = None

    @property
    def caller(self) -> Caller:
        """Who asks with this key."""
        return Caller(self.id, self.write, self.collections, self.tenant)

    def expired(self, now: datetime | None = None) -> bool:
        """Whether it is over."""
        now = now or datetime.now(UTC)
        return self.expires is not None and datetime.fromisoformat(self.expires) <= now


class KeyRing:
    """The keys of a file, read again when the file changes; see `load`."""

    def __init__(self, keys: Sequence[Key], path: Path | None = None) -> None:
        self._path = path
        self._seen = None if path is None else _state(path)
        self._keep(keys)

    @classmethod
    def load(cls, path: Path | str) -> KeyRing:
        """The keys of a file.

        Raises:
            InvalidInput: there is no such file, or it is no file of keys.
        """
        path = Path(path)
        return cls(read(path), path)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> Key:
        """The key that a request has sent.

        The digest finds it: how long that takes may depend on the digest, which tells nothing
        about any key to those who cannot choose a token by its digest, and nobody can. The whole
        digest is then compared in constant time, so that no part of it is learnt either.

        Raises:
            Unauthorized: nobody has this key (any more).
        """
        self._refresh()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        key = self._keys.get(digest)
        if (
            key is None
            or len(token) > MOST_CHARACTERS
            or not hmac.compare_digest(key.sha256, digest)
        ):
            raise Unauthorized(
                "the API key is not known here",
                fix="Use a key that was made with `retrieval keys create` and is not revoked.",
                reason="unknown",
            )
        if key.expired():
            raise Unauthorized(
                f"the API key {key.id!r} expired on {key.expires}",
                fix="Ask whoever runs the service for a new one.",
                reason="unknown",
            )
        return key

    def _keep(self, keys: Sequence[Key]) -> None:
        self._keys = {key.sha256: key for key in keys}

    def _refresh(self) -> None:
        if self._path is None:
            return
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keep(read(self._path))
        except InvalidInput as error:
            # Half an edit must not lock everybody out; `retrieval keys` never leaves one.
            log.error("the keys stay as they were: %s", error)
        else:
            log.info("read %d API keys from %s", len(self._keys), self._path)


def create(
    path: Path | str,
    name: str,
    *,
    write: bool = True,
    collections: Sequence[str] | None = None,
    tenant: str | None = None,
    rate: str | None = None,
    expires: str | None = None,
) -> tuple[str, Key]:
    """Make a key and add it to the file, which is made where it is missing.

    Args:
        path: the file of keys.
        name: public name of the key, in logs and lists: letters, digits and ._-
        write: may change collections.
        collections: those it may use; None for all.
        tenant: whose passages its calls are about; None leaves that to the calls.
        rate: such as "600/minute"; None takes the service's.
        expires: how long it is good for, such as "12h", "90d" or "8w"; None: for ever.

    Returns:
        The key itself, which is kept nowhere, and what the file says of it.

    Raises:
        InvalidInput: a value cannot be used, or the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"a key cannot be named {name!r}",
            fix="Use up to 64 letters, digits and the characters . _ - only.",
        )
    if rate is not None:
        rate_of(rate)
    if collections is not None and not all(collections):
        raise InvalidInput(
            "a collection's name is empty", fix="Write them as --collections docs,manuals."
        )
    if tenant is not None and not tenant.strip():
        raise InvalidInput("the tenant is empty", fix="Name one, or leave it out.")
    path = Path(path)
    now = datetime.now(UTC).replace(microsecond=0)
    token = PREFIX + secrets.token_urlsafe(32)
    key = Key(
        id=name,
        sha256=hashlib.sha256(token.encode()).hexdigest(),
        write=write,
        collections=None if collections is None else tuple(collections),
        tenant=tenant,
        rate=rate,
        created=now.isoformat(),
        expires=None if expires is None else (now + _length(expires)).isoformat(),
    )
    with _changing(path):
        keys = read(path) if path.exists() else []
        if any(one.id == name for one in keys):
            raise InvalidInput(
                f"there is a key named {name!r} in {str(path)!r} already",
                fix=f"Take another name, or revoke it first: retrieval keys revoke {name}",
            )
        _write(path, [*keys, key])
    return token, key


def revoke(path: Path | str, name: str) -> Key:
    """Take a key out of the file; a running service refuses it from its next request on.

    Raises:
        InvalidInput: there is no such key, or no such file.
    """
    path = Path(path)
    with _changing(path):
        keys = read(path)
        gone = [key for key in keys if key.id == name]
        if not gone:
            known = ", ".join(key.id for key in keys) or "none"
            raise InvalidInput(
                f"there is no key named {name!r} in {str(path)!r}", fix=f"There are: {known}."
            )
        _write(path, [key for key in keys if key.id != name])
    return gone[0]


def read(path: Path | str) -> list[Key]:
    """The keys of a file, oldest first; warns where others could change it.

    Raises:
        InvalidInput: there is no such file, or it is no file of keys.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise InvalidInput(
            f"the file of keys {str(path)!r} cannot be read ({error.strerror or error})",
            fix=f"Make a first key: retrieval keys create NAME --keys-file {path}",
        ) from None
    except UnicodeDecodeError:
        text, mode = "", 0
    try:
        data = json.loads(text)
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']!r}")
        keys = [_key(one) for one in data["keys"]]
    except (ValueError, KeyError, TypeError, AttributeError, InvalidInput) as error:
        raise InvalidInput(
            f"{str(path)!r} is no file of keys ({type(error).__name__}: {error})",
            fix="Use one that `retrieval keys create` has made; it is not for editing by hand.",
        ) from None
    if mode & 0o022:
        log.warning("%s can be changed by other users; run: chmod 600 %s", path, path)
    return keys


def _key(one: dict[str, Any]) -> Key:
    collections: list[str] | None = one.get("collections")
    if not isinstance(collections, list | None):
        raise TypeError("collections is no list")
    key = Key(**{**one, "collections": None if collections is None else tuple(collections)})
    texts = (key.id, key.sha256, key.created)
    optional = (key.tenant, key.rate, key.expires)
    if not all(isinstance(text, str) for text in texts + (key.collections or ())):
        raise ValueError("a text is missing")
    if not all(text is None or isinstance(text, str) for text in optional):
        raise ValueError("a text is none")
    if not re.fullmatch(r"[0-9a-f]{64}", key.sha256) or not isinstance(key.write, bool):
        raise ValueError(f"the key {key.id!r} has no SHA-256 or no rights")
    if key.rate is not None:
        rate_of(key.rate)
    if key.expires is not None and datetime.fromisoformat(key.expires).tzinfo is None:
        raise ValueError("expires has no time zone")
    return key


def _length(text: str) -> timedelta:
    found = _EXPIRES.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidInput(
            f"{text!r} is no length of time", fix='Write it as "12h", "90d" or "8w".'
        )
    return timedelta(hours=int(found[1]) * {"h": 1, "d": 24, "w": 168}[found[2]])


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
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


def _write(path: Path, keys: Sequence[Key]) -> None:
    """The whole file or none of it; readable by its owner alone from the first byte on."""
    text = json.dumps({"version": _VERSION, "keys": [asdict(key) for key in keys]}, indent=2)
    try:
        handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(new).replace(path)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"the file of keys {str(path)!r} cannot be written ({error.strerror or error})",
        fix="Give a place that you may write to: --keys-file FILE",
    )
