"""What an adaptation has done so far, on disk: a folder that a killed one goes on from.

    adapt.json          what the folder is
    STEP/               what a step writes; it is kept while its inputs are the same
    STEP/begun.json     the inputs with which the step was begun
    STEP/done.json      the same, its result and its seconds: the step is done

A step whose inputs (what it was asked for, and the results of the steps before it) are those of its
`done.json` is passed over; one that was begun with these inputs goes on in its folder; one that
was begun with others begins anew in an empty one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from retrieval._files import atomic_write, os_errors
from retrieval.errors import InvalidInput

Values: TypeAlias = dict[str, Any]
"""JSON values by name."""

Progress: TypeAlias = Literal["done", "begun", "new", "changed"]

_MARK = "adapt.json"
_BEGUN, _DONE = "begun.json", "done.json"


class AdaptFolder:
    """Steps that are done, and the place of each.

    Args:
        path: of the folder; made where it does not exist.

    Raises:
        InvalidInput: it is a file, or a folder of something else; nothing was touched.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(
                f"the folder of the adaptation, {str(path)!r}, is a file", fix="Name a folder."
            )
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / _MARK).is_file():
            raise InvalidInput(
                f"the folder {str(path)!r} holds something else than an adaptation",
                fix="Name a new or an empty folder.",
            )

    def head(self) -> Values | None:
        """What the folder is of, as `claim` was told; None before."""
        return self._values(self.path / _MARK, "collection")

    def claim(self, head: Mapping[str, Any]) -> None:
        """Make the folder, of this."""
        with os_errors(f"write {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / _MARK, {"format": 1, **head})

    def state(self, step: str, inputs: Mapping[str, Any]) -> Progress:
        """How far a step is with these inputs."""
        digest = digest_of(inputs)
        done, begun = self._read(step, _DONE), self._read(step, _BEGUN)
        if done is not None and done["inputs"] == digest:
            return "done"
        if begun is None:
            return "new"
        return "begun" if begun["inputs"] == digest and done is None else "changed"

    def result(self, step: str) -> Values | None:
        """What the step found when it was done last; None where it never was."""
        done = self._read(step, _DONE)
        return None if done is None else dict(done["result"])

    def run(
        self, step: str, inputs: Mapping[str, Any], work: Callable[[Path], Values]
    ) -> tuple[Values, bool]:
        """Do a step, unless it is done with these inputs.

        Args:
            step: its name, and its folder's.
            inputs: all that its result hangs on, as JSON values.
            work: called with the step's folder, in which it may find what a killed run has left.

        Returns:
            Its result, and whether it was done now.
        """
        state = self.state(step, inputs)
        if state == "done":
            found = self.result(step)
            assert found is not None
            return found, False
        folder = self.path / step
        if state == "changed":
            with os_errors(f"empty {folder}"):
                shutil.rmtree(folder)
        with os_errors(f"write {folder}"):
            folder.mkdir(exist_ok=True)
        digest = digest_of(inputs)
        _write(folder / _BEGUN, {"inputs": digest, "given": dict(inputs)})
        started = time.monotonic()
        result = json.loads(json.dumps(work(folder)))
        seconds = round(time.monotonic() - started, 3)
        _write(folder / _DONE, {"inputs": digest, "seconds": seconds, "result": result})
        return dict(result), True

    def _read(self, step: str, name: str) -> Values | None:
        return self._values(self.path / step / name, "inputs")

    def _values(self, path: Path, key: str) -> Values | None:
        """What a file holds; None where there is none."""
        fix = f"Delete the folder {path.parent}, and what is in it is done again."
        try:
            values = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{path} cannot be read ({error})", fix=fix) from error
        if not isinstance(values, dict) or key not in values:
            raise InvalidInput(f"{path} is not what an adaptation writes", fix=fix)
        return values


def digest_of(value: Any) -> str:
    """A short name for JSON values: the same for the same ones."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _write(path: Path, values: Values) -> None:
    text = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    with os_errors(f"write {path}"), atomic_write(path) as file:
        file.write(text)
