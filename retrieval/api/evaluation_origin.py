"""What it takes to make an evaluation again: files, options, versions, machine."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.rows import BOOTSTRAP_SEED
from retrieval.models.rerankers.pace import processor

_PACKAGES = (
    "two-stage-retrieval",
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "openvino",
    "qdrant-client",
    "qdrant-edge-py",
    "ir-measures",
    "pytrec_eval-terrier",
)
_SECRETS = {"api_key"}


def origin(
    judged: JudgedQueries,
    parameters: Mapping[str, Any],
    more_files: Sequence[str | os.PathLike[str]],
) -> dict[str, Any]:
    """The keys of a report that say where it comes from, see `retrieval.evaluation.report`.

    Args:
        judged: what was measured on.
        parameters: every option; those that are secret are left out.
        more_files: runs that were measured beside.
    """
    files = (*judged.files, *more_files)
    return {
        "set": {
            "name": judged.name,
            "split": judged.split,
            "files": {str(path): _sha256(Path(path)) for path in files},
        },
        "parameters": {
            name: _plain(value) for name, value in parameters.items() if name not in _SECRETS
        },
        "versions": versions(),
        "seeds": {"bootstrap": BOOTSTRAP_SEED},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": None,
    }


def versions() -> dict[str, str]:
    """Versions by package, and the machine; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "platform": platform.platform(), "processor": processor()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """As JSON has it; an object of the caller's by its kind."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value) if isinstance(value, os.PathLike) else type(value).__name__
