"""Manifests: their ids, and those of the format before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import ManifestCorrupt
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.manifest import (
    FORMAT_VERSION,
    check_manifest,
    manifest_from_dict,
    manifest_to_dict,
    prepare_manifest,
)
from retrieval.types import Manifest, Passage

Manifests = Callable[..., Manifest]


def test_every_collection_has_an_id_of_its_own(manifest: Manifests) -> None:
    first, second = (prepare_manifest("docs", manifest()) for _ in range(2))
    assert first.id != second.id
    assert len(first.id) == 16
    check_manifest(first, second)  # what was built alike is alike
    assert prepare_manifest("docs", first).id not in (first.id, second.id)
    assert manifest_from_dict(manifest_to_dict(first), origin="x") == first


@pytest.mark.parametrize("given", ["", "../../x", "ABCDEF0123", 12345678, None, "a" * 65])
def test_an_id_is_checked_when_it_is_read(manifest: Manifests, given: Any) -> None:
    values = {**manifest_to_dict(prepare_manifest("docs", manifest())), "id": given}
    with pytest.raises(ManifestCorrupt, match="id is "):
        manifest_from_dict(values, origin="x")
    del values["id"]
    with pytest.raises(ManifestCorrupt, match="missing: id"):
        manifest_from_dict(values, origin="x")


def test_a_folder_of_format_2_is_worked_with_as_before(
    tmp_path: Path,
    manifest: Manifests,
    passages: Callable[..., list[Passage]],
    vectors: Callable[..., Any],
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        index.upsert(passages(1), vectors(1))
        stored = index.manifest
    file = tmp_path / "docs" / "manifest.json"
    old = json.loads(file.read_text())
    del old["id"]
    file.write_text(json.dumps({**old, "format_version": 2}))
    with EmbeddedIndex.open_or_create(tmp_path, "docs", manifest()) as index:
        assert index.manifest == replace(stored, format_version=2, id="")
        index.upsert(passages(2), vectors(2))
        assert index.count() == 2
        # and what is written of it is what a library of that format reads
        assert manifest_to_dict(index.manifest) == {**old, "format_version": 2}
    assert FORMAT_VERSION == 3
