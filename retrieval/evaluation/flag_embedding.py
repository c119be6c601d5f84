"""Judged collections in the layout of FlagEmbedding's evaluation (its `--dataset_dir`).

    corpus.jsonl             {"id", "title", "text"}         may be absent
    <split>_queries.jsonl    {"id", "text"}
    <split>_qrels.jsonl      {"qid", "docid", "relevance"}

One folder is one data set; of a folder of data sets, give the one that is meant. Each file may be
compressed (`….gz`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from retrieval.errors import CorpusError
from retrieval.evaluation.beir import documents, plain
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.lines import existing, id_of, records, text_of
from retrieval.evaluation.qrels import add_grade, add_query, grade_of, judged_of

_QUERIES, _QRELS = "_queries.jsonl", "_qrels.jsonl"


def load_flag_embedding(root: Path, split: str = "test") -> JudgedQueries:
    """Read the queries and judgements of one split.

    Raises:
        CorpusError: the split does not exist (those that do are listed), a line is bad (named as
            path:line), or a judged query has no text.
    """
    if split not in splits(root):
        there = splits(root)
        raise CorpusError(
            f"{root} has no split {split!r} with both {split}{_QUERIES} and {split}{_QRELS}; it "
            f"has {', '.join(there) or 'none that has both'}",
            fix=f"Ask for one of them, for example split={there[0]!r}."
            if there
            else "Write the file that is missing.",
        )
    queries_path = existing(root / f"{split}{_QUERIES}")
    qrels_path = existing(root / f"{split}{_QRELS}")
    assert queries_path is not None  # `splits` looked
    assert qrels_path is not None
    queries: dict[str, str] = {}
    for where, record in records(queries_path):
        add_query(queries, id_of(record, "id", where), text_of(record, "text", where), where)
    qrels: dict[str, dict[str, int]] = {}
    for where, record in records(qrels_path):
        query, document = id_of(record, "qid", where), id_of(record, "docid", where)
        grade = grade_of(record.get("relevance"), where, '"relevance"')
        add_grade(qrels, query, document, grade, where)
    if not qrels:
        raise CorpusError(f"{qrels_path} has no judgements", fix="Choose another split.")
    texts, judged = judged_of(queries, qrels, queries_path, qrels_path)
    corpus = existing(root / "corpus.jsonl")
    return JudgedQueries(
        name=root.resolve().name,
        split=split,
        queries=texts,
        qrels=judged,
        corpus=None if corpus is None else partial(documents, corpus, "id"),
        files=(queries_path, qrels_path),
        corpus_file=plain(corpus),
    )


def splits(root: Path) -> list[str]:
    """Names of the splits that have both queries and judgements, in alphabetical order."""
    names: list[set[str]] = []
    for ending in (_QUERIES, _QRELS):
        found = [path for more in ("", ".gz") for path in root.glob(f"*{ending}{more}")]
        names.append({path.name.removesuffix(".gz").removesuffix(ending) for path in found})
    return sorted(names[0] & names[1])


def is_flag_embedding(root: Path) -> bool:
    """Whether a folder has queries or judgements that are named so."""
    return any(
        True
        for ending in (_QUERIES, _QRELS)
        for more in ("", ".gz")
        for _ in root.glob(f"*{ending}{more}")
    )
