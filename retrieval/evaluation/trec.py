"""Run and qrels files in TREC form, and what an order is.

    run     query-id Q0 document-id rank score tag
    qrels   query-id 0 document-id grade

Runs of three columns (query, document, score, or MS MARCO's rank from 1) and four (query, document,
rank, score) are read, too, and qrels of three (query, document, grade, as in BEIR). Columns are
separated by tabs where the first line has one, else by blanks. A file may be compressed (`….gz`).

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
from retrieval.errors import CorpusError, DiskFull, InvalidInput
from retrieval.evaluation.lines import lines
from retrieval.evaluation.qrels import add_grade, grade_of

Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query id → document id → score, higher is better; ties by document id, ascending."""

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; 0 and below are not relevant."""

DEFAULT_TAG = "retrieval"

# What a header calls the last column. Any other word in the first line is a bad judgement.
_HEADERS = {"score", "relevance", "rel", "grade", "label"}


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


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a run: what another system found, best first where scores are highest.

    Args:
        path: a file in one of the module's forms. Ranks beside scores are not read, as trec_eval
            does not; a third column of ranks alone becomes 1 / rank.

    Raises:
        CorpusError: the file cannot be read, holds nothing, or a line is bad (named as
            path:line): another number of columns, a score that is no finite number, or a
            document that the query has already.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("other.run").write_text("q1 Q0 a 1 2.5 x\\nq1 Q0 b 2 2.0 x\\n")
        >>> read_run("other.run")
        {'q1': {'a': 2.5, 'b': 2.0}}
    """
    file = Path(path)
    run: dict[str, dict[str, float]] = {}
    columns = 0
    for number, line, fields in _rows(file):
        where = f"{file}:{number}"
        if number == 1 and fields[-1].lower() in _HEADERS | {"rank"}:
            continue
        columns = columns or len(fields)
        if len(fields) != columns or columns not in (3, 4, 6):
            expected = "3, 4 or 6" if columns not in (3, 4, 6) else f"{columns} as above it"
            raise CorpusError(
                f"{where}: the line has {len(fields)} columns, expected {expected}: {line[:80]!r}",
                fix="A run's lines are: query-id Q0 document-id rank score tag.",
            )
        query, document = fields[0], fields[2 if columns == 6 else 1]
        score = _score(fields[{3: 2, 4: 3, 6: 4}[columns]], where)
        if document in run.setdefault(query, {}):
            raise CorpusError(
                f"{where}: document {document!r} is given twice for query {query!r}",
                fix="Keep its best line.",
            )
        run[query][document] = score
    if not run:
        raise CorpusError(f"{file} holds no results", fix="Give the file of a run.")
    if columns == 3 and _are_ranks(run):
        return {query: {id_: 1 / rank for id_, rank in own.items()} for query, own in run.items()}
    return run


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """Read judgements in TREC's form, or in BEIR's of three columns with or without a header.

    Raises:
        CorpusError: the file cannot be read, holds nothing, or a line is bad (named as
            path:line): another number of columns, a grade that is no whole number, or one that
            contradicts an earlier line.
    """
    file = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    columns = 0
    for number, line, fields in _rows(file):
        where = f"{file}:{number}"
        if number == 1 and len(fields) in (3, 4) and fields[-1].lower() in _HEADERS:
            continue
        columns = columns or len(fields)
        if len(fields) != columns or columns not in (3, 4) or not all(fields):
            raise CorpusError(
                f"{where}: expected three fields separated by tabs (query-id, corpus-id, score) "
                f"or TREC's four (query-id 0 document-id grade), found {len(fields)}: "
                f"{line[:80]!r}",
                fix="Correct the line.",
            )
        grade = grade_of(fields[-1], where, "score" if columns == 3 else "grade")
        add_grade(qrels, fields[0], fields[-2], grade, where)
    if not qrels:
        raise CorpusError(f"{file} has no judgements", fix="Choose another split or file.")
    return qrels


def _rows(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Lines with their numbers and columns."""
    tabs: bool | None = None
    for number, line in lines(file):
        tabs = "\t" in line if tabs is None else tabs
        yield number, line, [one.strip() for one in line.split("\t" if tabs else None)]


def _score(written: str, where: str) -> float:
    try:
        score = float(written)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise CorpusError(
            f"{where}: the score is {written!r}, expected a finite number",
            fix="Leave documents without a score out of the run.",
        )
    return score


def _are_ranks(run: Run) -> bool:
    """Whether every query's third column counts from 1, as MS MARCO's runs do."""
    return any(len(own) > 1 for own in run.values()) and all(
        list(own.values()) == list(range(1, len(own) + 1)) for own in run.values()
    )


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
