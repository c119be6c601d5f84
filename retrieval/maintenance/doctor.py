"""Whether a collection is sound. Each finding says what was checked, and how to correct it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.errors import RetrievalError, StoreFault
from retrieval.index.bm25 import Bm25Terms
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded.mending import find_faults, mend
from retrieval.index.manifest import split_name
from retrieval.index.payload import payload_to_passage
from retrieval.index.payload_fields import index_paths
from retrieval.index.point_store import PointData
from retrieval.index.store import Store, StoreLike
from retrieval.index.tenants import PASSAGE_ID, TENANT
from retrieval.maintenance.cluster import cluster_finding
from retrieval.maintenance.copies import compare_copies
from retrieval.maintenance.findings import Finding, State
from retrieval.splitting.splitter import passage_id
from retrieval.types import Encoder, Manifest, Passage

_logger = logging.getLogger(__name__)

_EXAMPLES = 3
_NORM_SLACK = 1e-3
_COSINE_LEAST = 0.99
_BM25_SAMPLE = 200
_MINOR_APART = 2


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings on one collection."""

    collection: str
    physical: str
    points: int
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst of the findings."""
        states = {finding.state for finding in self.findings}
        return "error" if "error" in states else "warning" if "warning" in states else "ok"


def examine(
    collection: str,
    *,
    store: StoreLike,
    encoder: Callable[[Manifest], Encoder] | None = None,
    sample: int = 16,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Look at everything in a collection; nothing is changed unless `repair` says so.

    Args:
        collection: its name, or a version of it.
        store: folder, URL or `Store`.
        encoder: loads the encoder of a manifest, to encode `sample` passages anew and compare
            their vectors with the stored ones; None leaves that out.
        repair: where copies of passages on a server are not the same, write what is whole of
            their documents to all of them again, and send deletions again that were cut off. In a
            folder that does not know any more which version a name means, let it mean the newest
            that is whole. Nothing else is deleted.
        progress: called as (points read, points in all).

    Raises:
        CollectionNotFound, StoreLocked, StoreDenied: it cannot be looked at.
    """
    place = Store.of(store)
    faults = [] if place.is_server else _folder_findings(place, collection, repair)
    with place.open(collection) as index:
        manifest = index.manifest
        findings = [*faults, _store_findings(place, index), *_version_findings(place)]
        if place.is_server:
            findings.append(cluster_finding(place, index.physical, manifest.storage))
        if index.copies is not None:  # first, so that the others see what was mended
            findings.append(compare_copies(index.copies, index.physical, repair=repair))
        findings += _engine_findings(index)
        seen = _Seen(manifest)
        total = index.status().points
        for number, point in enumerate(index.points(), start=1):
            seen.take(point)
            if progress is not None and number % 1_000 == 0:
                progress(number, total)
        findings += seen.findings(total)
        if encoder is not None:
            findings.append(_encoded_anew(encoder(manifest), seen.sample[:sample]))
        return Diagnosis(index.collection, index.physical, total, tuple(findings))


def _folder_findings(place: Store, collection: str, repair: bool) -> list[Finding]:
    """What is wrong with which version names mean, of all collections of a folder."""
    findings = []
    for fault in (mend if repair else find_faults)(place.location):
        others = fault.collection not in ("", split_name(collection)[0])
        state: State = "warning" if others else "error"
        if not fault.mended:
            fix = f"Restore a backup: retrieval restore FILE --collection {fault.collection}-2"
            findings.append(Finding("store", state, fault.text, fix))
        elif repair:
            done = f"{fault.text}; mended: {fault.mended}"
            _logger.warning("%s", done)  # also where the collection cannot be opened now
            findings.append(Finding("store", "warning", done))
        else:
            fix = f"Have it mended: retrieval doctor {collection} --repair"
            findings.append(Finding("store", state, fault.text, fix))
    return findings


def _store_findings(place: Store, index: CollectionIndex) -> Finding:
    name = index.collection
    versions = place.versions(name)
    idle = [one for one in versions if one != place.current(name)]
    said = f"format {index.manifest.format_version}, searched as {place.current(name)}"
    if idle:
        return Finding(
            "versions",
            "warning",
            f"{said}; {', '.join(idle)} take space and are not searched",
            f"Keep the last one to roll back to, or delete it: retrieval delete {idle[0]}",
        )
    return Finding("versions", "ok", said)


def _version_findings(place: Store) -> Iterable[Finding]:
    """Whether client and server are near enough. The client promises one minor version more or
    less; two were tested (1.20 with a server 1.18)."""
    found = place.server_versions()
    if found is None:
        return
    client, server = found
    said = f"server {server}, qdrant-client {client}"
    numbers = [re.match(r"(\d+)\.(\d+)", one) for one in found]
    ours, theirs = [(int(one[1]), int(one[2])) if one else (0, 0) for one in numbers]
    if ours[0] != theirs[0] or abs(ours[1] - theirs[1]) > _MINOR_APART:
        yield Finding(
            "server version", "warning",
            f"{said}: more than {_MINOR_APART} minor versions apart",
            "Update the server, or install the qdrant-client that belongs to it.",
        )  # fmt: skip
    else:
        yield Finding("server version", "ok", said)


