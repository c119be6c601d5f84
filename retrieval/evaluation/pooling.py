"""Pooling: the union of what several systems rank highest, so that all are judged alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Protocol, TypeAlias, cast, get_args

from retrieval._validate import whole_number
from retrieval.errors import InvalidInput
from retrieval.evaluation.evaluate import BatchSearch, EvaluationProgress
from retrieval.evaluation.pool import Pool
from retrieval.evaluation.pool_contents import fits_qrels
from retrieval.evaluation.pool_files import ShownPassage, StoredItem
from retrieval.evaluation.trec import Run, ranking
from retrieval.types import Candidate, Hit, Mode, Passage, Reranker, SearchResult, Where

RERANKED = "+rerank"
DEFAULT_SYSTEMS = ("dense", "sparse", "hybrid", f"hybrid{RERANKED}")
FETCHED, READ = 100, 50
"""Passages fetched and re-ranked of each query, as `evaluate` does."""

_BATCH = 16

Found: TypeAlias = dict[str, list[tuple[str, Passage]]]
"""Query id → (key, its best passage), best first."""


class PoolSearch(BatchSearch, Protocol):
    """What is pooled; `TwoStageRetriever` is one."""

    @property
    def reranker(self) -> Reranker | None:
        """The second stage; None without one."""
        ...

    def search(
        self,
        query: str,
        *,
        top_k: int,
        mode: Mode | None,
        rerank: bool,
        where: Where | None,
        per_document: int | None,
    ) -> SearchResult:
        """The first `top_k` hits, of a document `per_document` at most."""
        ...


def pool_systems(
    pool: Pool,
    retriever: PoolSearch,
    systems: Sequence[str] | None = None,
    runs: Mapping[str, Run] | None = None,
    *,
    depth: int = 10,
    progress: EvaluationProgress | None = None,
) -> int:
    """Put the top of each system for every query of people into the pool.

    Args:
        pool: its synthetic queries are left alone: each has the passage it was written for.
        retriever: over the pool's collection.
        systems: first stages, "dense", "sparse", "lexical" or "hybrid", alone or with "+rerank";
            None takes dense, sparse, hybrid and, with a reranker, hybrid+rerank.
        runs: other systems by name: query id → document id → score.
        depth: how many documents of each are judged, from 1 to 50.
        progress: as `evaluate` calls it.

    Returns:
        How many items are new. What is in the pool keeps its judgement; notices go to
        `pool.notices`.

    Raises:
        InvalidInput: a system does not exist, or a run shares no query or document with the pool.
    """
    checked_depth(depth)
    wanted = checked_systems(systems, retriever.reranker is not None)
    queries = {q.id: q.text for q in pool.queries.values() if q.origin != "synthetic"}
    if not queries:
        return 0
    notices: dict[str, None] = {}
    found = {
        name: one
        for mode in dict.fromkeys(name.removesuffix(RERANKED) for name in wanted)
        for name, one in _searched(
            retriever, queries, cast("Mode", mode), wanted, depth, progress, notices
        ).items()
    }
    for name, run in (runs or {}).items():
        found[name] = _of_run(pool, retriever, queries, name, run, depth, found)
    refused = {key for one in found.values() for top in one.values() for key, _ in top
               if not fits_qrels(key)}  # fmt: skip
    if refused:
        notices[
            f"{len(refused):,} documents have a tab, a line break or a blank at an end of their "
            f"id, which qrels cannot hold; they are not judged: {min(refused)!r} …"
        ] = None
    pool.head.depth = depth
    pool.notices += notices
    return pool.put_items(_items(found, refused), found)


def checked_systems(systems: Sequence[str] | None, reranker: bool) -> list[str]:
    """The names of systems, each once; the default where there are none.

    Raises:
        InvalidInput: there is no such system, or it needs a reranker and there is none.
    """
    if systems is None:
        return [name for name in DEFAULT_SYSTEMS if reranker or not name.endswith(RERANKED)]
    for name in systems:
        if name.removesuffix(RERANKED) not in get_args(Mode):
            raise InvalidInput(
                f"there is no system {name!r}, expected one of {', '.join(get_args(Mode))}, alone "
                f"or with {RERANKED}",
                fix="Write, for example: dense,sparse,hybrid,hybrid+rerank",
            )
        if name.endswith(RERANKED) and not reranker:
            raise InvalidInput(
                f"the system {name!r} re-ranks, and there is no reranker",
                fix="Name a reranker, or leave the system out.",
            )
    return list(dict.fromkeys(systems))


def checked_depth(depth: int) -> int:
    """How many documents of each system are judged, as it is.

    Raises:
        InvalidInput: it is no whole number from 1 to 50.
    """
    return whole_number(depth, "depth", most=READ)


def _searched(
    retriever: PoolSearch,
    queries: Mapping[str, str],
    mode: Mode,
    wanted: Collection[str],
    depth: int,
    progress: EvaluationProgress | None,
    notices: dict[str, None],
) -> dict[str, Found]:
    """One first stage and, where it is wanted, its re-ranked order, by the same search."""
    rerank = f"{mode}{RERANKED}" in wanted
    found: dict[str, Found] = {name: {} for name in (mode, f"{mode}{RERANKED}") if name in wanted}
    ids = list(queries)
    for start in range(0, len(ids), _BATCH):
        if progress is not None:
            progress(mode, start, len(ids))
        batch = ids[start : start + _BATCH]
        results = retriever.search_batch(
            [queries[id_] for id_ in batch], top_k=FETCHED, candidates=READ, fetch=FETCHED,
            mode=mode, rerank=rerank, blend=None, min_relevance=0,
        )  # fmt: skip
        for id_, result in zip(batch, results, strict=True):
            notices.update(dict.fromkeys(result.notices))
            for name, one in found.items():
                order = result.hits if name.endswith(RERANKED) else result.candidates
                one[id_] = _top(order, depth)
    if progress is not None:
        progress(mode, len(ids), len(ids))
    return found


def _top(order: Sequence[Candidate | Hit], depth: int) -> list[tuple[str, Passage]]:
    best: dict[str, Passage] = {}
    for one in order:
        best.setdefault(one.passage.document_id, one.passage)
    return list(best.items())[:depth]


def _of_run(
    pool: Pool,
    retriever: PoolSearch,
    queries: Mapping[str, str],
    name: str,
    run: Run,
    depth: int,
    found: Mapping[str, Found],
) -> Found:
    """The top of another system's run, with the passages of each document that fit best."""
    shared = [id_ for id_ in queries if id_ in run]
    if not shared:
        raise InvalidInput(
            f"the run {name!r} has none of the pool's queries: it has {_few(run)}, and the pool "
            f"{_few(queries)}",
            fix="Search the queries of the pool's queries.jsonl, and keep their ids.",
        )
    top: Found = {}
    missing: dict[str, None] = {}
    for id_ in shared:
        known = {key: passage for one in found.values() for key, passage in one.get(id_, ())}
        top[id_] = []
        for key in ranking(run[id_], query=id_)[:depth]:
            passage = known.get(key) or _best_passage(retriever, queries[id_], key)
            if passage is None:
                missing[key] = None
            else:
                top[id_].append((key, passage))
    if missing and not any(top.values()):
        raise InvalidInput(
            f"no document of the run {name!r} is in the collection {pool.head.collection!r}: "
            f"{_few(missing)}",
            fix="A run names documents by the ids that the collection has.",
        )
    if missing:
        pool.notices.append(
            f"{len(missing):,} documents of the run {name!r} are not in the collection and cannot "
            f"be judged: {_few(missing)}"
        )
    if len(shared) < len(queries):
        pool.notices.append(
            f"The run {name!r} has {len(shared):,} of the pool's {len(queries):,} queries."
        )
    return top


