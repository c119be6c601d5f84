"""Export, import and copy: between folders, and from a folder to a server and back."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from maintenance_help import DIMENSION, fill, make_manifest

from retrieval.errors import CollectionExists, CorpusError, InvalidInput, RetrievalError
from retrieval.index.point_store import PointData
from retrieval.index.store import Store
from retrieval.maintenance.export_import import (
    copy_collection,
    export_collection,
    import_collection,
)
from retrieval.types import IndexQuery, Layout, Storage

pytest.importorskip("pyarrow", reason="pyarrow (extra 'parquet') is not installed")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "first")
    with place.create(make_manifest()) as index:
        fill(index, 1_100)
    return place


@pytest.fixture(params=["folder", "server"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield Store(tmp_path / "second")
        return
    from doubles.qdrant_http import qdrant_http

    with qdrant_http() as server:
        yield Store(server.url)


def points(store: Store, name: str = "docs") -> dict[str, PointData]:
    with store.open(name) as index:
        return {one.id: one for one in index.points()}


def assert_same(one: dict[str, PointData], other: dict[str, PointData]) -> None:
    assert one.keys() == other.keys()
    for key, point in one.items():
        assert point.payload == other[key].payload
        assert point.sparse.indices == other[key].sparse.indices
        np.testing.assert_allclose(point.sparse.values, other[key].sparse.values, rtol=1e-6)
        np.testing.assert_allclose(point.dense, other[key].dense, atol=2e-7)
        assert (point.lexical is None) == (other[key].lexical is None)
        if point.tokens is not None:
            np.testing.assert_allclose(point.tokens, other[key].tokens, atol=2e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_a_file_brings_a_collection_back(
    store: Store, other: Store, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"docs{ending}"
    told: list[tuple[int, int | None]] = []
    done = export_collection("docs", path, store=store, progress=lambda *p: told.append(p))
    assert done.points == 1_100
    assert told[-1] == (1_100, 1_100)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".docs")] == []
    import_collection(path, store=other)
    assert other.names() == ["docs"]
    assert_same(points(store), points(other))
    before, after = store.manifest("docs"), other.manifest("docs")
    assert (before.encoder, before.splitter, before.bm25) == (
        after.encoder, after.splitter, after.bm25
    )  # fmt: skip


def test_a_copy_goes_to_a_server_and_back(store: Store, other: Store, tmp_path: Path) -> None:
    done = copy_collection("docs", store=store, to=other)
    assert (done.points, done.collection) == (1_100, "docs")
    assert_same(points(store), points(other))
    back = Store(tmp_path / "back")
    copy_collection("docs", store=other, to=back, name="again")
    assert back.names() == ["again"]
    assert_same(points(store), points(back, "again"))
    rng = np.random.default_rng(3)
    vector = rng.standard_normal(DIMENSION).astype(np.float32)
    with store.open("docs") as one, back.open("again") as two:
        for mode in ("dense", "sparse", "hybrid"):
            query = IndexQuery(vector=vector, text="a cat number 7")
            first, second = (
                index.search_batch([query], mode=mode, limit=20)[0] for index in (one, two)
            )
            assert [c.passage for c in first] == [c.passage for c in second]


def test_everything_a_point_has_goes_with_it(tmp_path: Path, other: Store) -> None:
    layout = Layout(lexical=True, token_dimension=4, tenants=True)
    place = Store(tmp_path / "rich")
    with place.create(make_manifest(layout=layout)) as index:
        fill(index, 20, tenant="a")
        fill(index, 10, tenant="b")
    for ending in (".jsonl", ".parquet"):
        path = tmp_path / f"rich{ending}"
        export_collection("docs", path, store=place)
        import_collection(path, f"from{ending[1:]}", store=other)
        assert_same(points(place), points(other, f"from{ending[1:]}"))
    with other.open("fromjsonl") as index:
        assert (index.count(tenant="a"), index.count(tenant="b")) == (20, 10)


def test_a_copy_may_be_kept_otherwise(store: Store, tmp_path: Path) -> None:
    to = Store(tmp_path / "small")
    copy_collection("docs", store=store, to=to, changes={"quantization": "int8"})
    assert to.manifest("docs").storage == Storage(quantization="int8")


def test_a_copy_that_was_cut_off_is_not_seen_and_goes_on(store: Store, other: Store) -> None:
    def stop(done: int, total: int | None) -> None:
        if done >= 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_collection("docs", store=store, to=other, progress=stop)
    assert other.names() == []
    copy_collection("docs", store=store, to=other)
    assert_same(points(store), points(other))


def test_a_copy_does_not_take_a_name_that_was_given_meanwhile(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from doubles.qdrant_http import qdrant_http

    monkeypatch.setattr("retrieval.index.server.creating.GRACE_S", 0.0)
    with qdrant_http() as server:
        other = Store(server.url)

        def somebody(done: int, total: int | None) -> None:
            if done == 512:
                other.create(make_manifest()).close()

        with pytest.raises(
            CollectionExists, match=r"was made in .* meanwhile; the copy is 'docs@v"
        ):
            copy_collection("docs", store=store, to=other, progress=somebody)
        assert other.current("docs") == "docs@v2"
        assert other.versions("docs") == ["docs@v1", "docs@v2"]


def test_what_is_there_is_not_touched(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text("precious")
    with pytest.raises(InvalidInput, match="exists already"):
        export_collection("docs", path, store=store)
    assert path.read_text() == "precious"
    export_collection("docs", path, store=store, overwrite=True)
    with pytest.raises(CollectionExists, match="already a collection 'docs'"):
        import_collection(path, store=store)
    with pytest.raises(CollectionExists):
        copy_collection("docs", store=store, to=store)
    with pytest.raises(InvalidInput, match=r"expected \.jsonl"):
        export_collection("docs", tmp_path / "docs.csv", store=store)


def test_a_damaged_file_is_named_by_line_and_nothing_is_searched(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "docs.jsonl"
    export_collection("docs", path, store=store)
    lines = path.read_text().splitlines()
    to = Store(tmp_path / "to")
    damages = {
        "not JSON": [*lines[:700], lines[700][:40]],
        "a field is missing": [*lines[:3], json.dumps({"id": "x"})],
        "no export": lines[1:],
        "empty": [],
    }
    for what, text in damages.items():
        path.write_text("\n".join(text) + ("\n" if text else ""))
        with pytest.raises(CorpusError, match=r"docs\.jsonl, line \d+"):
            import_collection(path, store=to)
        assert to.names() == [], what
        shutil.rmtree(tmp_path / "to", ignore_errors=True)
    zipped = tmp_path / "docs.jsonl.gz"
    zipped.write_bytes(gzip.compress("\n".join(lines).encode())[:-2_000])
    with pytest.raises(CorpusError, match="line"):
        import_collection(zipped, store=to)
    bad = tmp_path / "docs.parquet"
    bad.write_bytes(b"PAR1 and no more")
    with pytest.raises(CorpusError, match="export"):
        import_collection(bad, store=to)


def test_vectors_that_must_not_be_written_are_not(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    export_collection("docs", path, store=store)
    lines = path.read_text().splitlines()
    row = json.loads(lines[5])
    for dense in ([float("nan")] * DIMENSION, [0.0] * DIMENSION, [1.0] * (DIMENSION - 1)):
        lines[5] = json.dumps({**row, "dense": dense})
        path.write_text("\n".join(lines))
        to = Store(tmp_path / f"to-{dense[0]}-{len(dense)}")
        with pytest.raises(RetrievalError):
            import_collection(path, store=to)
        assert to.names() == []
