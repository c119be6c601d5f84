"""The judgements of a pool: a line for each key press; the last of a pair counts."""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from retrieval._validate import is_whole_number
from retrieval.errors import CorpusError
from retrieval.evaluation.json_lines import append_line, drop_torn_end
from retrieval.evaluation.lines import records

GRADES = {0: "not relevant", 1: "relevant", 2: "exactly what was asked"}

Pair: TypeAlias = tuple[str, str]
"""A query's id and a document's key."""


class Judgements:
    """What a file of judgements says, and what is added to it.

    Args:
        path: of the file, which need not be there yet.
        known: the pairs that can be judged.
        notices: gets a sentence where the file's last line has no end.

    Raises:
        CorpusError: a line is no judgement of a known pair.
    """

    def __init__(self, path: Path, known: Container[Pair], notices: list[str]) -> None:
        self._path = path
        self._history: list[tuple[Pair, int | None]] = []
        if path.exists():
            for where, record in records(path, torn=notices):
                self._replay(where, record, known)
        self._count()

    def _replay(self, where: str, record: dict[str, Any], known: Container[Pair]) -> None:
        pair = str(record.get("query")), str(record.get("key"))
        grade = record.get("grade")
        undone = record.get("undo") is True
        usable = undone or ("grade" in record and (grade is None or is_grade(grade)))
        agrees = not undone or (self._history and self._history[-1][0] == pair)
        if pair not in known or not usable or not agrees:
            raise CorpusError(
                f"{where} is no judgement of this pool: {str(record)[:120]}",
                fix="Correct the line, or remove it.",
            )
        if undone:
            self._history.pop()
        else:
            self._history.append((pair, grade))

    def _count(self) -> None:
        self.answers: dict[Pair, int | None] = dict(self._history)
        self.grades = {pair: grade for pair, grade in self.answers.items() if grade is not None}
        self.skipped = {pair for pair, grade in self.answers.items() if grade is None}

    def mend(self) -> None:
        """Cut off a last line without an end, so that the next begins a line of its own."""
        drop_torn_end(self._path)

    def add(self, pair: Pair, grade: int | None) -> None:
        """Write a grade down, or a skip (None); it is on disk when this returns."""
        self._append(pair, grade=grade)
        self._history.append((pair, grade))
        self._count()

    def undo(self) -> Pair | None:
        """Take the last one back; None where there is none."""
        if not self._history:
            return None
        pair, _ = self._history[-1]
        self._append(pair, undo=True)
        self._history.pop()
        self._count()
        return pair

    def _append(self, pair: Pair, **what: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        append_line(self._path, {"time": now, "query": pair[0], "key": pair[1], **what})


def is_grade(value: object) -> bool:
    """Whether a judge may give this."""
    return is_whole_number(value) and value in GRADES
