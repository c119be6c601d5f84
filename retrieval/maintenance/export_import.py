"""Collections as files, and from store to store: with vectors, so nothing is encoded again.

A file begins with the manifest, so that what reads it can refuse what does not fit. JSON Lines
(`.jsonl`, `.jsonl.gz`) are readable everywhere; Parquet (extra `parquet`) is smaller and faster.

    {"retrieval_export": 1, "manifest": {…}}
    {"id": …, "dense": [...], "bm25": {"indices": [...], "values": [...]}, "payload": {...}}
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from retrieval._files import os_errors
from retrieval.errors import (
    CollectionExists,
    CorpusError,
    InvalidBatch,
    InvalidInput,
)
from retrieval.index.manifest import (
    manifest_from_dict,
    manifest_to_dict,
    version_name,
)
from retrieval.index.payload import payload_to_passage
from retrieval.index.point_store import PointData, SparseTerms
from retrieval.index.store import Store, StoreLike
from retrieval.index.upsert_checks import check_vectors, point
from retrieval.maintenance import parquet
from retrieval.maintenance.files import new_file
from retrieval.types import Manifest

EXPORT_VERSION = 1
_WRITE = 512
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz")

Progress = Callable[[int, int | None], None]
"""Called as `progress(points done, total or None)`."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How many points went where."""

    collection: str
    points: int
    target: str


