"""What hard negatives are mined for, and the plain texts that they are found in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from retrieval.errors import InvalidInput
from retrieval.evaluation.flag_embedding import is_flag_embedding
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.lines import existing, records, text_of
from retrieval.evaluation.pool_files import POOL
from retrieval.training.data.reading import load_examples
from retrieval.training.data.rows import SUFFIXES, read_rows, suffix_of
from retrieval.training.data.tables import is_table_of_pairs
from retrieval.training.examples import TrainingExample
from retrieval.training.mining.candidates import MiningQuery, Text

Source = str | os.PathLike[str] | JudgedQueries | Sequence[TrainingExample]


def judged_of(source: Source, split: str) -> JudgedQueries | None:
    """The source as judgements of a collection's documents; None where it has passages itself.

    Raises:
        CorpusError: it cannot be read.
    """
    if isinstance(source, JudgedQueries):
        return source
    if not isinstance(source, str | os.PathLike) or not _is_judged(Path(source)):
        return None
    path = Path(source)
    # a file has no splits, and the usual one of a pool is what people judged
    whole = path.is_file() or ((path / POOL).is_file() and split == "train")
    return load_judgements(path) if whole else load_judgements(path, split)


def examples_of(
    source: Source, split: str, on_notice: Callable[[str], None] | None
) -> list[MiningQuery]:
    """The source as training examples; what a folder's judges found wanting stays a negative.

    Raises:
        CorpusError: it cannot be read.
        InvalidInput: it has no query, or documents of a collection in place of passages.
    """
    if isinstance(source, JudgedQueries):
        raise InvalidInput(
            "judged queries were given without a collection to find their documents in",
            fix="Name the collection, or give training examples.",
        )
    judged = False
    if isinstance(source, str | os.PathLike):
        judged = _is_judged(Path(source))
        source = load_examples(source, split=split, on_notice=on_notice)
    queries = [MiningQuery.of(one, judged=judged) for one in source]
    if not queries:
        raise InvalidInput("there is no query to mine for", fix="Give at least one example.")
    return queries


def passages_of(
    corpus: str | os.PathLike[str] | None, source: Source, queries: Sequence[MiningQuery]
) -> Iterator[Text]:
    """The texts that candidates are found in: of a file, or of the folder that the queries are
    from; with neither, the passages of the examples, as FlagEmbedding takes them.

    Raises:
        CorpusError: a line is bad; the message names it.
    """
    if corpus is None and isinstance(source, str | os.PathLike) and Path(source).is_dir():
        corpus = existing(Path(source) / "corpus.jsonl")
    if corpus is not None:
        root = Path(corpus)
        file = existing(root / "corpus.jsonl") or root / "corpus.jsonl" if root.is_dir() else root
        yield from _corpus(file)
        return
    for query in queries:
        for group in (*query.positives, *query.negatives, query.given):
            yield from group


def _is_judged(path: Path) -> bool:
    """Whether it is judgements of documents, and not passages."""
    if path.is_dir():
        beir = existing(path / "queries.jsonl") is not None or (path / "qrels").is_dir()
        return beir or is_flag_embedding(path) or (path / POOL).is_file()
    if not path.is_file() or suffix_of(path) not in SUFFIXES:
        return False
    _, first = next(read_rows(path), ("", {}))
    return bool(first) and "pos" not in first and not is_table_of_pairs(first)


def _corpus(path: Path) -> Iterator[Text]:
    for where, record in records(path):
        title = record.get("title")
        parts = (title if isinstance(title, str) else "", text_of(record, "text", where))
        id_ = record.get("_id", record.get("id"))
        yield Text(" ".join(part for part in parts if part), "" if id_ is None else str(id_))
