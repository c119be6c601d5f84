"""What is decided of a collection later: kept with its manifest on every engine, checked when
read, and no reason to refuse what built it."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles.cluster import qdrant_cluster
from doubles.qdrant_http import qdrant_http

from retrieval.errors import ManifestCorrupt
from retrieval.index.bm25 import bm25_info
from retrieval.index.manifest import check_manifest, manifest_from_dict, manifest_to_dict
from retrieval.index.store import Store
from retrieval.types import (
    Calibration,
    Distribution,
    EncoderInfo,
    Fusion,
    Manifest,
    Pipeline,
    Reference,
    SearchDefaults,
    SplitterInfo,
    Tuning,
)

PIPELINE = Pipeline(
    "sha256:1", "q: ", "sha256:2", "words", "hybrid", Fusion(), False, 50, "full", "scores", 0.75
)
SHARES = Distribution((0.1, 0.2), (0.25, 0.5, 0.25))
CALIBRATION = Calibration(
    PIPELINE,
    "stage2",
    "isotonic",
    knots=((-3.0, 0.02), (4.5, 0.9)),
    recall=((0.9, -1.5), (0.95, -2.25)),
    names={"strict": "precision:0.9", "中文": "recall:0.9"},
    queries=120,
    reference=Reference(120, SHARES, SHARES, 0.2, 0.05, 0.0),
)
TUNING = Tuning(
    SearchDefaults(mode="dense", fusion=Fusion(weights=(2, 1, 1)), min_relevance="recall:0.9"),
    CALIBRATION,
)


def made(collection: str = "docs") -> Manifest:
    encoder = EncoderInfo("bge-test", "sha256:1", 8, "cls", True, "q: ", "", 512)
    return Manifest(
        collection, encoder, SplitterInfo(200, 20), bm25_info("en"), created="now", id="0" * 16
    )


@pytest.fixture(params=["folder", "http", "cluster", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        if request.param == "folder":
            yield Store(tmp_path / "store")
        elif request.param == "http":
            yield Store(stack.enter_context(qdrant_http()).url)
        elif request.param == "cluster":
            yield Store(",".join(stack.enter_context(qdrant_cluster()).urls))
        elif url := os.environ.get("QDRANT_URL"):
            yield Store(url, api_key=os.environ.get("QDRANT_API_KEY"))
        else:
            pytest.skip("QDRANT_URL names no Qdrant server")


def test_it_is_kept_and_taken_back_on_every_engine(store: Store) -> None:
    name = f"docs-{uuid.uuid4().hex[:8]}"
    store.create(replace(made(name), created="", id="")).close()
    try:
        before = store.manifest(name)
        store.set_defaults(name, TUNING.defaults)
        store.set_calibration(name, CALIBRATION)
        assert store.manifest(name) == replace(before, tuning=TUNING)
        with store.open(name, expect=before) as index:  # no reason to refuse it
            assert index.manifest.tuning == TUNING
        store.set_query_instruction(name, "ask: ")
        assert store.manifest(name).encoder == replace(before.encoder, query_instruction="ask: ")
        store.set_query_instruction(name, before.encoder.query_instruction)
        store.set_calibration(name, None)
        store.set_defaults(name, SearchDefaults())
        assert store.manifest(name) == before
    finally:
        store.delete(name)


def test_it_survives_json_and_costs_nothing_where_there_is_none() -> None:
    tuned = replace(made(), tuning=TUNING)
    assert manifest_from_dict(json.loads(json.dumps(manifest_to_dict(tuned))), origin="x") == tuned
    assert "tuning" not in manifest_to_dict(made())
    check_manifest(tuned, made())


@pytest.mark.parametrize(
    ("tuning", "named"),
    [
        ({"x": 1}, "tuning.x is unknown"),
        ({"defaults": {"mode": "deep"}}, "tuning.defaults.mode is 'deep'"),
        ({"defaults": {"mod": "dense"}}, "tuning.defaults.mod is unknown"),
        ({"defaults": {"fusion": {"weight": 1}}}, "tuning.defaults.fusion.weight is unknown"),
        ({"calibration": {"signal": "stage2"}}, "tuning.calibration.pipeline"),
        (3, "is 3"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(tuning: Any, named: str) -> None:
    values = {**manifest_to_dict(made()), "tuning": tuning}
    with pytest.raises(ManifestCorrupt, match=named):
        manifest_from_dict(values, origin="manifest.json")
