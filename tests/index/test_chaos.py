"""Whatever happens to nodes and runs: at the end every copy holds what the source gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_help import MAKING, Chaos, quick_retries
from doubles.cluster import QdrantCluster, qdrant_cluster
from doubles.faults import Request
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document
from retrieval.errors import StoreFault
from retrieval.index.store import ServerOptions, Store
from retrieval.types import Storage

SEEDS = int(os.environ.get("CHAOS_SEEDS", "3"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[QdrantCluster]:
    with qdrant_cluster(3) as running:
        yield running


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_copy_holds_what_the_source_gives(
    seed: int, cluster: QdrantCluster, tmp_path: Path
) -> None:
    addresses, needed = (1, 3)[seed % 2], 1 + (seed // 2 + 1) % 2
    storage = Storage(shards=3, replicas=2, write_consistency=needed)
    chaos = Chaos(cluster, seed, addresses=addresses, storage=storage, folder=tmp_path)
    figures = chaos.run(operations=8)
    assert figures.operations == 8
    assert figures.passages > 0
    assert (figures.differences, figures.false_successes) == (0, 0), figures


@pytest.mark.parametrize("away", [1, 2])
def test_what_a_failed_write_left_on_a_copy_that_nobody_is_shown_goes(
    away: int, cluster: QdrantCluster
) -> None:
    name, kept = f"left-{away}", [Document(f"d{n}", f"the text {n}") for n in range(8)]
    store = Store(cluster.urls[0], options=ServerOptions(retry_s=1.0, timeout_s=2))
    storage = Storage(shards=3, replicas=2, write_consistency=2)

    def index(given: list[Document]) -> None:
        retrieval.ingest(
            given, name, store=store, encoder=HashingEncoder(), storage=storage, prune=True,
            **MAKING,
        )  # fmt: skip

    def dies(request: Request) -> bool:
        if away not in cluster.down():
            cluster.kill(away)
        return False

    with quick_retries():
        index(kept)
        cluster.nodes[0].fail(method="PUT", path_contains="/points", when=dies, status=500)
        with pytest.raises(StoreFault, match="shards failed"):
            index([*kept, *(Document(f"new{n}", f"another text {n}") for n in range(12))])
        cluster.faults(0).clear()
        cluster.start(away)
        held = {
            str(one)
            for copies in cluster.copies(name).values()
            for c in copies.values()
            for one in c
        }
        assert len(held) == 20
        index(kept)
    for copies in cluster.copies(name).values():
        one, other = copies.values()
        assert one == other
        assert {(record.payload or {})["document_id"] for record in one.values()} <= {
            document.id for document in kept
        }
