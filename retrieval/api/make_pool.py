"""Make a pool of questions over a collection, or extend it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.api.open import open
from retrieval.errors import InvalidInput
from retrieval.evaluation.evaluate import EvaluationProgress
from retrieval.evaluation.pool import Pool
from retrieval.evaluation.pool_files import POOL, Origin
from retrieval.evaluation.pool_status import PoolStatus
from retrieval.evaluation.pooling import checked_depth, checked_systems, pool_systems
from retrieval.evaluation.synthetic import SyntheticReport, write_questions
from retrieval.evaluation.trec import Run
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, StoreLike
from retrieval.models.defaults import NONE
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Reranker

DEFAULT_DEPTH = 10


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What was added to a pool.

    Attributes:
        queries: how many queries of people are new.
        items: how many documents to judge are new.
        synthetic: what the language model wrote; None where it was not asked.
        status: of the whole pool.
        notices: sentences about what was passed over, and of the searches.
    """

    queries: int
    items: int
    synthetic: SyntheticReport | None
    status: PoolStatus
    notices: tuple[str, ...]


def make_pool(
    folder: str | os.PathLike[str],
    collection: str = DEFAULT_COLLECTION,
    *,
    queries: Mapping[Origin, Iterable[tuple[str, str]]] | None = None,
    systems: Sequence[str] | None = None,
    runs: Mapping[str, Run] | None = None,
    depth: int | None = None,
    synthetic: int = 0,
    write: Callable[[str], str] | None = None,
    keep_within: int = 10,
    seed: int | None = None,
    store: StoreLike = DEFAULT_STORE,
    reranker: str | Reranker | None = "auto",
    tenant: str | None = None,
    api_key: str | None = None,
    progress: EvaluationProgress | None = None,
    on_notice: Callable[[str], None] | None = None,
    **model_options: Any,
) -> PoolReport:
    """Collect queries and what several systems find for them, to be judged with `Pool`.

    Called again with further queries, systems or runs it adds what is new; judgements stay.

    Args:
        folder: of the pool; made where it does not exist.
        collection: that is searched.
        queries: (id, text) by where they are from: "file" or "log".
        systems, runs, depth: see `pool_systems`. Depth None takes the pool's own, 10 at first.
        synthetic: of how many passages `write` shall write a question, see `write_questions`.
        write: a language model: prompt → answer.
        keep_within: how high a synthetic question must find its document.
        seed: of the order of a query's documents, and of the sample; None takes the pool's own, 0
            at first. It cannot be changed later.
        store, reranker, tenant, api_key, model_options: see `open`.
        progress: as `evaluate` calls it.
        on_notice: gets every notice as soon as it is known; those of the report, too.

    Returns:
        What is new, and the state of the whole pool.

    Raises:
        InvalidInput: an argument's value cannot be used, the folder holds something else or a pool
            of another collection, or the collection is empty.
        CorpusError: a line of the pool's files cannot be read.
        StoreLocked: another process judges or extends the pool.
        CollectionNotFound: no such collection.
        RetrievalError: what `write` raises; what was written before is kept.

    Example:
        >>> import retrieval
        >>> from retrieval.api.make_pool import make_pool
        >>> from retrieval.evaluation.pool import Pool
        >>> documents = [retrieval.Document("menu", "Soup is served at noon."),
        ...              retrieval.Document("gate", "The gate closes at ten.")]
        >>> _ = retrieval.ingest(documents, "docs", encoder="starter")
        >>> report = make_pool("pool", queries={"file": [("q1", "when is lunch?")]})
        >>> report.queries, report.items
        (1, 2)
        >>> with Pool("pool") as pool:
        ...     while (item := pool.next_item()) is not None:
        ...         pool.judge(item, 1 if item.key == "menu" else 0)
        ...     pool.status().grades
        {0: 1, 1: 1}
        >>> from retrieval.api.evaluate_folder import evaluate_folder
        >>> evaluate_folder("pool", collection="docs").rows[-1].measures["nDCG@10"]
        1.0
    """
    given = {origin: list(pairs) for origin, pairs in (queries or {}).items()}
    _check(folder, any(given.values()), synthetic, write)
    if systems is not None:
        checked_systems(systems, reranker not in (None, NONE))
    if depth is not None:
        checked_depth(depth)
    with (
        open(
            collection, store=store, reranker=reranker, tenant=tenant, api_key=api_key,
            **model_options,
        ) as retriever,
        _opened(folder, collection, retriever, depth, seed) as pool,
    ):  # fmt: skip
        written = None
        try:
            fresh = sum(len(pool.add_queries(pairs, origin)) for origin, pairs in given.items())
            items = pool_systems(
                pool, retriever, systems, runs, depth=depth or pool.head.depth, progress=progress
            )
            if write is not None and synthetic:
                written = write_questions(
                    pool, retriever, retriever.index, synthetic, write,
                    keep_within=keep_within, tenant=tenant, progress=progress,
                )  # fmt: skip
                items += written.kept
        finally:
            if on_notice is not None:
                for notice in pool.notices:
                    on_notice(notice)
        return PoolReport(fresh, items, written, pool.status(), tuple(pool.notices))


def _check(
    folder: str | os.PathLike[str],
    queries: bool,
    synthetic: int,
    write: Callable[[str], str] | None,
) -> None:
    """Before models are loaded and a folder is made."""
    if synthetic and write is None:
        raise InvalidInput(
            "synthetic questions were asked for, and no language model was given",
            fix="Pass write=, a function from a prompt to the answer.",
        )
    if not queries and not synthetic and not (Path(folder) / POOL).exists():
        raise InvalidInput(
            f"there is no pool {folder} yet, and no query was given to make one of",
            fix="Give queries from a file (--queries) or a log (--log), or have some written "
            "(--synthetic).",
        )


def _opened(
    folder: str | os.PathLike[str],
    collection: str,
    retriever: TwoStageRetriever,
    depth: int | None,
    seed: int | None,
) -> Pool:
    """The pool, compared with the collection as it is now."""
    if retriever.count() == 0:
        raise InvalidInput(
            f"the collection {collection!r} is empty, so there is nothing to judge",
            fix=f"Index documents first: retrieval index PATH --collection {collection}",
        )
    now = retriever.index.manifest.id
    pool = Pool.make(folder, collection, now, depth=depth or DEFAULT_DEPTH, seed=seed or 0)
    if seed is not None and seed != pool.head.seed:
        pool.close()
        raise InvalidInput(
            f"the seed is {seed}, and that of the pool {folder} is {pool.head.seed}",
            fix="Leave the seed out, or make a new pool.",
        )
    if pool.head.collection_id != now:
        pool.head.collection_id = now
        keys = sorted(pool.keys)
        here = retriever.index.document_states(keys, tenant=retriever.tenant) if keys else {}
        gone = [key for key in keys if key not in here]
        lost = f"; {len(gone):,} of its {len(keys):,} documents are gone" if gone else ""
        pool.notices.append(
            f"The collection {collection!r} was made anew since the pool was last extended. "
            f"Judgements are of document ids and stay{lost}."
        )
    return pool
