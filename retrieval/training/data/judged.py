"""Examples from judged queries: a training split, or what `retrieval judge` was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.pool_files import POOL, StoredItem, read_items
from retrieval.training.data.merging import merge_queries
from retrieval.training.examples import TrainingExample
from retrieval.types import Document

ABSENT = "judged documents whose text is not there"


def read_judged(folder: Path, split: str) -> tuple[list[TrainingExample], Counter[str]]:
    """The judged queries of a folder, with the texts of what they were judged by.

    A grade above 0 makes a positive. What was judged and found wanting is a negative.

    Args:
        folder: as `load_judgements` reads it, with its documents; or a pool, where a text is what
            the judge saw of a document.
        split: which of its judgements; of a pool `test` is people's and `synthetic` a model's
            questions.

    Returns:
        The examples, and what was dropped: reason → how many.

    Raises:
        CorpusError: as `load_judgements`, or the folder has no documents.
    """
    judged = load_judgements(folder, split)
    texts = _seen(folder) if (folder / POOL).is_file() else _by_document(judged, folder)
    absent: Counter[str] = Counter()
    merged, dropped = merge_queries(_examples(judged, texts, folder, absent))
    if not merged:
        raise CorpusError(
            f"{folder} ({split}) has no query with a positive whose text is there",
            fix="Judge more queries, or choose another split.",
        )
    return merged, absent + dropped


def content(document: Document) -> str:
    """What a model reads of a whole document, as `Passage.content` joins it."""
    return " ".join(part for part in (document.title, document.text) if part)


def _examples(
    judged: JudgedQueries,
    texts: Mapping[str, Mapping[str, str]],
    folder: Path,
    absent: Counter[str],
) -> Iterator[TrainingExample]:
    everyone = texts.get("", {})
    for query_id, grades in judged.qrels.items():
        own = texts.get(query_id, everyone)
        there = {key: grade for key, grade in grades.items() if own.get(key, "").strip()}
        absent[ABSENT] += len(grades) - len(there)
        good = tuple(key for key, grade in there.items() if grade > 0)
        others = tuple(key for key, grade in there.items() if grade <= 0)
        yield TrainingExample(
            query=judged.queries[query_id],
            positives=tuple(own[key] for key in good),
            negatives=tuple(own[key] for key in others),
            query_id=query_id,
            positive_ids=good,
            negative_ids=others,
            where=f"{folder} ({judged.split}), query {query_id}",
        )


def _by_document(judged: JudgedQueries, folder: Path) -> dict[str, dict[str, str]]:
    documents = judged.documents()
    if documents is None:
        raise CorpusError(
            f"{folder} has judgements and no documents (corpus.jsonl), so there are no passages "
            "to train on",
            fix='Put them there, a line for each: {"_id": "…", "title": "…", "text": "…"}',
        )
    wanted = {key for grades in judged.qrels.values() for key in grades}
    return {"": {one.id: content(one) for one in documents if one.id in wanted}}


def _seen(folder: Path) -> dict[str, dict[str, str]]:
    """Of each query of a pool, what the judge saw of each document."""
    texts: dict[str, dict[str, str]] = {}
    for (query, key), item in read_items(folder).items():
        texts.setdefault(query, {})[key] = _content_of(item)
    return texts


def _content_of(item: StoredItem) -> str:
    parts = [item.title]
    for passage in item.passages:
        parts += [*passage.headings, passage.text]
    return " ".join(part for part in parts if part)
