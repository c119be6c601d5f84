"""Which payload fields have an index, the same on every engine.

An index makes filters fast and lets the graph of vectors know of them; it never changes an
answer. They are made with the collection, before data arrives: Qdrant builds the graph's extra
links for filtered search only over fields that have an index by then.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from retrieval.index.payload_indexes import index_paths as paths_of_fields
from retrieval.index.tenants import TENANT
from retrieval.types import FieldKind, Layout, Storage

IndexKind: TypeAlias = Literal["keyword", "tenant", "integer", "float", "datetime"]
"""What an engine builds: `tenant` is a keyword index that the points are also arranged by."""

_KINDS: dict[FieldKind, IndexKind] = {
    "keyword": "keyword",
    "number": "float",
    "datetime": "datetime",
}


def index_paths(layout: Layout, storage: Storage) -> dict[str, IndexKind]:
    """Payload path → the index that it gets.

    `document_id` and `position` always have one, for they find a document's passages and a
    passage's neighbours.

    Raises:
        InvalidInput: a field of `storage.fields` that `where=` could not address, or a kind there
            is not.
    """
    paths: dict[str, IndexKind] = {"document_id": "keyword", "position": "integer"}
    if layout.tenants:
        paths[TENANT] = "tenant"
    for path, kind in paths_of_fields(storage.fields).items():
        # a field of the passage itself keeps the index that suits it
        paths.setdefault(path, _KINDS[kind])
    return paths
