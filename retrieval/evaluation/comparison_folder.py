"""What a comparison has measured so far, on disk: a folder that an interrupted one goes on from.

    comparison.json     what is compared and on what; a folder without it is another's
    001.json, …         one file for each setting that is done: its values, run, times and memory

Each file appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import InvalidInput
from retrieval.evaluation.comparison import SettingResult
from retrieval.evaluation.settings import Setting
from retrieval.evaluation.trec import write_atomically

PARAMETERS = "comparison.json"
_FORMAT = 1


class ComparisonFolder:
    """Finished settings of one comparison.

    Args:
        path: of the folder; made by `start`.

    Raises:
        InvalidInput: it is a file, or a folder of something else; nothing was touched.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(
                f"the output {str(path)!r} is a file, expected a folder",
                fix="Name a folder; it is made where it does not exist.",
            )
        self.used = (self.path / PARAMETERS).is_file()
        if not self.used and self.path.is_dir() and any(self.path.iterdir()):
            raise InvalidInput(
                f"the output folder {str(path)!r} holds something else than a comparison",
                fix="Name a new or an empty folder.",
            )

    def start(self, parameters: Mapping[str, Any], *, resume: bool) -> None:
        """Begin, or go on with the comparison that lies here.

        Raises:
            InvalidInput: there is one and `resume` is not asked for, or there is none and it is,
                or its parameters are others; they are named.
        """
        if resume and not self.used:
            raise InvalidInput(
                f"there is no comparison in {str(self.path)!r} to go on with",
                fix="Leave --resume out to begin one, or name the folder of the one that you mean.",
            )
        if self.used and not resume:
            raise InvalidInput(
                f"the output folder {str(self.path)!r} holds a comparison already",
                fix="Go on with it with --resume, or name another folder.",
            )
        written = {"format": _FORMAT, **json.loads(json.dumps(parameters))}
        if not self.used:
            self._write(PARAMETERS, written)
            return
        before = self._read(self.path / PARAMETERS)
        different = [
            _changed(name, before.get(name), written.get(name))
            for name in dict.fromkeys([*before, *written])
            if before.get(name) != written.get(name)
        ]
        if different:
            raise InvalidInput(
                f"the comparison in {str(self.path)!r} was begun with others: "
                f"{'; '.join(different)}",
                fix="Ask for the same as then, or begin anew in another folder.",
            )

    def save(self, number: int, result: SettingResult) -> None:
        """Keep a setting that is done; `number` is its place in the grid, from 0.

        Raises:
            InvalidInput, DiskFull: the file cannot be written.
        """
        self._write(
            _name(number),
            {
                "name": result.name,
                "setting": result.setting.as_dict(),
                "values": dict(result.values),
                "milliseconds": list(result.milliseconds),
                "model_bytes": result.model_bytes,
                "index_bytes": result.index_bytes,
                "notices": list(result.notices),
                "run": {query: list(keys) for query, keys in result.run.items()},
            },
        )

    def done(self, settings: Mapping[Setting, str]) -> dict[Setting, SettingResult]:
        """What is here of the settings of a grid, given in order with their names.

        Raises:
            InvalidInput: a file is damaged.
        """
        found: dict[Setting, SettingResult] = {}
        for number, (setting, name) in enumerate(settings.items()):
            path = self.path / _name(number)
            if not path.is_file():
                continue
            kept = self._read(path)
            try:
                found[setting] = SettingResult(
                    name=name, setting=setting, values=dict(kept["values"]), run=dict(kept["run"]),
                    milliseconds=tuple(kept["milliseconds"]), model_bytes=kept["model_bytes"],
                    index_bytes=kept["index_bytes"], notices=tuple(kept["notices"]),
                )  # fmt: skip
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(path, f"{type(error).__name__} {error}") from error
        return found

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, indent=1)
        write_atomically(self.path / name, lambda file: file.write(text + "\n"))

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            value = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        if not isinstance(value, dict):
            raise _damaged(path, "not an object")
        return value


def digest(value: object) -> str:
    """A few digits that tell a set of queries or judgements from another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12]


def _name(number: int) -> str:
    return f"{number + 1:03}.json"


def _changed(name: str, before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list):
        parts = [f"without {one}" for one in before if one not in now]
        parts += [f"with {one}" for one in now if one not in before]
        more = f" and {len(parts) - 2} more" if len(parts) > 2 else ""
        return f"the {name} are {', '.join(parts[:2]) or 'in another order'}{more}"
    was, is_ = (json.dumps(one, ensure_ascii=False) for one in (before, now))
    return f"{name} was {was}, and is {is_}"


def _damaged(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be read as a part of a comparison: {reason}",
        fix="Delete it, and --resume measures that setting again.",
    )
