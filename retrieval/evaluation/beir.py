"""Judged collections in BEIR layout (Thakur et al., NeurIPS 2021 datasets track).

    corpus.jsonl           {"_id", "title", "text"}        may be absent
    queries.jsonl          {"_id", "text"}
    qrels/<split>.tsv      query-id  corpus-id  score      tab-separated, header optional

Each file may be compressed (`….gz`).
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from retrieval._validate import is_whole_number
from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries
from retrieval.types import Document

# What a header calls the third column. Any other word in the first line is a bad judgement.
_HEADERS = {"score", "relevance", "rel", "grade", "label"}


def load_beir(folder: str | os.PathLike[str], split: str = "test") -> JudgedQueries:
    """Read the queries and judgements of a BEIR folder.

    Args:
        folder: see the module.
        split: which `qrels/<split>.tsv`.

    Raises:
        CorpusError: a file is missing or a line is bad (named as path:line), the split does not
            exist (those that do are listed), or a judged query has no text.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "a file" if root.exists() else "not there"
        raise CorpusError(
            f"{root} is {what}, expected a folder in BEIR layout",
            fix="Give the folder that holds queries.jsonl and qrels/.",
        )
    queries_path = _existing(root / "queries.jsonl")
    if queries_path is None:
        raise CorpusError(
            f"{root} has no queries.jsonl (or queries.jsonl.gz)",
            fix='Make one with a line for each query: {"_id": "q1", "text": "…"}',
        )
    qrels_path = _qrels_path(root, split)
    qrels = _read_qrels(qrels_path)
    texts = _read_queries(queries_path)
    missing = [query for query in qrels if query not in texts]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise CorpusError(
            f"query {missing[0]!r}{more} is judged in {qrels_path} but has no text in "
            f"{queries_path}",
            fix="Add its text, or remove its judgements: otherwise the figures would be wrong.",
        )
    judged = {query: text for query, text in texts.items() if query in qrels}
    corpus = _existing(root / "corpus.jsonl")
    return JudgedQueries(
        name=root.resolve().name,
        split=split,
        queries=judged,
        qrels={query: qrels[query] for query in judged},
        corpus=None if corpus is None else partial(_documents, corpus),
    )


def splits(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the splits a BEIR folder has judgements for, in alphabetical order."""
    found = {
        path.name.removesuffix(".gz").removesuffix(".tsv")
        for pattern in ("*.tsv", "*.tsv.gz")
        for path in (Path(folder) / "qrels").glob(pattern)
    }
    return sorted(found)


def _existing(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _qrels_path(root: Path, split: str) -> Path:
    # A split is a file's name, never a path out of the folder.
    path = None if Path(split).name != split else _existing(root / "qrels" / f"{split}.tsv")
    if path is not None:
        return path
    existing = splits(root)
    if not existing:
        raise CorpusError(
            f"{root} has no judgements: there is no qrels/*.tsv",
            fix=f"Make qrels/{split}.tsv with lines of query-id, corpus-id and score, "
            "separated by tabs.",
        )
    raise CorpusError(
        f"{root} has no split {split!r}; it has {', '.join(existing)}",
        fix=f"Ask for one of them, for example split={existing[0]!r}.",
    )


def _read_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for where, record in _records(path):
        id_, text = _id(record, where), _text(record, "text", where)
        if not text.strip():
            raise CorpusError(
                f"{where}: the text of query {id_!r} is empty",
                fix="Write the query's text, or remove the line.",
            )
        if queries.setdefault(id_, text) != text:
            raise CorpusError(
                f"{where}: query {id_!r} was given before with another text",
                fix="Give every query its own id.",
            )
    return queries


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 3 or not all(fields):
            raise CorpusError(
                f"{where}: expected three fields separated by tabs (query-id, corpus-id, score), "
                f"found {len(fields)}: {line[:80]!r}",
                fix="Correct the line.",
            )
        query, document, written = fields
        try:
            grade = int(written)
        except ValueError:
            if number == 1 and written.lower() in _HEADERS:
                continue
            raise CorpusError(
                f"{where}: the score is {written!r}, expected a whole number",
                fix="Correct the line: grades are 0, 1, 2 …",
            ) from None
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise CorpusError(
                f"{where}: document {document!r} has two different grades for query {query!r}",
                fix="Keep one of the lines.",
            )
    if not qrels:
        raise CorpusError(f"{path} has no judgements", fix="Choose another split.")
    return qrels


def _documents(path: Path) -> Iterator[Document]:
    for where, record in _records(path):
        yield Document(
            id=_id(record, where),
            text=_text(record, "text", where),
            title=_text(record, "title", where) if record.get("title") else "",
            metadata=record["metadata"] if isinstance(record.get("metadata"), dict) else {},
            source=where,
        )


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CorpusError(
                f"{where}: the line is not JSON ({reason})",
                fix="Each line holds one JSON object; correct or remove this one.",
            ) from error
        if not isinstance(record, dict):
            raise CorpusError(
                f"{where}: the line is a JSON {type(record).__name__}, expected an object",
                fix='Write it as {"_id": "…", "text": "…"}.',
            )
        yield where, record


def _id(record: dict[str, Any], where: str) -> str:
    id_ = record.get("_id")
    if is_whole_number(id_):
        id_ = str(id_)  # qrels are text, so 1 and "1" are the same id
    if not isinstance(id_, str) or not id_:
        raise CorpusError(
            f'{where}: "_id" is {id_!r}, expected a text that is not empty',
            fix='Give every line an "_id".',
        )
    return id_


def _text(record: dict[str, Any], key: str, where: str) -> str:
    text = record.get(key)
    if not isinstance(text, str):
        what = f'"{key}" is missing' if key not in record else f'"{key}" is {text!r}'
        raise CorpusError(f"{where}: {what}, expected a text", fix=f'Give the line a "{key}".')
    return text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1 and without line ends."""
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}:{number}: the line is not UTF-8 text (byte {error.start + 1} is "
            f"0x{error.object[error.start]:02x})",
            fix="Convert the file, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusError(
            f"cannot read {path} after line {number}: {reason}",
            fix="Check the file and its permissions; a damaged .gz must be made again.",
        ) from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")
