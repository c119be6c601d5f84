"""What a pool holds to be judged: queries, and what was found for them; saved as it grows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from retrieval._validate import query_text
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation import pool_files as files
from retrieval.evaluation.pool_files import Origin, PoolQuery, StoredItem
from retrieval.evaluation.pool_judgements import Pair
from retrieval.evaluation.query_log import normalised


class PoolContents:
    """Queries and items of a pool.

    Attributes:
        head: what the pool is of; saved with the items.
        queries: by id, people's first: of a model's, a sample is checked at the end.
        items: by (query, key).

    Raises:
        CorpusError: the folder is no pool, or a line of its files cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.head = files.read_head(folder)
        self.queries = _ordered(files.read_pool_queries(folder))
        self.items = files.read_items(folder)
        stray = next((query for query, _ in self.items if query not in self.queries), None)
        if stray is not None:
            raise CorpusError(
                f"{folder / files.ITEMS} has documents for the query {stray!r}, which "
                f"{files.QUERIES} does not have",
                fix="Restore the query's line.",
            )
        self._sort()

    def of(self, query: PoolQuery) -> list[StoredItem]:
        """The items of a query in the order in which they are shown."""
        return self._by_query.get(query.id, [])

    def add_queries(
        self,
        queries: Iterable[tuple[str, str]],
        origin: Origin,
        answered_by: str,
        notices: list[str],
    ) -> list[PoolQuery]:
        """See `Pool.add_queries`."""
        texts = {normalised(one.text) for one in self.queries.values()}
        everyone = dict(self.queries)
        added: list[PoolQuery] = []
        for given, text in queries:
            if normalised(query_text(text)) in texts:
                continue
            if given and not fits_qrels(given):
                raise InvalidInput(
                    f"the query id {given!r} has a tab, a line break or a blank at an end, "
                    "which a qrels file cannot hold",
                    fix="Give the query another id.",
                )
            id_ = given if given and given not in everyone else _free_id(everyone, origin)
            if given and id_ != given:
                notices.append(
                    f"The query id {given!r} is another query's in this pool: {text[:60]!r} "
                    f"is called {id_!r}."
                )
            everyone[id_] = PoolQuery(id_, text, origin, answered_by)
            texts.add(normalised(text))
            added.append(everyone[id_])
        if added:
            files.write_pool_queries(self._folder, everyone.values())
            self.queries = _ordered(everyone)
        return added

    def put_items(
        self, items: Iterable[StoredItem], systems: Iterable[str]
    ) -> tuple[int, set[Pair]]:
        """See `Pool.put_items`; how many are new, and which others got further passages."""
        pooled = list(systems)
        merged = {
            pair: replace(one, ranks={k: n for k, n in one.ranks.items() if k not in pooled})
            for pair, one in self.items.items()
        }
        before, changed = len(merged), set()
        for new in items:
            pair = new.query, new.key
            old = merged.setdefault(pair, new)
            if old is new:
                continue
            ids = {shown.id for shown in old.passages}
            more = tuple(shown for shown in new.passages if shown.id not in ids)
            if more:
                changed.add(pair)
            old.passages += more
            old.ranks |= new.ranks
        files.write_items(self._folder, merged.values())
        self.head.systems = list(dict.fromkeys([*self.head.systems, *pooled]))
        files.write_head(self._folder, self.head)
        self.items = merged
        self._sort()
        return len(merged) - before, changed

    def _sort(self) -> None:
        """An order drawn from the seed, which stays when items come: ranks must not show."""

        def drawn(item: StoredItem) -> bytes:
            return hashlib.sha256(f"{self.head.seed}\0{item.query}\0{item.key}".encode()).digest()

        self._by_query: dict[str, list[StoredItem]] = {}
        for item in sorted(self.items.values(), key=drawn):
            self._by_query.setdefault(item.query, []).append(item)


def fits_qrels(id_: str) -> bool:
    """Whether an id can stand in a qrels file, whose fields end at tabs and lines."""
    return bool(id_) and id_ == id_.strip() and not any(sign in id_ for sign in "\t\r\n")


def _ordered(queries: dict[str, PoolQuery]) -> dict[str, PoolQuery]:
    ordered = sorted(queries.values(), key=lambda one: one.origin == "synthetic")
    return {one.id: one for one in ordered}


def _free_id(taken: Collection[str], origin: Origin) -> str:
    number = len(taken) + 1
    while f"{origin}-{number}" in taken:
        number += 1
    return f"{origin}-{number}"
