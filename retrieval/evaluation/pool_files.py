"""A pool on disk: a folder of text files that a person can read.

    pool.json            what it is of: collection and its id, depth, seed, systems
    queries.jsonl        {"_id", "text", "origin"}, BEIR's file with more fields
    items.jsonl          {"query", "key", "title", "passages", "ranks"}: what is to be judged
    judgements.jsonl     {"time", "query", "key", "grade"}: a line for each key press
    synthetic.jsonl      passages that a question was asked for, and what became of it
    qrels/test.tsv       people's queries, judged
    qrels/synthetic.tsv  a language model's queries
    lock                 held while a process judges or extends the pool

Of these, `judgements.jsonl` and `synthetic.jsonl` are only ever appended to, each line on disk
before the next; the others are replaced whole, and `qrels/` is made from them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from retrieval._files import os_errors
from retrieval._validate import is_whole_number
from retrieval.errors import CorpusError, StoreLocked
from retrieval.evaluation.json_lines import write_lines
from retrieval.evaluation.lines import records
from retrieval.evaluation.trec import write_atomically

FORMAT = 1
POOL, QUERIES, ITEMS = "pool.json", "queries.jsonl", "items.jsonl"
JUDGEMENTS, SYNTHETIC, LOCK = "judgements.jsonl", "synthetic.jsonl", "lock"

Origin: TypeAlias = Literal["file", "log", "synthetic"]


@dataclass(frozen=True, slots=True)
class PoolQuery:
    """A query of a pool.

    Attributes:
        id: its name in the qrels.
        text: what is asked.
        origin: a file of queries, the service's log, or a language model.
        answered_by: of a synthetic query: the key of the document that it was written for.
    """

    id: str
    text: str
    origin: Origin
    answered_by: str = ""


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage as the judge sees it."""

    id: str
    text: str
    headings: tuple[str, ...] = ()


@dataclass(slots=True)
class StoredItem:
    """A document to judge for a query, as it is stored.

    Attributes:
        query, key: ids of the query and of the document.
        title: of the document.
        passages: those by which the systems found it, in its own order.
        ranks: system → rank, which the judge does not see.
    """

    query: str
    key: str
    title: str
    passages: tuple[ShownPassage, ...]
    ranks: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class PoolHead:
    """What `pool.json` says.

    Attributes:
        collection: its name.
        collection_id: of its manifest, so that a collection made anew is noticed.
        depth: how many documents of each system's top are judged.
        seed: of the order in which a query's documents are shown, and of the sample of passages.
        systems: that were pooled so far.
    """

    collection: str
    collection_id: str
    depth: int
    seed: int
    systems: list[str] = field(default_factory=list)


class PoolLock:
    """One process judges or extends a pool at a time; the system frees it when that one ends."""

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = None
        with os_errors(f"lock the pool {folder}"):
            self._handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise StoreLocked(
                    f"the pool {folder} is being judged or extended by another process",
                    fix="Wait until it ends, or quit it (q); what it has judged is kept. Two "
                    "people judge at once in a pool each.",
                ) from None
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Let others have it; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        self.release()


def read_head(folder: Path) -> PoolHead:
    """What `pool.json` says.

    Raises:
        CorpusError: the folder is no pool, or the file cannot be used.
    """
    path = folder / POOL
    if not path.is_file():
        raise CorpusError(
            f"{folder} is no pool: it has no {POOL}",
            fix=f"Make one: retrieval questions {folder} --queries FILE",
        )
    try:
        head = json.loads(path.read_bytes())
        if is_whole_number(head["format"]) and head["format"] > FORMAT:
            raise CorpusError(
                f"{path} has format {head['format']}, and this version reads up to {FORMAT}",
                fix="Use the version of this program that made it, or a newer one.",
            )
        found = PoolHead(
            collection=head["collection"],
            collection_id=head["collection_id"],
            depth=head["depth"],
            seed=head["seed"],
            systems=[str(name) for name in head["systems"]],
        )
        if not isinstance(found.collection, str) or not is_whole_number(found.depth, 1):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} cannot be read as what a pool is",
            fix="Restore the file; the judgements are in judgements.jsonl and qrels/.",
        ) from error
    return found


def write_head(folder: Path, head: PoolHead) -> None:
    """Replace `pool.json`."""
    names = ("collection", "collection_id", "depth", "seed", "systems")
    record = {"format": FORMAT} | {name: getattr(head, name) for name in names}
    text = json.dumps(record, ensure_ascii=False, indent=2)
    write_atomically(folder / POOL, lambda file: file.write(f"{text}\n"))


def read_pool_queries(folder: Path) -> dict[str, PoolQuery]:
    """The queries by id, in the file's order.

    Raises:
        CorpusError: the file cannot be read, or a line is no query.
    """
    found: dict[str, PoolQuery] = {}
    if not (folder / QUERIES).exists():  # a pool that was just made
        return found
    for where, record in records(folder / QUERIES):
        id_, text, origin = record.get("_id"), record.get("text"), record.get("origin", "file")
        usable = isinstance(id_, str) and id_ and isinstance(text, str) and text.strip()
        if not usable or origin not in get_args(Origin) or id_ in found:
            raise _bad(where, '{"_id": "…", "text": "…", "origin": "file"}, each id once')
        found[str(id_)] = PoolQuery(
            str(id_), str(text), origin, str(record.get("answered_by") or "")
        )
    return found


def write_pool_queries(folder: Path, queries: Iterable[PoolQuery]) -> None:
    """Replace `queries.jsonl`."""
    write_lines(
        folder / QUERIES,
        (
            {"_id": one.id, "text": one.text, "origin": one.origin}
            | ({"answered_by": one.answered_by} if one.answered_by else {})
            for one in queries
        ),
    )


def read_items(folder: Path) -> dict[tuple[str, str], StoredItem]:
    """The items by (query, key), in the file's order.

    Raises:
        CorpusError: the file cannot be read, or a line is no item.
    """
    found: dict[tuple[str, str], StoredItem] = {}
    if not (folder / ITEMS).exists():
        return found
    for where, record in records(folder / ITEMS):
        try:
            passages = tuple(
                ShownPassage(str(one["id"]), str(one["text"]), tuple(map(str, one["headings"])))
                for one in record["passages"]
            )
            ranks = {str(name): int(rank) for name, rank in record["ranks"].items()}
            item = StoredItem(
                str(record["query"]), str(record["key"]), str(record["title"]), passages, ranks
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _bad(where, "an item as `retrieval questions` writes it") from error
        found[item.query, item.key] = item
    return found


def write_items(folder: Path, items: Iterable[StoredItem]) -> None:
    """Replace `items.jsonl`."""
    write_lines(
        folder / ITEMS,
        (
            {
                "query": one.query,
                "key": one.key,
                "title": one.title,
                "passages": [
                    {"id": shown.id, "headings": list(shown.headings), "text": shown.text}
                    for shown in one.passages
                ],
                "ranks": one.ranks,
            }
            for one in items
        ),
    )


def write_qrels_tsv(path: Path, grades: Iterable[tuple[str, str, int]]) -> None:
    """Replace a qrels file in BEIR's form; without grades it has its header alone."""
    lines = "".join(f"{query}\t{key}\t{grade}\n" for query, key, grade in grades)
    write_atomically(path, lambda file: file.write(f"query-id\tcorpus-id\tscore\n{lines}"))


def _bad(where: str, expected: str) -> CorpusError:
    return CorpusError(
        f"{where} cannot be used: expected {expected}", fix="Correct the line, or remove it."
    )
