"""The documents of a collection, in the order of their ids."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from retrieval.errors import DiskFull
from retrieval.evaluation.judged import pages_of
from retrieval.evaluation.resolve import parts_of
from retrieval.types import Index

_BATCH = 64


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What a collection holds of a document.

    Attributes:
        id: of the document.
        source: where it was read from.
        title: of the document.
        passages: how many there are.
        pages: how many, or slides; 0 where it has none.
        parts: its pages and headings as judgements may name them behind a #.
    """

    id: str
    source: str
    title: str
    passages: int
    pages: int
    parts: tuple[str, ...]


def stored_documents(
    index: Index, *, like: str = "", tenant: str | None = None
) -> Iterator[StoredDocument]:
    """Every document, by id; memory does not grow with the collection.

    Args:
        index: an open collection.
        like: only those whose id, source or title has this text in it, whatever its letter case.
        tenant: whose documents, where the collection keeps tenants apart.

    Raises:
        DiskFull: no space for the temporary file of ids.
    """
    wanted = like.casefold()
    with closing(_ids(index, tenant)) as ids:
        found = ids.execute("SELECT id FROM ids ORDER BY id")
        while batch := [id_ for (id_,) in found.fetchmany(_BATCH)]:
            for id_, passages in index.document_passages(batch, tenant=tenant).items():
                first = passages[0]
                named = (id_, first.source, first.title)
                if not any(wanted in text.casefold() for text in named):
                    continue
                yield StoredDocument(
                    id=id_,
                    source=first.source,
                    title=first.title,
                    passages=len(passages),
                    pages=max(pages_of(one)[1] for one in passages),
                    parts=tuple(parts_of(passages)),
                )


def _ids(index: Index, tenant: str | None) -> sqlite3.Connection:
    """A temporary database of ids: it is gone with the process, and on disk where it is large."""
    ids = sqlite3.connect("", isolation_level=None)
    try:
        ids.execute("PRAGMA journal_mode = OFF")
        ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
        ids.execute("BEGIN")
        ids.executemany(
            "INSERT OR IGNORE INTO ids VALUES (?)",
            ((id_,) for id_, _ in index.document_sources(tenant=tenant)),
        )
    except sqlite3.OperationalError as error:
        ids.close()
        raise DiskFull(
            f"there is no room for the list of documents ({error})",
            fix="Free some space in the folder for temporary files, or name another in TMPDIR.",
        ) from error
    except BaseException:
        ids.close()
        raise
    return ids
