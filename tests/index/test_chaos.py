"""Whatever happens to nodes and runs: at the end every copy holds what the source gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Chaos
from doubles.cluster import QdrantCluster, qdrant_cluster

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
