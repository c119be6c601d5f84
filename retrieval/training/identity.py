"""Whether a run that was cut off is the one that is asked for, and where its files lie."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write, os_errors
from retrieval.errors import InvalidInput
from retrieval.training.examples import TrainingExample
from retrieval.training.settings import TrainingSettings

_NO_MATTER = {"output_dir", "train_data", "dev_data", "dev_share", "threads", "tensorboard"} | {
    "most_minutes"
}
"""Settings that do not change what is computed; data counts by its content."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run's files lie: `output`, the tuned model, and `work` beside it.

    `work` holds run.json (what is run), log.jsonl (losses and measurements), checkpoint-N folders
    and TensorBoard's files.
    """

    output: Path
    work: Path

    @staticmethod
    def of(output_dir: str) -> Place:
        """The folders of a run."""
        output = Path(output_dir)
        return Place(output, output.with_name(f"{output.name}.training"))

    def check(self, identity: dict[str, Any], *, restart: bool) -> bool:
        """Whether there is something of this very run to go on with.

        Args:
            identity: what is run.
            restart: what another or the same run has left there is to be thrown away.

        Raises:
            InvalidInput: another run's files are there, or the output is another model.
        """
        if restart:
            return False
        before = self._before()
        if before is not None and before != identity:
            changed = [key for key in identity if before.get(key) != identity[key]]
            raise InvalidInput(
                f"{self.work} holds another run: its {', '.join(changed)} differ from what is "
                "asked for",
                fix="Go on with the settings and data of that run, choose another output_dir, or "
                "throw its progress away (--restart).",
            )
        if before is None and self.output.exists() and any(self.output.iterdir()):
            raise InvalidInput(
                f"{self.output} is there already, and not empty",
                fix="Choose another output_dir, or replace it with --restart.",
            )
        return before is not None and self.checkpoint() is not None

    def claim(self, identity: dict[str, Any]) -> None:
        """Make the work folder this run's own, empty but for what is run.

        Raises:
            StoreDenied, DiskFull, StoreFault: the folder cannot be written.
        """
        with os_errors(f"write {self.work}"):
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            with atomic_write(self.work / "run.json") as file:
                json.dump(identity, file, indent=2, ensure_ascii=False, sort_keys=True)

    def checkpoint(self) -> Path | None:
        """The last whole checkpoint; those that a kill has left half-written are removed."""
        found: list[tuple[int, Path]] = []
        for folder in self.work.glob("checkpoint-*"):
            try:
                json.loads((folder / "trainer_state.json").read_text("utf-8"))  # written last
            except (OSError, ValueError):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            found.append((int(folder.name.rpartition("-")[2]), folder))
        return max(found)[1] if found else None

    def _before(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.work / "run.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found


def identify(
    settings: TrainingSettings,
    fingerprint: str,
    examples: Sequence[TrainingExample],
    dev: Sequence[TrainingExample],
    devices: int,
) -> dict[str, Any]:
    """What decides a run's result: model, settings, data, number of devices; JSON values."""
    own = {name: value for name, value in settings.as_dict().items() if name not in _NO_MATTER}
    own.pop("model")
    return {
        "stage": settings.stage,
        "model": fingerprint,
        "settings": own,
        "train": data_hash(examples),
        "dev": data_hash(dev),
        "devices": devices,
    }


def data_hash(examples: Sequence[TrainingExample]) -> str:
    """`sha256:…` of what is learned from: texts, scores and prompts, in order."""
    found = hashlib.sha256()
    for one in examples:
        record = (
            one.query,
            one.positives,
            one.negatives,
            one.positive_scores,
            one.negative_scores,
            one.prompt,
        )
        found.update(json.dumps(record, ensure_ascii=True).encode())
    return f"sha256:{found.hexdigest()}"