def export_collection(
    collection: str,
    path: str | os.PathLike[str],
    *,
    store: StoreLike,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Transfer:
    """Write a collection, its manifest and all vectors to a file, whole or not at all.

    Args:
        collection: its name, or a version of it.
        path: `.jsonl`, `.jsonl.gz` or `.parquet`.
        store: folder, URL or `Store`.
        overwrite: replace a file that exists.

    Raises:
        InvalidInput: another suffix, or the file exists.
        MissingExtra: Parquet without the extra `parquet`.
        DiskFull, StoreDenied: the file could not be written; none is left behind.
        StoreFault: passages are kept in several copies that are not the same; no file is left.
    """
    target = Path(path)
    kind = _kind(target)
    with (
        new_file(target, overwrite=overwrite) as temporary,
        Store.of(store).open(collection) as index,
    ):
        counted = _Counted(index.agreed_points(), index.status().points, progress)
        if kind == "parquet":
            parquet.write(temporary, index.manifest, counted)
        else:
            _write_jsonl(temporary, index.manifest, counted, zipped=target.suffix == ".gz")
    return Transfer(index.manifest.collection, counted.done, str(target))


def import_collection(
    path: str | os.PathLike[str],
    collection: str | None = None,
    *,
    store: StoreLike,
    progress: Progress | None = None,
) -> Transfer:
    """Make a collection of an exported file; an import that was cut off is continued.

    Args:
        path: what `export_collection` wrote.
        collection: its new name; None takes the one it had.
        store: folder, URL or `Store`.

    Raises:
        CollectionExists: there is one of that name.
        CorpusError: the file is not an export, or is damaged; the message names the line.
    """
    source = Path(path)
    kind = _kind(source)
    total: int | None
    with os_errors(f"read {source}"):
        if kind == "parquet":
            manifest, points, total = parquet.read(source)
        else:
            manifest, points, total = _read_jsonl(source)
    return _fill(manifest, points, total, collection, Store.of(store), progress)


def copy_collection(
    collection: str,
    *,
    store: StoreLike,
    to: StoreLike,
    name: str | None = None,
    changes: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Copy a collection with its vectors from store to store, as from a laptop to a server.

    Searches of the original go on. A copy that was cut off is continued by the next call.

    Args:
        collection: its name, or a version of it.
        store, to: folder, URL or `Store`.
        name: of the copy; None keeps the name.
        changes: fields of `Storage` that the copy is to have otherwise (quantization, shards …).

    Raises:
        CollectionExists: there is one of that name in the target store.
    """
    source, target = Store.of(store), Store.of(to)
    with source.open(collection) as index:
        manifest = index.manifest
        if changes:
            manifest = replace(manifest, storage=replace(manifest.storage, **changes))
        total = index.status().points
        return _fill(manifest, index.agreed_points(), total, name, target, progress)


def _fill(
    manifest: Manifest,
    points: Iterable[PointData],
    total: int | None,
    name: str | None,
    place: Store,
    progress: Progress | None,
) -> Transfer:
    """Fill a version that nothing points at, and give it its name once it is complete."""
    collection = name or manifest.collection
    if collection in place.names():
        raise CollectionExists(
            f"there is already a collection {collection!r} in {place.location}",
            fix="Choose another name, or delete it first: "
            f"retrieval delete {collection}. Nothing was changed.",
        )
    wanted = replace(manifest, collection=collection, created="")
    version = version_name(collection, 1)
    with place.open_or_create(wanted, version=version) as index:
        counted = _Counted(points, total, progress)
        batch: list[PointData] = []
        for one in counted:
            batch.append(_checked(one, wanted))
            if len(batch) == _WRITE:
                index.write_points(batch)
                batch = []
        index.write_points(batch)
        written = index.status().points
        if written != counted.done:
            raise CollectionExists(
                f"{version!r} in {place.location} holds {written:,} points after "
                f"{counted.done:,} were copied: a copy of something else was begun under that name",
                fix=f"Delete it and copy again: retrieval delete {version}.",
            )
        index.optimize()
    if collection in place.names():
        raise CollectionExists(
            f"a collection {collection!r} was made in {place.location} meanwhile; the copy is "
            f"{version!r}, which no search uses",
            fix=f"Use it with retrieval switch {collection} {version}, or delete it: retrieval "
            f"delete {version}.",
        )
    place.switch(collection, version)
    return Transfer(collection, counted.done, place.location)


class _Counted:
    """Points on their way: counted and reported."""

    def __init__(
        self, points: Iterable[PointData], total: int | None, progress: Progress | None
    ) -> None:
        self._points = points
        self._total = total
        self._progress = progress
        self.done = 0

    def __iter__(self) -> Iterator[PointData]:
        for one in self._points:
            yield one
            self.done += 1
            if self._progress is not None and self.done % _WRITE == 0:
                self._progress(self.done, self._total)
        if self._progress is not None:
            self._progress(self.done, self._total)


def _checked(one: PointData, manifest: Manifest) -> PointData:
    """A point that may be written: what a file says is not to be trusted."""
    payload_to_passage(one.id, one.payload)
    dense = check_vectors(one.dense[None], 1, manifest.encoder.dimension)[0]
    layout = manifest.layout
    if (one.lexical is not None) != layout.lexical or (one.tokens is not None) != (
        layout.token_dimension is not None
    ):
        raise InvalidBatch(
            f"the point {one.id} does not have the vectors that its manifest describes",
            fix="The file is damaged: export it again.",
        )
    return point(one.id, dense, one.sparse, one.payload, one.lexical, one.tokens)


def _kind(path: Path) -> str:
    if path.name.endswith(_JSON_SUFFIXES):
        return "jsonl"
    if path.suffix == ".parquet":
        return "parquet"
    raise InvalidInput(
        f"the file {str(path)!r} ends in {path.suffix or 'nothing'!r}, expected .jsonl, .jsonl.gz "
        "or .parquet",
        fix="Name it so; the ending says the format.",
    )


def _write_jsonl(
    path: Path, manifest: Manifest, points: Iterable[PointData], *, zipped: bool
) -> None:
    with path.open("wb") as raw:
        packed: IO[bytes] = gzip.GzipFile("", "wb", 6, raw, mtime=0) if zipped else raw  # type: ignore[assignment]
        with io.TextIOWrapper(packed, encoding="utf-8", write_through=False) as file:
            head = {"retrieval_export": EXPORT_VERSION, "manifest": manifest_to_dict(manifest)}
            file.write(json.dumps(head, ensure_ascii=False) + "\n")
            for one in points:
                file.write(json.dumps(_row(one), ensure_ascii=False) + "\n")


def _row(one: PointData) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": one.id,
        "dense": one.dense.tolist(),
        "bm25": {"indices": list(one.sparse.indices), "values": list(one.sparse.values)},
        "payload": one.payload,
    }
    if one.lexical is not None:
        row["lexical"] = {
            "indices": list(one.lexical.indices), "values": list(one.lexical.values)
        }  # fmt: skip
    if one.tokens is not None:
        row["tokens"] = one.tokens.tolist()
    return row


def _read_jsonl(path: Path) -> tuple[Manifest, Iterator[PointData], int | None]:
    lines = _lines(path)
    try:
        _, first = next(lines)
    except StopIteration:
        raise _damaged(path, 1, "the file is empty") from None
    if not isinstance(first, dict) or first.get("retrieval_export") != EXPORT_VERSION:
        raise _damaged(path, 1, "it does not begin with the line of an export")
    manifest = manifest_from_dict(first.get("manifest"), origin=str(path))
    return manifest, _points(path, lines), None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with path.open("rb") as raw:
            packed: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            for number, line in enumerate(packed, start=1):
                yield number, json.loads(line)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise _damaged(path, number + 1, str(error)) from error


def _points(path: Path, lines: Iterator[tuple[int, Any]]) -> Iterator[PointData]:
    for number, row in lines:
        try:
            yield point(
                row["id"],
                np.array(row["dense"], dtype=np.float32),
                SparseTerms(tuple(row["bm25"]["indices"]), tuple(row["bm25"]["values"])),
                row["payload"],
                SparseTerms(tuple(row["lexical"]["indices"]), tuple(row["lexical"]["values"]))
                if "lexical" in row
                else None,
                np.array(row["tokens"], dtype=np.float32) if "tokens" in row else None,
            )
        except (KeyError, TypeError, ValueError, InvalidBatch) as error:
            raise _damaged(path, number, f"the point is not whole ({error})") from error


def _damaged(path: Path, line: int, what: str) -> CorpusError:
    return CorpusError(
        f"{path}, line {line}: {what}; expected what `retrieval export` writes",
        fix="Export the collection again. What was imported so far is not searched yet.",
    )
