"""Remembers for a day that no model hub answered, so that not every command waits for it.

Only choices that nobody made are taken so (`auto`). A model that is named is asked for each time,
and where that brings it, the silence is over.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write
from retrieval.models import hub

SECONDS = 24 * 60 * 60.0


def place() -> Path | None:
    """Where it is remembered for this user; None where there is no home folder."""
    try:
        return Path.home() / ".cache" / "two-stage-retrieval" / "hub.json"
    except RuntimeError:
        return None


def silent_for(repository: str, endpoint: str | None = None) -> float | None:
    """For how many seconds a hub is known not to serve a model; None where it is to be asked."""
    since = _known().get(_key(repository, endpoint))
    if isinstance(since, bool) or not isinstance(since, (int, float)):
        return None
    seconds = time.time() - since
    return seconds if 0 <= seconds < SECONDS else None


def answers(repository: str, timeout_s: float, endpoint: str | None = None) -> bool:
    """`hub.answers`, asked of a hub that was silent once a day."""
    if silent_for(repository, endpoint) is not None:
        return False
    found = hub.answers(repository, timeout_s, endpoint)
    if found:
        forget(endpoint)
    elif not hub.is_offline() and timeout_s > 0:
        _write(_known() | {_key(repository, endpoint): round(time.time(), 3)})
    return found


def forget(endpoint: str | None = None) -> None:
    """Ask that hub again, whatever it is asked for."""
    known = _known()
    kept = {key: since for key, since in known.items() if not key.startswith(_key("", endpoint))}
    if kept != known:
        _write(kept)


def _key(repository: str, endpoint: str | None) -> str:
    return f"{endpoint or hub.address()} {repository}"


def _known() -> dict[str, Any]:
    path = place()
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(known: dict[str, Any]) -> None:
    path = place()
    if path is None:
        return
    with contextlib.suppress(OSError):  # then it is asked again
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(known, indent=2) + "\n")
