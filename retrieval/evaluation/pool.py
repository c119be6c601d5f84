"""A pool of questions and what was found for them, to be judged by a person, one key at a time.

The judge sees a query and a document, never which system found it or where. Each judgement is on
disk before the next is asked for, and `qrels/` of the pool's folder is in BEIR layout, so that
`retrieval eval POOL --collection NAME` measures on it at any time. Pooling: Spärck Jones and van
Rijsbergen, "Report on the need for and provision of an 'ideal' information retrieval test
collection", 1975.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from retrieval._files import os_errors
from retrieval.errors import InvalidInput
from retrieval.evaluation import pool_files as files
from retrieval.evaluation.pool_contents import PoolContents
from retrieval.evaluation.pool_files import Origin, PoolHead, PoolQuery, ShownPassage, StoredItem
from retrieval.evaluation.pool_judgements import GRADES, Judgements, is_grade
from retrieval.evaluation.pool_status import PoolStatus, status_of
from retrieval.types.closing import Closing


@dataclass(frozen=True, slots=True)
class Item:
    """What a judge sees: a query, and a document by the passages that were found of it.

    Attributes:
        query: what was asked.
        key: id of the document.
        title: of the document.
        passages: those of the document that any system found, in its own order.
        query_number: place of the query among all of the pool, from 1.
    """

    query: PoolQuery
    key: str
    title: str
    passages: tuple[ShownPassage, ...]
    query_number: int


class Pool(Closing):
    """A pool that is open for judging. Its methods may be called from several threads.

    Args:
        folder: of the pool, made by `retrieval questions` or `retrieval.api.make_pool.make_pool`.
        write: False only reads, also while another process judges.

    Attributes:
        notices: sentences about what was found amiss and mended.

    Raises:
        CorpusError: the folder is no pool, or a line of its files cannot be read.
        StoreLocked: another process judges or extends it.

    Example:
        >>> from retrieval.evaluation.pool import Pool
        >>> from retrieval.evaluation.pool_files import ShownPassage, StoredItem
        >>> pool = Pool.make("pool", "docs", "0a1b", depth=10)
        >>> _ = pool.add_queries([("q1", "when is lunch?")], "file")
        >>> soup = ShownPassage("p1", "Soup is served at noon.")
        >>> pool.put_items([StoredItem("q1", "menu.md", "Menu", (soup,), {"dense": 1})])
        1
        >>> item = pool.next_item()
        >>> item.query.text, item.passages[0].text
        ('when is lunch?', 'Soup is served at noon.')
        >>> pool.judge(item, 2)
        >>> pool.status().judged, pool.next_item()
        (1, None)
        >>> pool.undo().key
        'menu.md'
        >>> pool.close()
    """

    def __init__(self, folder: str | os.PathLike[str], *, write: bool = True) -> None:
        self.folder = Path(folder)
        self.notices: list[str] = []
        self._mutex = threading.RLock()
        files.read_head(self.folder)  # before a lock is made in a folder that is no pool
        self._lock = files.PoolLock(self.folder) if write else None
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    @classmethod
    def make(
        cls,
        folder: str | os.PathLike[str],
        collection: str,
        collection_id: str,
        *,
        depth: int,
        seed: int = 0,
    ) -> Self:
        """The pool in this folder; a new one where the folder is empty or not there.

        Raises:
            InvalidInput: the folder holds something else, or a pool of another collection.
            CorpusError, StoreLocked: as the class.
        """
        root = Path(folder)
        if not (root / files.POOL).exists():
            if root.exists() and not root.is_dir():
                raise InvalidInput(
                    f"the pool {root} is a file, expected a folder",
                    fix="Name a folder; it is made where it does not exist.",
                )
            with os_errors(f"make the pool {root}"):
                root.mkdir(parents=True, exist_ok=True)
                other = sorted(one.name for one in root.iterdir() if one.name[0] != ".")
            if other and other != [files.LOCK]:
                raise InvalidInput(
                    f"the folder {root} is no pool and holds {other[0]!r} already",
                    fix="Name a new folder for the pool: its files would stand in the way.",
                )
            files.write_head(root, PoolHead(collection, collection_id, depth, seed))
        pool = cls(root)
        if pool.head.collection != collection:
            pool.close()
            raise InvalidInput(
                f"the pool {root} is of the collection {pool.head.collection!r}, and "
                f"{collection!r} was given",
                fix=f"Give --collection {pool.head.collection}, or name another folder for a pool "
                f"of {collection!r}.",
            )
        return pool

    # --- judging ------------------------------------------------------------------------------

    def next_item(self, *, passed: Collection[str] = ()) -> Item | None:
        """The next document to judge: people's queries first, one after the other.

        The documents of a query come in an order drawn from the pool's seed, so that their place
        tells nothing. At the end come those that were skipped before this pool was opened.

        Args:
            passed: ids of queries to leave out.

        Returns:
            None where nothing is left.
        """
        with self._mutex:
            return self._first(passed, again=False) or self._first(passed, again=True)

    def judge(self, item: Item, grade: int) -> None:
        """Write a grade down; a second one of the same item takes the place of the first.

        Raises:
            InvalidInput: no such grade (0, 1, 2), or the item is of another pool.
            DiskFull, StoreDenied, StoreFault: it could not be written.
        """
        if not is_grade(grade):
            raise InvalidInput(
                f"the grade is {grade!r}, expected one of 0, 1 and 2",
                fix="Give " + ", ".join(f"{n} for {what}" for n, what in GRADES.items()) + ".",
            )
        self._answer(item, grade)

    def skip(self, item: Item) -> None:
        """Leave an item without a grade; it is asked for again when the pool is opened anew.

        Raises: as `judge`.
        """
        self._answer(item, None)

    def undo(self) -> Item | None:
        """Take the last grade or skip back, also one of an earlier day; None where there is none.

        Raises: as `judge`.
        """
        with self._mutex:
            self._check_writable()
            pair = self._judgements.undo()
            if pair is None:
                return None
            self._skipped_before.discard(pair)
            self._export()
            number = list(self.queries).index(pair[0]) + 1
            return self._item(self._contents.items[pair], number)

    def status(self) -> PoolStatus:
        """How far the judging is, and how much of each system's top is judged."""
        with self._mutex:
            return status_of(self.queries, self._contents.items, self._judgements, self.head)

    # --- extending ----------------------------------------------------------------------------

    def add_queries(
        self, queries: Iterable[tuple[str, str]], origin: Origin, *, answered_by: str = ""
    ) -> list[PoolQuery]:
        """Add (id, text) of queries; those whose text the pool has already are passed over.

        An id that another query has is replaced by a free one, with a notice; so is an empty one,
        without.

        Returns:
            Those that are new, under the ids that they have here.

        Raises:
            InvalidInput: a text is blank, or an id cannot stand in a qrels file.
        """
        with self._mutex:
            return self._contents.add_queries(queries, origin, answered_by, self.notices)

    def put_items(self, items: Iterable[StoredItem], systems: Iterable[str] = ()) -> int:
        """Add what systems found; items that are there get the new ranks and passages.

        Args:
            items: each with the ranks of these systems.
            systems: those that were pooled; their old ranks are forgotten.

        Returns:
            How many items are new.
        """
        with self._mutex:
            new, changed = self._contents.put_items(items, systems)
            unseen = len(changed & self._judgements.grades.keys())
            if unseen:
                self.notices.append(
                    f"{unseen:,} judged documents were found by passages that their judge has not "
                    "seen; their grades stay."
                )
            self._export()
            return new

    @property
    def head(self) -> PoolHead:
        """What the pool is of."""
        return self._contents.head

    @property
    def queries(self) -> Mapping[str, PoolQuery]:
        """The queries by id, people's first."""
        return self._contents.queries

    @property
    def keys(self) -> set[str]:
        """The keys of all documents in the pool."""
        return {key for _, key in self._contents.items}

    def close(self) -> None:
        """Let others judge."""
        if self._lock is not None:
            self._lock.release()

    # --- what is on disk ------------------------------------------------------------------------

    def _load(self) -> None:
        self._contents = PoolContents(self.folder)
        path = self.folder / files.JUDGEMENTS
        self._judgements = Judgements(path, self._contents.items, self.notices)
        self._skipped_before = set(self._judgements.skipped)
        if self._lock is not None:
            self._judgements.mend()
            self._export()

    def _first(self, passed: Collection[str], *, again: bool) -> Item | None:
        for number, query in enumerate(self.queries.values(), start=1):
            for stored in self._contents.of(query) if query.id not in passed else ():
                pair = query.id, stored.key
                if pair in self._skipped_before if again else pair not in self._judgements.answers:
                    return self._item(stored, number)
        return None

    def _answer(self, item: Item, grade: int | None) -> None:
        pair = item.query.id, item.key
        with self._mutex:
            self._check_writable()
            if pair not in self._contents.items:
                raise InvalidInput(
                    f"document {item.key!r} is not in this pool for query {item.query.id!r}",
                    fix="Judge what next_item() of the same pool gives.",
                )
            self._judgements.add(pair, grade)
            self._skipped_before.discard(pair)
            self._export()

    def _check_writable(self) -> None:
        if self._lock is None:
            raise InvalidInput(
                f"the pool {self.folder} is open for reading only", fix="Open it with write=True."
            )

    def _item(self, stored: StoredItem, number: int) -> Item:
        query = self.queries[stored.query]
        return Item(query, stored.key, stored.title, stored.passages, number)

    def _export(self) -> None:
        """Write both qrels files anew. A synthetic query counts until a person says that its
        passage does not answer it."""
        grades = self._judgements.grades
        people: list[tuple[str, str, int]] = []
        synthetic: list[tuple[str, str, int]] = []
        for query in self.queries.values():
            pairs = [(query.id, item.key) for item in self._contents.of(query)]
            graded = [(*pair, grades[pair]) for pair in pairs if pair in grades]
            if query.origin != "synthetic":
                people += graded
            elif all(grade > 0 for _, _, grade in graded):
                synthetic += graded or [(query.id, query.answered_by, 1)]
        files.write_qrels_tsv(self.folder / "qrels" / "test.tsv", people)
        if any(query.origin == "synthetic" for query in self.queries.values()):
            files.write_qrels_tsv(self.folder / "qrels" / "synthetic.tsv", synthetic)
