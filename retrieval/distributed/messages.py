"""What goes from stage to stage: plain data, pickled, one item in its own block.

A task of Ray Data that is killed runs again. Were several batches one block, the second run could
cut them into other blocks (a document that was written meanwhile is unchanged now) and Ray would
join the two. One row a block leaves nothing to cut.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from retrieval.errors import RetrievalError
from retrieval.types import Document, FloatArray, LexicalWeights, Passage, Problem

if TYPE_CHECKING:
    import pyarrow as pa

COLUMN = "item"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of some documents; adds up to a report."""

    read: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    differing: int = 0
    passages: int = 0
    tokens: int = 0
    truncated: int = 0
    problems: tuple[Problem, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        sums: dict[str, Any] = {
            one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Counts)
        }
        return Counts(**sums)


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files that one task reads, each with its name and prefix of row ids.

    `path` is absolute; `shown` is the same file as the user named it.
    """

    files: tuple[ListedFile, ...]


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of the source. `bytes`: its size."""

    path: str
    shown: str
    name: str
    row_prefix: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Documents that are handled together, and what could not be read beside them."""

    documents: tuple[Document, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Passages of whole documents, all new or changed, and what their old versions leave.

    changed: ids of the documents that are not new.
    """

    passages: tuple[Passage, ...]
    stale: tuple[str, ...]
    changed: frozenset[str]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Encoded:
    """Prepared passages with their vectors, float32 (n, dimension); see `Encoding`."""

    passages: tuple[Passage, ...]
    vectors: FloatArray
    lexical: tuple[LexicalWeights, ...] | None
    token_vectors: tuple[FloatArray, ...] | None
    stale: tuple[str, ...]
    changed: frozenset[str]
    counts: Counts

    def lengths(self, *, changed: bool) -> dict[str, int]:
        """By document id its number of passages, of the changed documents or of the new ones."""
        found = Counter(passage.document_id for passage in self.passages)
        return {one: n for one, n in found.items() if (one in self.changed) is changed}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of this library, on its way from a worker to the driver, which raises it."""

    kind: type[RetrievalError]
    problem: str
    fix: str

    @classmethod
    def of(cls, error: RetrievalError) -> Failure:
        """The error without its traceback, which does not travel."""
        return cls(type(error), error.problem, error.fix)

    def error(self) -> RetrievalError:
        """The error again, of the same kind where that can be made from a problem and a fix."""
        error = self.kind.__new__(self.kind)
        RetrievalError.__init__(error, self.problem, fix=self.fix)
        return error


Item: TypeAlias = "FileGroup | DocumentBatch | Prepared | Encoded | Counts | Failure"


def packed(item: Item) -> pa.Table:
    """A block of one row."""
    import pyarrow as pa

    data = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
    return pa.table({COLUMN: pa.array([data], type=pa.large_binary())})


def unpacked(block: pa.Table) -> Iterator[Any]:
    """The items of a block; blocks of a stage's own making have one, some of Ray's have none."""
    if block.num_rows:
        for data in block.column(COLUMN):
            yield pickle.loads(data.as_py())
