"""Judged collections in BEIR layout (Thakur et al., NeurIPS 2021 datasets track).

    corpus.jsonl           {"_id", "title", "text"}        may be absent
    queries.jsonl          {"_id", "text"}
    qrels/<split>.tsv      query-id  corpus-id  score      tab-separated, header optional

Each file may be compressed (`….gz`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.lines import existing, id_of, records, text_of
from retrieval.evaluation.qrels import add_query, judged_of
from retrieval.evaluation.trec import read_qrels
from retrieval.types import Document


def load_beir(
    folder: str | os.PathLike[str],
    split: str = "test",
    *,
    qrels: str | os.PathLike[str] | None = None,
) -> JudgedQueries:
    """Read the queries and judgements of a BEIR folder.

    Args:
        folder: see the module.
        split: which `qrels/<split>.tsv`.
        qrels: judgements to take in place of the folder's, see `read_qrels`.

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
    queries_path = existing(root / "queries.jsonl")
    if queries_path is None:
        raise CorpusError(
            f"{root} has no queries.jsonl (or queries.jsonl.gz)",
            fix='Make one with a line for each query: {"_id": "q1", "text": "…"}',
        )
    qrels_path = _qrels_path(root, split) if qrels is None else Path(qrels)
    grades = read_qrels(qrels_path)
    queries, judged = judged_of(_read_queries(queries_path), grades, queries_path, qrels_path)
    corpus = existing(root / "corpus.jsonl")
    return JudgedQueries(
        name=root.resolve().name,
        split=split,
        queries=queries,
        qrels=judged,
        corpus=None if corpus is None else partial(documents, corpus),
        files=(queries_path, qrels_path),
        corpus_file=plain(corpus),
    )


def splits(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the splits a BEIR folder has judgements for, in alphabetical order."""
    found = {
        path.name.removesuffix(".gz").removesuffix(".tsv")
        for pattern in ("*.tsv", "*.tsv.gz")
        for path in (Path(folder) / "qrels").glob(pattern)
    }
    return sorted(found)


def _qrels_path(root: Path, split: str) -> Path:
    # A split is a file's name, never a path out of the folder.
    path = None if Path(split).name != split else existing(root / "qrels" / f"{split}.tsv")
    if path is not None:
        return path
    there = splits(root)
    if not there:
        raise CorpusError(
            f"{root} has no judgements: there is no qrels/*.tsv",
            fix=f"Make qrels/{split}.tsv with lines of query-id, corpus-id and score, "
            "separated by tabs.",
        )
    raise CorpusError(
        f"{root} has no split {split!r}; it has {', '.join(there)}",
        fix=f"Ask for one of them, for example split={there[0]!r}.",
    )


def _read_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for where, record in records(path):
        add_query(queries, id_of(record, "_id", where), text_of(record, "text", where), where)
    return queries


def documents(path: Path, id_key: str = "_id") -> Iterator[Document]:
    """The documents of a corpus.jsonl, read as they are iterated.

    Args:
        path: a line of JSON for each document: its id, text and, where it has one, title.
        id_key: what the id is called.

    Raises:
        CorpusError: a line is bad; the message names it.
    """
    for where, record in records(path):
        text = text_of(record, "text", where)
        title = text_of(record, "title", where) if record.get("title") else ""
        if not text.strip():  # a document may be its title alone
            text, title = title, ""
        yield Document(
            id=id_of(record, id_key, where),
            text=text,
            title=title,
            metadata=record["metadata"] if isinstance(record.get("metadata"), dict) else {},
            source=where,
        )


def plain(corpus: Path | None) -> Path | None:
    """The file where it is not compressed."""
    return None if corpus is None or corpus.suffix == ".gz" else corpus