def _engine_findings(index: CollectionIndex) -> Iterable[Finding]:
    status = index.status()
    if status.state == "failed":
        yield Finding(
            "engine", "error", "; ".join(status.notes) or "the engine reports a failure",
            "See the server's log, or restore a backup.",
        )  # fmt: skip
    else:
        idle = f"{status.indexed:,} of {status.points:,} vectors in the approximate index"
        extra = f"; {'; '.join(status.notes)}" if status.notes else ""
        yield Finding(
            "engine",
            "warning" if status.notes else "ok",
            f"{status.state}, {status.segments} segments, {idle}{extra}",
        )
    manifest = index.manifest
    wanted = set(index_paths(manifest.layout, manifest.storage))
    missing = sorted(wanted - set(status.fields))
    if missing and status.fields:
        yield Finding(
            "payload indexes", "warning", f"missing: {', '.join(missing)}; filters on them scan",
            f"Build the collection anew: retrieval reindex PATH --collection {index.collection}",
        )  # fmt: skip
    else:
        yield Finding("payload indexes", "ok", f"{len(wanted)} as the manifest says")
    if status.free_bytes is not None and status.disk_bytes is not None:
        need = status.disk_bytes * 3 // 2
        text = f"{status.disk_bytes / 1e6:,.1f} MB used, {status.free_bytes / 1e6:,.1f} MB free"
        if status.free_bytes < need:
            yield Finding(
                "disk",
                "warning",
                f"{text}; rewriting the collection may take {need / 1e6:,.1f} MB",
                "Free some space before the next indexing run.",
            )
        else:
            yield Finding("disk", "ok", text)


@dataclass(slots=True)
class _Faults:
    """How often a fault was seen, with the first few places."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < _EXAMPLES:
            self.places.append(place)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.places) else ""
        return f"{self.count:,} ({', '.join(self.places)}{more})"


class _Seen:
    """What was seen of the points so far."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._bm25 = Bm25Terms(manifest.bm25)
        self._points = 0
        self._foreign = _Faults()
        self._ids = _Faults()
        self._offsets = _Faults()
        self._vectors = _Faults()
        self._terms = _Faults()
        # (tenant, document) → hash → positions seen, and how many there should be
        self._documents: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
        self.sample: list[tuple[Passage, np.ndarray[Any, Any]]] = []

    def take(self, point: PointData) -> None:
        self._points += 1
        try:
            known = str(point.payload.get(PASSAGE_ID, point.id))
            passage = payload_to_passage(known, point.payload)
        except (StoreFault, RetrievalError):
            self._foreign.add(point.id)
            return
        name = f"{passage.document_id}#{passage.position}"
        if passage.id != passage_id(passage.document_id, passage.position):
            self._ids.add(name)
        if passage.end - passage.start != len(passage.text):
            self._offsets.add(name)
        if not self._vector_is_right(point):
            self._vectors.add(name)
        elif len(self.sample) < _BM25_SAMPLE:
            self.sample.append((passage, point.dense))
            if self._bm25.passage(passage.content).indices != point.sparse.indices:
                self._terms.add(name)
        versions = self._documents.setdefault(
            (str(point.payload.get(TENANT, "")), passage.document_id), {}
        )
        seen, _ = versions.get(passage.document_hash, (0, 0))
        versions[passage.document_hash] = (seen + 1, passage.document_passages)

    def _vector_is_right(self, point: PointData) -> bool:
        dense, info = point.dense, self._manifest.encoder
        if dense.shape != (info.dimension,) or not np.isfinite(dense).all() or not dense.any():
            return False
        return not info.normalize or abs(float(np.linalg.norm(dense)) - 1.0) < _NORM_SLACK

    def findings(self, total: int) -> Iterable[Finding]:
        again = "Index the source again: retrieval index PATH"
        same = total == self._points
        yield Finding(
            "counts",
            "ok" if same else "error",
            f"{total:,} points counted, {self._points:,} read",
            ""
            if same
            else "Something writes to the collection, or the engine lost points: run "
            "this again when nothing writes.",
        )
        yield _finding(
            "payloads",
            self._foreign,
            "points that are not passages of this library",
            "Something else writes to this collection: index into a new one.",
        )
        yield _finding(
            "offsets", self._offsets, "passages whose offsets do not fit their text", again
        )
        yield _finding(
            "vectors",
            self._vectors,
            "vectors that are not finite, empty, of another dimension or not normalised",
            "Delete these documents, then index the source again: retrieval index PATH",
        )
        yield _finding(
            "BM25 terms",
            self._terms,
            "passages of a sample whose stored terms are not those of this version",
            "Build anew: retrieval reindex PATH",
        )
        incomplete, mixed = _Faults(), _Faults()
        for (_, document), versions in self._documents.items():
            if len(versions) > 1:
                mixed.add(document)
            elif any(seen != wanted for seen, wanted in versions.values()):
                incomplete.add(document)
        yield _finding("orphans", mixed, "documents with passages of an older version left", again)
        yield _finding(
            "documents",
            incomplete,
            "documents with passages missing",
            again,
            f"{len(self._documents):,} documents, all whole",
        )
        if self._ids.count:
            yield Finding(
                "ids", "warning",
                f"{self._ids} passage ids do not follow from document id and position: another "
                "program made them, and indexing again writes new points beside them",
            )  # fmt: skip


def _finding(check: str, faults: _Faults, what: str, fix: str, fine: str = "") -> Finding:
    if faults.count:
        return Finding(check, "error", f"{what}: {faults}", fix)
    return Finding(check, "ok", fine or f"no {what}")


def _encoded_anew(encoder: Encoder, sample: list[tuple[Passage, np.ndarray[Any, Any]]]) -> Finding:
    if not sample:
        return Finding("encoder", "ok", "nothing to encode anew")
    anew = encoder.encode_passages([passage.content for passage, _ in sample]).vectors
    cosines = [float(a @ b) for a, (_, b) in zip(anew, sample, strict=True)]
    least = min(cosines)
    text = f"{len(sample)} passages encoded anew, least cosine to the stored vector {least:.4f}"
    if least < _COSINE_LEAST:
        return Finding(
            "encoder", "error", text,
            "Other weights, pooling or instructions made these vectors: retrieval reindex PATH",
        )  # fmt: skip
    return Finding("encoder", "ok", text)
