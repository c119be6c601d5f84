"""Snapshots of a server's collections: taken and fetched, sent and restored.

qdrant-client can ask for a snapshot but not move its bytes, so they are streamed here by REST.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from retrieval._files import os_errors
from retrieval.errors import (
    CollectionExists,
    CorpusError,
    InvalidInput,
    RetrievalError,
    StoreDenied,
    StoreFault,
)
from retrieval.index.manifest import check_name, version_name
from retrieval.index.server.index import (
    delete_collection,
    list_collections,
    list_versions,
    read_manifest,
    switch,
)
from retrieval.index.server.nodes import alive

if TYPE_CHECKING:
    import httpx

    from retrieval.index.server.client import ServerOptions

_PIECE = 1024 * 1024


def save_snapshot(url: str, physical: str, path: Path, *, options: ServerOptions) -> None:
    """Let the server take a snapshot, fetch it into `path`, and delete it on the server.

    The caller sees to it that `path` is synced to the disk.

    Raises:
        StoreDenied, StoreFault: the server refuses or does not answer.
        DiskFull: no space for the file.
    """
    what = f"take a snapshot of {physical!r} on the Qdrant server at {url}"
    base = f"/collections/{quote(physical, safe='')}/snapshots"
    with _http(url, options) as http, _errors(what):
        taken = _checked(http.post(base, params={"wait": "true"}), what).json()["result"]["name"]
        place = f"{base}/{quote(taken, safe='')}"
        try:
            with http.stream("GET", place) as answer, os_errors(f"write {path}"):
                if answer.is_error:
                    answer.read()
                _checked(answer, what)
                with path.open("wb") as file:
                    for piece in answer.iter_bytes(_PIECE):
                        file.write(piece)
        finally:
            with contextlib.suppress(Exception):
                http.delete(place, params={"wait": "true"})


def restore_snapshot(
    url: str, path: Path, collection: str | None, *, options: ServerOptions
) -> str:
    """Make a collection of a snapshot and give it its name; returns the name.

    Raises:
        CollectionExists: there is one of that name; it was not touched.
        CorpusError: the server cannot read the file.
        InvalidInput: `collection` is another name than that in the snapshot.
    """
    if not path.is_file():
        raise CorpusError(f"there is no file {str(path)!r}", fix="Check the path of the backup.")
    # a snapshot shows its collection's name only when it is restored: first under an unused one
    scratch = version_name(check_name(collection or "restored"), 1)
    taken = {*list_collections(url, options=options)}
    if collection is not None and collection in taken:
        raise _exists(url, collection)
    if list_versions(url, collection or "restored", options=options):
        raise _exists(url, scratch)
    what = f"restore {path} on the Qdrant server at {url}"
    place = f"/collections/{quote(scratch, safe='')}/snapshots/upload"
    with _http(url, options) as http, _errors(what), path.open("rb") as file:
        answer = http.post(
            place, params={"wait": "true", "priority": "snapshot"},
            files={"snapshot": (path.name, file, "application/octet-stream")},
        )  # fmt: skip
        if answer.status_code in (400, 422):
            raise CorpusError(
                f"the Qdrant server at {url} cannot read the snapshot {path}: {_reason(answer)}",
                fix="Use another copy of it, or a server of the version that took it.",
            )
        _checked(answer, what)
    try:
        name = read_manifest(url, scratch, options=options).collection
        if collection is None:
            # it is complete under a scratch name; restored once more under its own
            delete_collection(url, scratch, options=options)
            return restore_snapshot(url, path, name, options=options)
        if name != collection:
            raise InvalidInput(
                f"the snapshot is of the collection {name!r}, not of {collection!r}",
                fix=f"Leave the name out, or copy it afterwards: retrieval copy {name}.",
            )
    except BaseException:
        with contextlib.suppress(RetrievalError):
            delete_collection(url, scratch, options=options)
        raise
    switch(url, collection, scratch, options=options)
    return collection


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

    try:
        yield
    except httpx.HTTPError as error:
        raise StoreFault(
            f"could not {what}: {str(error) or type(error).__name__}",
            fix="Check that the server runs and that the URL and port are right.",
        ) from error


def _checked(answer: httpx.Response, what: str) -> httpx.Response:
    if answer.status_code in (401, 403):
        raise StoreDenied(
            f"no permission to {what} (status {answer.status_code})", fix="Give the right api_key."
        )
    if answer.is_error:
        raise StoreFault(
            f"could not {what}: status {answer.status_code}: {_reason(answer)}",
            fix="See the server's log.",
        )
    return answer


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]


def _exists(url: str, name: str) -> CollectionExists:
    return CollectionExists(
        f"there is already a collection {name!r} at {url}",
        fix="Delete it first, or restore to another server. Nothing was changed.",
    )
