"""Whether a server's cluster has and serves all copies of a collection."""

from __future__ import annotations

from retrieval.index.store import Store
from retrieval.maintenance.findings import Finding
from retrieval.types import Storage


def cluster_finding(place: Store, physical: str, storage: Storage) -> Finding:
    """What `/cluster` says of a collection on a server."""
    cluster = place.cluster(physical)
    if cluster is None:
        return Finding("cluster", "ok", "not told: the API key may not read it")
    unwell, missing = cluster.unwell(), cluster.missing(storage)
    text = "; ".join((cluster.summary(), *missing, *unwell))
    if unwell:
        return Finding(
            "cluster", "warning", text,
            "Start the nodes that are away and let copies recover: then run this again.",
        )  # fmt: skip
    if missing:
        return Finding(
            "cluster", "warning", text,
            "Add nodes and then copies in Qdrant itself, or copy the collection to a cluster: "
            "retrieval copy.",
        )  # fmt: skip
    return Finding("cluster", "ok", text)
