"""Builds a new version of a collection, and switches to it if it is not worse.

Searches go on with the current version all the while; the switch is one step and can be taken
back (`Store.rollback`). A build that was cut off is continued by the next call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.ingest import ingest
from retrieval.errors import InvalidInput, StoreLocked
from retrieval.evaluation.metrics import Comparison, compare
from retrieval.evaluation.report import EvaluationReport
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.serialization import report_as_dict
from retrieval.types import Encoder, IngestReport, Manifest

LEAST_SHARE = 0.9
"""Documents that a new version must hold, as a share of the current one's, to be switched to."""

MEASURE = "nDCG@10"


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """What was built, how it compares, and whether searches use it now.

    documents_before, documents_after: in the current and the new version; None where the current
    one is open in another process. quality: of hybrid first-stage search, new against current,
    where judged queries were given. kept_because: why searches were not switched, in sentences.
    """

    collection: str
    before: str
    after: str
    ingested: tuple[IngestReport, ...]
    documents_before: int | None
    documents_after: int
    quality: Comparison | None
    switched: bool
    kept_because: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON values, described in docs/json.md."""
        return {
            "collection": self.collection,
            "before": self.before,
            "after": self.after,
            "documents": {"before": self.documents_before, "after": self.documents_after},
            "quality": None if self.quality is None else asdict(self.quality),
            "switched": self.switched,
            "kept_because": list(self.kept_because),
            "ingested": [report_as_dict(report) for report in self.ingested],
        }

    def as_text(self) -> str:
        """What a user wants to know, in a few lines."""
        was = "?" if self.documents_before is None else f"{self.documents_before:,}"
        lines = [f"{self.before} → {self.after}: {was} → {self.documents_after:,} documents"]
        if self.quality is not None:
            found = self.quality
            lines.append(
                f"{found.measure} {found.baseline:.4f} → {found.run:.4f} "
                f"(95% interval of the difference {found.low:+.4f} to {found.high:+.4f})"
            )
        if self.switched:
            lines.append(
                f"Searches of {self.collection} use {self.after} now. Take it back with: "
                f"retrieval rollback {self.collection}"
            )
        else:
            lines += [f"Not switched: {reason}." for reason in self.kept_because]
            lines.append(
                f"Searches go on with {self.before}. Switch with: "
                f"retrieval switch {self.collection} {self.after}"
            )
        return "\n".join(lines)


def reindex(
    sources: Sequence[str | os.PathLike[str]],
    collection: str = DEFAULT_COLLECTION,
    *,
    store: StoreLike = DEFAULT_STORE,
    judged: str | os.PathLike[str] | None = None,
    split: str = "test",
    switch: bool | None = None,
    **options: Any,
) -> ReindexReport:
    """Build the next version of a collection from its sources, compare, and switch to it.

    Args:
        sources: files and folders that hold everything the collection is to hold.
        collection: its name; it must exist.
        store: folder, URL or `Store`.
        judged: folder in BEIR layout whose judged queries compare both versions (nDCG@10 of
            hybrid search without second stage, paired bootstrap).
        split: which of its qrels.
        switch: None switches where the new version holds at least 90% of the documents, nothing
            failed that did not fail before, and quality is not significantly worse; True
            switches in any case; False never does.
        options: as for `retrieval.ingest`. What is not given stays as the current version has it:
            encoder, splitter, BM25 language, layout, storage.

    Raises:
        CollectionNotFound: there is no such collection yet: index it first.
        As `retrieval.ingest` and `retrieval.evaluate`; searches then go on as before.
    """
    place = Store.of(store, options.pop("api_key", None))
    before = place.current(collection)
    built = place.manifest(before)
    after = _target(place, collection, before)
    settings = {**_as_built(built, options), **options}
    ingested = tuple(
        ingest(source, collection, store=place, version=after, **settings) for source in sources
    )
    documents_after = _documents(place, after)
    reasons: list[str] = []
    documents_before: int | None = None
    quality: Comparison | None = None
    try:
        documents_before = _documents(place, before)
        if documents_after < LEAST_SHARE * documents_before:
            reasons.append(
                f"{after} holds {documents_after:,} documents, {before} {documents_before:,}"
            )
        if judged is not None:
            quality = _compared(place, before, after, Path(judged), split, options.get("encoder"))
            if quality.high < 0:
                reasons.append(
                    f"{MEASURE} is worse by {-quality.difference:.4f} "
                    f"(95% interval {quality.low:+.4f} to {quality.high:+.4f})"
                )
    except StoreLocked as locked:
        reasons.append(f"{before} could not be compared with: {locked.problem}")
    failed = sum(len(report.failed) for report in ingested)
    if failed:
        reasons.append(f"{failed} parts of the sources could not be read")
    wanted = switch if switch is not None else not reasons
    if wanted:
        place.switch(collection, after)
    elif switch is False:
        reasons.append("you asked not to switch")
    return ReindexReport(
        collection=collection,
        before=before,
        after=after,
        ingested=ingested,
        documents_before=documents_before,
        documents_after=documents_after,
        quality=quality,
        switched=wanted,
        kept_because=() if wanted else tuple(reasons),
    )


def _target(place: Store, collection: str, current: str) -> str:
    """The version to build: one that was begun after the current one and never switched to, or a
    new one."""
    versions = place.versions(collection)
    if current not in versions:
        raise InvalidInput(
            f"{collection!r} means {current!r}, which is not a version of it; nothing was built",
            fix="Reindex what that is a version of, or index into a collection of another name.",
        )
    newer = versions[versions.index(current) + 1 :]
    return newer[-1] if newer else place.next_version(collection)


def _as_built(manifest: Manifest, given: dict[str, Any]) -> dict[str, Any]:
    """What `ingest` needs to build a collection as the manifest says, except for what was given."""
    encoder, splitter, layout = manifest.encoder, manifest.splitter, manifest.layout
    same: dict[str, Any] = {
        "language": manifest.bm25.language,
        "storage": manifest.storage,
        "fields": manifest.storage.fields or "auto",
        "lexical": layout.lexical,
        "token_vectors": layout.token_dimension is not None,
    }
    if "encoder" in given:
        return same  # with passages as long as the new encoder likes them
    return same | {
        "encoder": encoder.model,
        "pooling": encoder.pooling,
        "query_instruction": encoder.query_instruction,
        "passage_instruction": encoder.passage_instruction,
        "query_suffix": encoder.query_suffix,
        "query_examples": encoder.query_examples,
        "max_length": encoder.max_length,
        "max_tokens": splitter.max_tokens,
        "overlap_tokens": splitter.overlap_tokens,
    }


def _documents(place: Store, version: str) -> int:
    """How many documents a version holds; with tenants, how many passages."""
    with place.open(version) as index:
        if index.manifest.layout.tenants:
            return index.status().points
        return index.count({"position": 0})


def _compared(
    place: Store, before: str, after: str, judged: Path, split: str, given: object
) -> Comparison:
    def report(version: str) -> EvaluationReport:
        # a model that is loaded already is not loaded again for the version that it built
        built = place.manifest(version).encoder
        own = given if isinstance(given, Encoder) and given.info == built else None
        return evaluate_folder(
            judged, split=split, collection=version, store=place, modes=["hybrid"],
            rerank=False, encoder=own, measures=[MEASURE],
        )  # fmt: skip

    old, new = report(before), report(after)
    baseline, run = (next(iter(one.runs.values())) for one in (old, new))
    return compare(old.qrels, baseline, run, measures=[MEASURE])[MEASURE]
