"""Snapshots of a server's collections: taken and fetched, sent and restored.

qdrant-client can ask for a snapshot but not move its bytes, so they are streamed here by REST.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    CorpusError,
    InvalidInput,
    RetrievalError,
    StoreDenied,
    StoreFault,
)
from retrieval.index.manifest import check_manifest, check_name
from retrieval.index.server import unfinished
from retrieval.index.server.catalog import Catalog
from retrieval.index.server.client import Connection
from retrieval.index.server.cluster import cluster_of, nodes_of
from retrieval.index.server.errors import failure_of, translated
from retrieval.index.server.nodes import alive
from retrieval.index.server.snapshot_file import (
    SnapshotFile,
    read_snapshot_file,
    write_snapshot_file,
)
from retrieval.types import Manifest

if TYPE_CHECKING:
    import httpx

    from retrieval.index.server.options import ServerOptions

_PIECE = 1024 * 1024
_BAD_FILE = re.compile(
    r"File IO error|init WAL|[Ss]napshot|unpack|archive|[Ss]egment|deserializ", re.IGNORECASE
)
"""What a server says, with status 500, of files that it cannot make a collection of."""


def save_snapshot(
    url: str, physical: str, manifest: Manifest, path: Path, *, options: ServerOptions
) -> tuple[int, int]:
    """Let the server take a snapshot, fetch it into a backup at `path`, and delete it there.

    The caller sees to it that `path` is synced to the disk.

    Returns:
        How many points the collection had before and after; the same where nothing was written.

    Raises:
        InvalidInput: a snapshot would not hold everything, since the server is a cluster.
        StoreDenied, StoreFault: the server refuses or does not answer.
        DiskFull: no space for the file.
    """
    what = f"take a snapshot of {physical!r} on the Qdrant server at {url}"
    with Connection(url, options) as connection:
        _refuse_spread(connection, physical, manifest.collection)

        def fetch(file: IO[bytes]) -> tuple[str, tuple[int, int]]:
            before = _count(connection, physical)
            with _http(url, options) as http, _errors(what):
                server = str(_checked(http.get("/"), what).json()["version"])
                _fetch(http, physical, file, what)
            after = _count(connection, physical)
            points.extend((min(before, after), max(before, after)))
            return server, (points[0], points[1])

        points: list[int] = []
        write_snapshot_file(path, manifest, fetch)
        return points[0], points[1]


def restore_snapshot(
    url: str, path: Path, collection: str | None, *, options: ServerOptions
) -> tuple[str, SnapshotFile]:
    """Make a collection of a backup and give it its name; returns the name, and what was read.

    Raises:
        CollectionExists: there is one of that name; it was not touched.
        CorpusError: the file is damaged, or the server cannot read it, or what it gave is not
            what was backed up. Nothing is left behind.
        InvalidInput: `collection` is another name than that in the file, or the server is a
            cluster.
    """
    source = read_snapshot_file(path)
    name = check_name(_name(source, collection))
    with Connection(url, options) as connection:
        if len(nodes := nodes_of(connection)) > 1:
            raise InvalidInput(
                f"the server at {url} is a cluster of {len(nodes)} nodes, and a snapshot would "
                "fill the shards of one of them only",
                fix="Restore it on a single server, then copy it: "
                f"retrieval copy {name} --store http://SINGLE:6333 --to {url}.",
            )
        catalog = Catalog(connection)
        _refuse_existing(catalog, connection, name)
        left = unfinished.marked(unfinished.every_name(connection), name)
        for one in left:
            unfinished.sweep(connection, one, with_mark=False)
        physical = unfinished.begin(connection, name)
        try:
            with _http(url, options) as http:
                _send(http, physical, source, url)
            _check_restored(catalog, connection, physical, name, source)
            unfinished.delete_uploads(connection, physical)
            for one in left:
                unfinished.sweep(connection, one, with_mark=True)
            if not unfinished.is_marked(connection, physical):
                raise _overtaken(url, name)
            _refuse_existing(catalog, connection, name)
            unfinished.end(connection, physical)
        except BaseException:
            with contextlib.suppress(RetrievalError):
                for one in (physical, *left):
                    unfinished.sweep(connection, one, with_mark=True)
            raise
        catalog.switch(name, physical)
    return name, source


def _name(source: SnapshotFile, collection: str | None) -> str:
    if source.collection is None:
        if collection is not None:
            return collection
        raise InvalidInput(
            f"the snapshot {source.path} does not say which collection it is of",
            fix=f"Give the name that it had: retrieval restore {source.path} --collection NAME.",
        )
    if collection not in (None, source.collection):
        raise InvalidInput(
            f"the backup is of the collection {source.collection!r}, not of {collection!r}",
            fix=f"Leave the name out, and copy it afterwards: retrieval copy {source.collection} "
            f"--name {collection}.",
        )
    return source.collection


def _refuse_spread(connection: Connection, physical: str, name: str) -> None:
    export = f"retrieval export {name} {name}.jsonl.gz, which reads all of it"
    try:
        cluster = cluster_of(connection, physical)
    except StoreDenied as error:
        raise StoreDenied(
            f"{error.problem}, and without that nobody knows whether a snapshot holds everything",
            fix=f"Give a key that may read /cluster, or use {export}.",
        ) from error
    if not cluster.is_one_node:
        raise InvalidInput(
            f"the collection {name!r} is on a cluster of {max(len(cluster.nodes), 2)} nodes, and a "
            "snapshot holds only what the node has that is asked for it; nothing was written",
            fix=f"Use {export} (retrieval import brings it back).",
        )


def _refuse_existing(catalog: Catalog, connection: Connection, name: str) -> None:
    versions = catalog.versions(name)
    if versions or name in catalog.names():
        raise CollectionExists(
            f"there is already a collection {versions[0] if versions else name!r} at "
            f"{connection.where}",
            fix="Delete it first, or restore to another server. Nothing was changed.",
        )


def _check_restored(
    catalog: Catalog, connection: Connection, physical: str, name: str, source: SnapshotFile
) -> None:
    """Look at what the server made of the file, before it gets its name."""
    try:
        manifest = catalog.manifest(physical)
    except CollectionNotFound as error:
        raise _overtaken(connection.where, name) from error
    if source.manifest is not None:
        check_manifest(manifest, source.manifest)
    if manifest.collection != name:
        raise InvalidInput(
            f"the snapshot {source.path} is of the collection {manifest.collection!r}, not of "
            f"{name!r}",
            fix="Leave the name out, or give the one it had. Nothing was changed.",
        )
    found = _count(connection, physical)
    if source.points is not None and not source.points[0] <= found <= source.points[1]:
        least, most = source.points
        wanted = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        raise CorpusError(
            f"{source.path} gave {found:,} passages on the server at {connection.where}, {wanted} "
            "were backed up; nothing was kept",
            fix="Use another backup. Where something wrote to the collection while this one was "
            f"taken, it may be all there is: tar -xf {source.path} snapshot gives the server's "
            "own file, rename it to end in .snapshot and restore that, unverified.",
        )


def _count(connection: Connection, physical: str) -> int:
    answer = connection.read(
        f"count the collection {physical!r}", lambda client: client.count(physical, exact=True)
    )
    return int(answer.count)


def _fetch(http: httpx.Client, physical: str, file: IO[bytes], what: str) -> None:
    base = f"/collections/{quote(physical, safe='')}/snapshots"
    taken = _checked(http.post(base, params={"wait": "true"}), what).json()["result"]
    place = f"{base}/{quote(taken['name'], safe='')}"
    seen = hashlib.sha256()
    try:
        with http.stream("GET", place) as answer:
            if answer.is_error:
                answer.read()
            _checked(answer, what)
            for piece in answer.iter_bytes(_PIECE):
                seen.update(piece)
                file.write(piece)
    finally:
        with contextlib.suppress(Exception):
            http.delete(place, params={"wait": "true"})
    if taken.get("checksum") not in (None, seen.hexdigest()):
        raise StoreFault(
            f"could not {what}: what arrived is not what the server sent (its SHA-256 differs)",
            fix="Try again; something between here and the server changes or cuts what is sent.",
        )


def _send(http: httpx.Client, physical: str, source: SnapshotFile, url: str) -> None:
    """Upload the snapshot; the server makes a collection of it, or refuses it."""
    what = f"restore {source.path} on the Qdrant server at {url}"
    file_name = f"{unfinished.UPLOAD_PREFIX}{uuid.uuid4().hex}.snapshot"
    with _errors(what), source.open() as file:
        answer = http.post(
            f"/collections/{quote(physical, safe='')}/snapshots/upload",
            params={"wait": "true", "priority": "snapshot", "checksum": source.sha256},
            files={"snapshot": (file_name, file, "application/octet-stream")},
        )
        error = _error(answer, what)
        words = _reason(answer)
        bad = answer.status_code in (400, 422) or (
            answer.status_code == 500 and _BAD_FILE.search(words)
        )
        if bad and isinstance(error, StoreFault):
            taken = "" if source.server is None else f" ({source.server})"
            raise CorpusError(
                f"the Qdrant server at {url} cannot make a collection of {source.path}: status "
                f"{answer.status_code}: {words}; nothing is left there",
                fix=f"Use another copy of it, or a server of the version that took it{taken}.",
            ) from error
        if error is not None:
            raise error


@contextlib.contextmanager
def _http(url: str, options: ServerOptions) -> Iterator[httpx.Client]:
    import httpx

    from retrieval.index.server.transport import http_client

    node, its = alive(url, options)
    # a large snapshot takes minutes to make: only the connection has a deadline
    with http_client(node, its, httpx.Timeout(None, connect=options.timeout_s)) as client:
        yield client


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    import httpx
    from qdrant_client.http.exceptions import ResponseHandlingException

    try:
        yield
    except httpx.HTTPError as error:
        raise translated(failure_of(ResponseHandlingException(error)), what) from error


def _checked(answer: httpx.Response, what: str) -> httpx.Response:
    error = _error(answer, what)
    if error is not None:
        raise error
    return answer


def _error(answer: httpx.Response, what: str) -> RetrievalError | None:
    from qdrant_client.http.exceptions import UnexpectedResponse

    if not answer.is_error:
        return None
    return translated(failure_of(UnexpectedResponse.for_response(answer)), what)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]


def _overtaken(where: str, name: str) -> CollectionExists:
    return CollectionExists(
        f"another restore of {name!r} at {where} began after this one and took its place",
        fix="Wait for the other. Of this one nothing is left.",
    )