def _best_passage(retriever: PoolSearch, query: str, key: str) -> Passage | None:
    hits = retriever.search(
        query, top_k=1, mode="hybrid", rerank=False, where={"document_id": key}, per_document=1
    ).hits
    return hits[0].passage if hits else None


def _items(found: Mapping[str, Found], refused: Collection[str]) -> list[StoredItem]:
    """Every (query, key) once, with its rank in each system and the passages they found."""
    ranks: dict[tuple[str, str], dict[str, int]] = {}
    passages: dict[tuple[str, str], dict[str, Passage]] = {}
    for system, one in found.items():
        for query, top in one.items():
            for rank, (key, passage) in enumerate(top, start=1):
                if key not in refused:
                    ranks.setdefault((query, key), {})[system] = rank
                    passages.setdefault((query, key), {})[passage.id] = passage
    return [
        stored_item(
            query,
            sorted(passages[query, key].values(), key=attrgetter("position")),
            ranks[query, key],
        )
        for query, key in ranks
    ]


def stored_item(query: str, passages: Sequence[Passage], ranks: Mapping[str, int]) -> StoredItem:
    """What is stored of a document and the passages by which it was found."""
    return StoredItem(
        query,
        passages[0].document_id,
        passages[0].title,
        tuple(ShownPassage(one.id, one.text, one.headings) for one in passages),
        dict(ranks),
    )


def _few(names: Collection[str]) -> str:
    first = ", ".join(repr(name) for name in list(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3:,} more"
