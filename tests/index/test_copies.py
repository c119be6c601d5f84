"""Every passage on every copy: what a cluster forgot is found, sent again, and named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from doubles.cluster import QdrantCluster, qdrant_cluster
from doubles.faults import Request
from doubles.qdrant_http import qdrant_http
from hashing_encoder import HashingEncoder
from qdrant_client import QdrantClient

import retrieval
from retrieval import Document
from retrieval.distributed.actors import Encode, Job, Split, Write
from retrieval.distributed.messages import Counts, DocumentBatch
from retrieval.distributed.writers import Target
from retrieval.errors import StoreFault
from retrieval.index.server.journal import PREFIX
from retrieval.index.store import ServerOptions, Store
from retrieval.maintenance.doctor import Diagnosis, examine
from retrieval.maintenance.export_import import copy_collection, export_collection
from retrieval.types import IngestReport, Storage

COPIED = Storage(shards=6, replicas=2, write_consistency=2)
SHORT = ServerOptions(retry_s=0.05, timeout_s=20)


@pytest.fixture
def cluster() -> Iterator[QdrantCluster]:
    with qdrant_cluster(nodes=3) as running:
        yield running


def store_of(cluster: QdrantCluster, *nodes: int) -> Store:
    return Store(",".join(cluster.urls[n] for n in nodes or (0,)), options=SHORT)


def text(number: int, words: int, version: str = "first") -> str:
    return " ".join(f"{version}{number}word{n}" for n in range(words))


def documents(numbers: Sequence[int]) -> list[Document]:
    return [Document(f"d{n:03}", text(n, 30 + 10 * (n % 4))) for n in numbers]


def index(store: Store, given: Sequence[Document], **options: Any) -> IngestReport:
    return retrieval.ingest(
        given, "docs", store=store, encoder=HashingEncoder(), storage=COPIED, max_tokens=16,
        overlap_tokens=0, fields={}, language="en", **options,
    )  # fmt: skip


def wanted(given: Sequence[Document], folder: Path) -> dict[str, dict[str, Any]]:
    """The payloads of the passages by id, as an index in a folder has them."""
    place = Store(folder)
    retrieval.ingest(
        given, "docs", store=place, encoder=HashingEncoder(), max_tokens=16, overlap_tokens=0,
        fields={}, language="en",
    )  # fmt: skip
    with place.open("docs") as one:
        return {point.id: point.payload for point in one.points()}


def assert_on_every_copy(cluster: QdrantCluster, given: Sequence[Document], folder: Path) -> None:
    expected = wanted(given, folder)
    seen: set[str] = set()
    for copies in cluster.copies("docs").values():
        assert len(copies) == 2
        for held in copies.values():
            found = {str(key): record.payload for key, record in held.items()}
            assert found == {key: expected[key] for key in found}
            seen |= found.keys()
        one, other = copies.values()
        assert one.keys() == other.keys()
    assert seen == expected.keys()


@contextmanager
def dying_in(
    cluster: QdrantCluster, method: str, path: str, *nodes: int, asked: int = 0
) -> Iterator[None]:
    """Nodes die when the first such request has come to the asked one; then they come back."""
    died: list[int] = []

    def strikes(request: Request) -> bool:
        if not died and request.method == method and request.path.endswith(path):
            for node in nodes:
                cluster.kill(node)
                died.append(node)
        return False

    rule = cluster.nodes[asked].fail(when=strikes, times=None, status=500)
    with pytest.raises(StoreFault):
        yield
    assert died
    cluster.faults(asked).remove(rule)
    for node in died:
        cluster.start(node)


def unfinished(store: Store) -> list[str]:
    client = QdrantClient(url=store.location.split(",")[0], check_compatibility=False)
    metadata = client.get_collection("docs").config.metadata or {}
    client.close()
    return [name for name, value in metadata.items() if name.startswith(PREFIX) and value]


def test_a_run_that_is_repeated_brings_every_copy_what_it_missed(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    store, source = store_of(cluster), documents(range(300))
    index(store, source[:1])
    with dying_in(cluster, "PUT", "/points", 2):
        index(store, source)
    assert len(unfinished(store)) == 1
    report = index(store, source)
    assert report.new + report.changed + report.unchanged == 300
    assert report.new > 0
    assert unfinished(store) == []
    assert_on_every_copy(cluster, source, tmp_path)
    again = index(store, source)
    assert (again.unchanged, again.notices) == (300, ())


@pytest.mark.parametrize("through", [0, 1, 2])
def test_changes_and_prunes_reach_copies_that_missed_them(
    cluster: QdrantCluster, tmp_path: Path, through: int
) -> None:
    store = store_of(cluster)
    index(store, documents(range(90)))
    changed = [
        Document(f"d{n:03}", text(n, 5 + 10 * (n % 5), "second")) if n < 55 else one
        for n, one in enumerate(documents(range(90)))
    ][30:]
    with dying_in(cluster, "PUT", "/points", 2):
        index(store, changed, prune=True)
    report = index(store_of(cluster, through), changed, prune=True)
    assert "were not the same on all copies and were sent again" in report.notices[0]
    assert_on_every_copy(cluster, changed, tmp_path)
    report = index(store, changed, prune=True)
    assert (report.unchanged, report.pruned, report.notices) == (60, 0, ())


@pytest.mark.parametrize("through", [0, 1, 2])
def test_a_deletion_that_was_answered_with_an_error_is_sent_again(
    cluster: QdrantCluster, tmp_path: Path, through: int
) -> None:
    store, source = store_of(cluster), documents(range(60))
    index(store, source)
    with dying_in(cluster, "POST", "/points/delete", 2):
        index(store, source[20:], prune=True)
    assert len(unfinished(store)) == 1
    assert "1 deletion was cut off" in diagnosis(store)[1]
    index(store_of(cluster, through), source[20:], prune=True)
    assert_on_every_copy(cluster, source[20:], tmp_path)
    assert unfinished(store) == []


def test_passages_that_a_document_lost_go_from_copies_that_missed_it(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    # the new passages are acknowledged, the deletion of the old ones is not
    store = store_of(cluster)
    index(store, [Document("d", text(1, 200)), *documents(range(10))])
    short = [Document("d", text(1, 20, "second")), *documents(range(10))]
    with dying_in(cluster, "POST", "/points/delete", 2):
        index(store, short)
    index(store, short)
    assert_on_every_copy(cluster, short, tmp_path)


def test_what_a_cut_off_run_left_unseen_goes_when_the_document_is_written_shorter(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    store, others = store_of(cluster), documents(range(5))
    index(store, others)
    # only the copies on node 1 keep the first version, and node 2 shows none of them
    with dying_in(cluster, "PUT", "/points", 0, 2, asked=1):
        index(store_of(cluster, 1), [*others, Document("d", text(1, 300))])
    source = [*others, Document("d", text(1, 10, "second"))]
    assert index(store_of(cluster, 2), source).new == 1
    assert_on_every_copy(cluster, source, tmp_path)


def test_a_document_that_was_written_again_since_outlives_the_deletion(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    store, source = store_of(cluster), documents(range(8))
    index(store, source)
    with store.open("docs") as before:  # opened before anything is unfinished
        with dying_in(cluster, "POST", "/points/delete", 2), store.open("docs") as other:
            other.delete_documents(["d000", "d001"])
        before.write_points(wanted_points(source[:1], tmp_path / "one"))
    assert len(unfinished(store)) == 1
    with store.open("docs") as after:
        after.document_states([])
    assert unfinished(store) == []
    left = [one for one in source if one.id != "d001"]
    assert_on_every_copy(cluster, left, tmp_path / "all")


def wanted_points(given: Sequence[Document], folder: Path) -> list[Any]:
    wanted(given, folder)
    with Store(folder).open("docs") as one:
        return list(one.points())


def test_pruning_sees_what_any_of_several_nodes_holds(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    store, source = store_of(cluster), documents(range(10))
    index(store, source)
    with dying_in(cluster, "PUT", "/points", 0, 2, asked=1):
        index(store_of(cluster, 1), [*source, Document("gone", text(1, 300))])
    assert index(store_of(cluster, 2), source, prune=True).pruned == 0
    report = index(store_of(cluster, 0, 1, 2), source, prune=True)
    assert report.pruned == 1
    assert_on_every_copy(cluster, source, tmp_path)


def test_copies_that_the_server_knows_to_be_old_do_not_stop_a_run(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    store, source = store_of(cluster), documents(range(30))
    storage = Storage(shards=3, replicas=3, write_consistency=2)
    options: dict[str, Any] = {
        "encoder": HashingEncoder(), "storage": storage, "max_tokens": 16, "overlap_tokens": 0,
        "fields": {}, "language": "en",
    }  # fmt: skip
    retrieval.ingest(source[:20], "docs", store=store, **options)
    cluster.kill(2)
    with store.open("docs") as one:
        one.write_points(wanted_points(source[:20], tmp_path / "same"))  # marks them as dead
    report = retrieval.ingest(source, "docs", store=store, **options)
    assert (report.new, report.unchanged, report.notices) == (10, 20, ())


def test_a_node_that_does_not_answer_fails_a_run_instead_of_passing_unchecked(
    cluster: QdrantCluster,
) -> None:
    store, source = store_of(cluster), documents(range(10))
    index(store, source)
    cluster.kill(2)
    with pytest.raises(StoreFault, match="compare the copies of the collection 'docs@v1'"):
        index(store, source)


@pytest.mark.parametrize("nodes", [(0,), (2, 0, 1)])
def test_a_run_goes_on_without_a_node_where_one_copy_may_acknowledge(
    cluster: QdrantCluster, tmp_path: Path, nodes: tuple[int, ...]
) -> None:
    store, source = store_of(cluster, *nodes), documents(range(30))
    options: dict[str, Any] = {
        "encoder": HashingEncoder(), "storage": Storage(shards=6, replicas=2, write_consistency=1),
        "max_tokens": 16, "overlap_tokens": 0, "fields": {}, "language": "en",
    }  # fmt: skip
    retrieval.ingest(source[:20], "docs", store=store, **options)
    cluster.kill(2)
    report = retrieval.ingest(source, "docs", store=store, **options)
    assert (report.new, report.unchanged, report.notices) == (10, 20, ())
    cluster.start(2)  # and is brought up to date, since it is known to have missed something
    assert_on_every_copy(cluster, source, tmp_path)


def test_workers_of_a_distributed_run_judge_by_all_copies_too(
    cluster: QdrantCluster, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    store, source = store_of(cluster), documents(range(30))
    index(store, [Document("d000", text(0, 200)), *source[1:]])
    with dying_in(cluster, "PUT", "/points", 2):
        index(store, [source[0], *(Document(one.id, one.text + " more") for one in source[1:])])
    target = Target(store, "docs@v1", None)
    job = Job(target, store.manifest("docs"), None, HashingEncoder, {})
    split, encode, write = Split(job), Encode(job), Write(job)
    counts = Counts()
    for prepared in split.split(DocumentBatch(tuple(source))):
        for encoded in encode.encode(prepared):
            for done in write.write(encoded):
                counts += done
    assert counts.changed == 30
    assert counts.differing > 0
    assert_on_every_copy(cluster, source, tmp_path)


def diagnosis(store: Store, **options: Any) -> tuple[str, str, str]:
    found: Diagnosis = examine("docs", store=store, **options)
    one = next(finding for finding in found.findings if finding.check == "copies")
    return one.state, one.text, one.fix


@pytest.mark.parametrize("nodes", [(0,), (1,), (0, 1, 2)])
def test_the_doctor_names_documents_that_differ_and_mends_them(
    cluster: QdrantCluster, tmp_path: Path, nodes: tuple[int, ...]
) -> None:
    store, source = store_of(cluster, *nodes), documents(range(40))
    index(store_of(cluster), source)
    assert diagnosis(store)[0] == "ok"
    changed = [Document(one.id, one.text + " more") for one in source]
    with dying_in(cluster, "PUT", "/points", 2):
        index(store_of(cluster), changed)
    before = json.dumps(cluster.copies("docs"), default=str)
    state, said, fix = diagnosis(store)
    assert state == "error"
    assert "documents that are not the same on all: " in said
    assert ("passages by node: " in said) is (len(nodes) > 1)
    assert "retrieval doctor docs@v1 --repair" in fix
    assert json.dumps(cluster.copies("docs"), default=str) == before, "nothing is changed"
    state, said, fix = diagnosis(store, repair=True)
    if nodes == (1,):  # which shows some passages of each version
        assert state == "error"
        assert "no copy has a whole version of them" in said
        return
    assert "documents sent to all again: " in said
    assert diagnosis(store)[0] == "ok"
    for copies in cluster.copies("docs").values():
        one, other = copies.values()
        assert {k: r.payload for k, r in one.items()} == {k: r.payload for k, r in other.items()}


def test_export_and_copy_refuse_copies_that_differ(cluster: QdrantCluster, tmp_path: Path) -> None:
    store, source = store_of(cluster), documents(range(20))
    index(store, source)
    target = tmp_path / "docs.jsonl"
    assert export_collection("docs", target, store=store).points == len(
        wanted(source, tmp_path / "same")
    )
    target.unlink()
    with dying_in(cluster, "PUT", "/points", 2):
        index(store, [Document(one.id, one.text + " more") for one in source])
    with pytest.raises(StoreFault, match=r"copies of 'docs@v1' are not the same.*'d0") as refused:
        export_collection("docs", target, store=store)
    assert "retrieval doctor docs@v1 --repair" in refused.value.fix
    assert not target.exists()
    with pytest.raises(StoreFault, match="copies of 'docs@v1' are not the same"):
        copy_collection(
            "docs",
            store=store,
            to=tmp_path / "copy",
            changes=dict.fromkeys(("shards", "replicas", "write_consistency")),
        )


def test_over_grpc_deletions_are_noted_and_sent_again_too(tmp_path: Path) -> None:
    with qdrant_cluster(nodes=3, grpc=True) as running:
        node = running.nodes[0]
        options = ServerOptions(retry_s=0.05, timeout_s=20, grpc=True, grpc_port=node.grpc_port)
        store, source = Store(node.url, options=options), documents(range(20))
        index(store, source)
        with dying_in(running, "POST", "/points/delete", 2):
            index(store, source[5:], prune=True)
        assert len(unfinished(store)) == 1
        index(store, source[5:], prune=True)
        assert unfinished(store) == []
        assert_on_every_copy(running, source[5:], tmp_path)


def test_a_key_that_may_not_note_deletions_deletes_without(
    cluster: QdrantCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, source = store_of(cluster), documents(range(10))
    index(store, source)
    cluster.nodes[0].fail(method="PATCH", times=None, status=403)
    index(store, source[5:], prune=True)
    assert "may not change the collection's metadata" in caplog.text
    assert_on_every_copy(cluster, source[5:], tmp_path)


def test_a_deletion_that_the_server_refuses_is_not_sent_again(cluster: QdrantCluster) -> None:
    store, source = store_of(cluster), documents(range(10))
    index(store, source)
    cluster.nodes[0].fail(path_contains="/points/delete", status=400)
    with pytest.raises(StoreFault, match="could not delete from"):
        index(store, source[5:], prune=True)
    assert index(store, source).unchanged == 10
    assert unfinished(store) == []


def test_pages_that_ask_for_agreement_do_not_end_where_copies_differ(
    cluster: QdrantCluster,
) -> None:
    store, source = store_of(cluster), documents(range(40))
    index(store, source)
    changed = [Document(one.id, one.text + " more") for one in source[:10]]
    with dying_in(cluster, "PUT", "/points", 2):
        index(store, [*changed, *source[10:]])
    careful = dataclasses.replace(SHORT, read_consistency="all")
    with Store(cluster.urls[0], options=careful).open("docs") as one:
        read = {passage.document_id for passage in one.passages()}
    assert read >= {document.id for document in source[10:]}


def test_one_copy_costs_no_request_more() -> None:
    with qdrant_http() as server:
        place = Store(server.url, options=SHORT)
        retrieval.ingest(
            documents(range(20)), "docs", store=place, encoder=HashingEncoder(), max_tokens=16,
            overlap_tokens=0, fields={}, language="en",
        )  # fmt: skip
        server.requests.clear()
        retrieval.ingest(
            [Document("d000", "another text"), *documents(range(1, 20))], "docs", store=place,
            encoder=HashingEncoder(),
        )  # fmt: skip
        points = [r.path.rpartition("points")[2] for r in server.requests if "/points" in r.path]
        assert points == ["/scroll", "", "/delete"]
        assert not [r for r in server.requests if r.method == "PATCH" or "consistency" in r.query]
