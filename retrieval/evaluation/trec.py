"""Run and qrels files in TREC form, and what an order is.

    run     query-id Q0 document-id rank score tag
    qrels   query-id 0 document-id grade

trec_eval orders a query's lines by their scores, read as 32-bit floats, ignores ranks, and breaks
ties by descending id. So scores are written strictly decreasing as 32-bit floats: a tie is
lowered by the smallest step, and every tool then sees the order that was meant.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO, TypeAlias

from retrieval._files import atomic_write
from retrieval.errors import DiskFull, InvalidInput

Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query id → document id → score, higher is better; ties by document id, ascending."""

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; 0 and below are not relevant."""

DEFAULT_TAG = "retrieval"


def ranking(scored: Mapping[str, float], *, query: str = "") -> list[str]:
    """Document ids, best first: by score, ties by id, ascending.

    Raises:
        InvalidInput: a score is not a finite number.
    """
    for id_, score in scored.items():
        if not math.isfinite(score):
            raise InvalidInput(
                f"query {query!r}, document {id_!r}: the score is {score!r}, expected a finite "
                "number",
                fix="Leave documents without a score out of the run.",
            )
    return sorted(scored, key=lambda id_: (-scored[id_], id_))


def write_run(path: str | os.PathLike[str], run: Run, *, tag: str = DEFAULT_TAG) -> None:
    """Write a TREC run file; it appears whole or not at all, and replaces an older one.

    Args:
        path: the file; its folder is made where it is missing.
        run: see `Run`. Queries are written in the order given.
        tag: the run's name in its last column.

    Raises:
        InvalidInput: an id or the tag is empty or has blanks, a score is not finite, or the path
            cannot be written.
        DiskFull: no space left.
    """
    _check_id(tag, "the tag")

    def lines() -> Iterator[str]:
        for query, scored in run.items():
            _check_id(query, "query id")
            order = ranking(scored, query=query)
            for rank, (id_, score) in enumerate(_strictly_decreasing(order, scored), start=1):
                _check_id(id_, "document id")
                yield f"{query} Q0 {id_} {rank} {score} {tag}\n"

    _write(path, lines)


def write_qrels(path: str | os.PathLike[str], qrels: Qrels) -> None:
    """Write qrels in TREC form; whole or not at all.

    Raises:
        InvalidInput: an id is empty or has blanks, or the path cannot be written.
        DiskFull: no space left.
    """

    def lines() -> Iterator[str]:
        for query, grades in qrels.items():
            _check_id(query, "query id")
            for id_, grade in grades.items():
                _check_id(id_, "document id")
                yield f"{query} 0 {id_} {grade}\n"

    _write(path, lines)


def write_atomically(path: str | os.PathLike[str], write: Callable[[TextIO], object]) -> None:
    """Let `write` fill a file that takes its place only when it is complete and on disk.

    Raises:
        InvalidInput: the path cannot be written: no permission, or it is a folder.
        DiskFull: no space left.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            write(file)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"cannot write {target}: no space left on the device",
                fix="Free some space or choose another place; an older file is unchanged.",
            ) from error
        raise InvalidInput(
            f"cannot write {target}: {error.strerror or error}",
            fix="Choose a path you may write to.",
        ) from error


def _write(path: str | os.PathLike[str], lines: Callable[[], Iterator[str]]) -> None:
    write_atomically(path, lambda file: file.writelines(lines()))


def _strictly_decreasing(
    order: list[str], scored: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    """Ids with scores that stay strictly decreasing when read as 32-bit floats."""
    import numpy as np

    previous = np.float32(np.inf)
    lowest = np.float32(-np.inf)
    largest = 1e38  # leaves room to step below it without overflow
    for id_ in order:
        score = np.float32(np.clip(scored[id_], -largest, largest))
        if score >= previous:
            score = np.nextafter(previous, lowest)
        previous = score
        yield id_, np.format_float_positional(score, unique=True, trim="0")


def _check_id(id_: str, what: str) -> None:
    if not id_ or any(character.isspace() for character in id_):
        raise InvalidInput(
            f"{what} {id_!r} cannot be in a TREC file: its columns are separated by blanks",
            fix="Use ids without blanks (a report's JSON takes any id).",
        )
