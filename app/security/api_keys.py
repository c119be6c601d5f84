"""API keys: made and revoked in one file, and found again for each request.

A key is 256 random bits, shown once. The file has its SHA-256 digest: a random key needs no slow
hash, since nobody can guess it. Reading the file does not let anybody use the service.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.errors import Unauthorized
from app.security.key_file import Key, changing, read_keys, write_keys
from app.settings.settings import rate_of
from retrieval.errors import InvalidInput

log = logging.getLogger(__name__)

PREFIX = "tsr_"
MOST_CHARACTERS = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EXPIRES = re.compile(r"(\d{1,5})\s*(h|d|w)", re.ASCII)


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
            InvalidInput: there is no such file, or it is not a file of keys.
        """
        path = Path(path)
        return cls(read_keys(path), path)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> Key:
        """The key that a request has sent.

        A dictionary finds it by its digest. The time of that may depend on the digest, but nobody
        can choose a token by its digest, so it says nothing about any key. The whole digest is
        then compared in constant time, so that no part of it leaks either.

        Raises:
            Unauthorized: the key is unknown, was revoked, or has expired.
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
            self._keep(read_keys(self._path))
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
        tenant: its calls search and write this tenant's passages; None: the call names the tenant.
        rate: such as "600/minute"; None takes the service's.
        expires: how long it is good for, such as "12h", "90d" or "8w"; None: for ever.

    Returns:
        The key itself, which is kept nowhere, and its entry in the file.

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
    with changing(path):
        keys = read_keys(path) if path.exists() else []
        if any(one.id == name for one in keys):
            raise InvalidInput(
                f"there is a key named {name!r} in {str(path)!r} already",
                fix=f"Take another name, or revoke it first: retrieval keys revoke {name}",
            )
        write_keys(path, [*keys, key])
    return token, key


def revoke(path: Path | str, name: str) -> Key:
    """Take a key out of the file; a running service refuses it from its next request on.

    Raises:
        InvalidInput: there is no such key, or no such file.
    """
    path = Path(path)
    with changing(path):
        keys = read_keys(path)
        gone = [key for key in keys if key.id == name]
        if not gone:
            known = ", ".join(key.id for key in keys) or "none"
            raise InvalidInput(
                f"there is no key named {name!r} in {str(path)!r}", fix=f"There are: {known}."
            )
        write_keys(path, [key for key in keys if key.id != name])
    return gone[0]


def _length(text: str) -> timedelta:
    found = _EXPIRES.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidInput(
            f"{text!r} is not a length of time", fix='Write it as "12h", "90d" or "8w".'
        )
    return timedelta(hours=int(found[1]) * {"h": 1, "d": 24, "w": 168}[found[2]])


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
