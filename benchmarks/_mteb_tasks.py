"""mteb's kinds of tasks, made from judged sets that lie here: nothing is downloaded.

The figures mean nothing beside a leaderboard. They are for comparing two ways of running the same
weights through mteb.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from _judged import Judged
from datasets import Dataset
from mteb.abstasks import (
    AbsTask,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata

from retrieval.types import Passage

CANDIDATES = 20
"""Documents a query of the reranking task, the relevant ones among them."""


def tasks(
    judged: Judged, groups: Mapping[str, Sequence[Passage]], *, seed: int = 0
) -> dict[str, Callable[[], AbsTask]]:
    """Makers of tasks by name; each call gives a new one, since a task draws random numbers.

    Args:
        judged: what is retrieved and re-ranked; its texts make the pairs, too.
        groups: name → passages, to be told apart by clustering.
        seed: of everything that is drawn.
    """
    return {
        "retrieval": lambda: _retrieval(judged),
        "reranking": lambda: _retrieval(judged, random.Random(seed)),
        "STS": lambda: _made(AbsTaskSTS, "STS", "cosine_spearman", _sts(judged, seed)),
        "pair classification": lambda: _made(
            AbsTaskPairClassification, "PairClassification", "max_ap", _pairs(judged, seed)
        ),
        "clustering": lambda: _made(
            AbsTaskClustering, "Clustering", "v_measure", _groups(groups),
            max_fraction_of_documents_to_embed=None, max_documents_per_cluster=256,
        ),
    }  # fmt: skip


def _retrieval(judged: Judged, candidates: random.Random | None = None) -> AbsTask:
    """With a source of random numbers, documents to put in order are given for each query."""
    corpus = [{"id": p.document_id, "text": p.text, "title": p.title} for p in judged.passages]
    queries = [{"id": id_, "text": text} for id_, text in judged.beir.queries.items()]
    relevant = {id_: dict(grades) for id_, grades in judged.beir.qrels.items()}
    ranked = None
    if candidates is not None:
        ids = [passage.document_id for passage in judged.passages]
        ranked = {
            query: list(
                dict.fromkeys([*grades, *candidates.sample(ids, min(CANDIDATES, len(ids)))])
            )
            for query, grades in relevant.items()
        }
    data = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
    kind = "Retrieval" if ranked is None else "Reranking"
    score = "ndcg_at_10" if ranked is None else "map_at_1000"
    return _loaded(AbsTaskRetrieval, kind, score, {"default": {"test": data}})


def _sts(judged: Judged, seed: int) -> Iterator[dict[str, Any]]:
    """Questions beside themselves with some words replaced; the score is the share that is left."""
    draw = random.Random(seed)
    texts = list(judged.beir.queries.values())
    words = [word for text in texts for word in text.split()]
    for text in texts:
        own = text.split()
        changed = draw.sample(range(len(own)), draw.randint(0, len(own)))
        other = [draw.choice(words) if n in changed else word for n, word in enumerate(own)]
        score = 5 * (1 - len(changed) / len(own))
        yield {"sentence1": text, "sentence2": " ".join(other), "score": score}


def _pairs(judged: Judged, seed: int) -> Iterator[dict[str, Any]]:
    """Questions beside a relevant document, and beside any other."""
    draw = random.Random(seed)
    texts = {passage.document_id: passage.content for passage in judged.passages}
    ids = list(texts)
    for query, grades in judged.beir.qrels.items():
        relevant = next(iter(grades))
        other = draw.choice([id_ for id_ in ids if id_ not in grades])
        for id_, label in ((relevant, 1), (other, 0)):
            yield {
                "sentence1": judged.beir.queries[query],
                "sentence2": texts[id_],
                "labels": label,
            }


def _groups(groups: Mapping[str, Sequence[Passage]]) -> Iterator[dict[str, Any]]:
    """Texts of several sets; the set is the cluster."""
    for name, passages in groups.items():
        for passage in passages:
            yield {"sentences": passage.content, "labels": name}


def _made(
    base: type[AbsTask], kind: str, score: str, rows: Iterator[dict[str, Any]], **attributes: Any
) -> AbsTask:
    return _loaded(base, kind, score, {"test": Dataset.from_list(list(rows))}, **attributes)


def _loaded(base: type[AbsTask], kind: str, score: str, data: Any, **attributes: Any) -> AbsTask:
    metadata = TaskMetadata(
        name=f"Local{kind}",
        description="Made from a judged set that lies here.",
        reference=None,
        dataset={"path": "local/data", "revision": "1"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )
    task = type(f"Local{kind}", (base,), {"metadata": metadata, **attributes})()
    task.dataset, task.data_loaded = data, True
    return task
