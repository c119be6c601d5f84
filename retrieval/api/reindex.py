"""Builds a new version of a collection, and switches to it if it is not worse.

Searches go on with the current version all the while; the switch is one step and can be taken
back (`Store.rollback`). A build that was cut off is continued by the next call. The new version
is searched by the same defaults; what was learned from scores (`retrieval calibrate`) goes with it
only where encoder, passages and terms are made as before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.api.case_file import CaseFile, load_cases
from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.ingest import ingest
from retrieval.api.open import open
from retrieval.api.reencode import reencode
from retrieval.api.run_cases import needs_reranker, run_cases
from retrieval.errors import InvalidInput, StoreLocked
from retrieval.evaluation.cases_report import CasesReport
from retrieval.evaluation.metrics import Comparison, compare
from retrieval.evaluation.report import EvaluationReport
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.models.options import SHARED
from retrieval.serialization import report_as_dict
from retrieval.types import Encoder, IngestReport, Manifest
from retrieval.types.tuning import NO_TUNING

LEAST_SHARE = 0.9
"""Documents that a new version must hold, as a share of the current one's, to be switched to."""

MEASURE = "nDCG@10"


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """What was built, how it compares, and whether searches use it now.

    documents_before, documents_after: in the current and the new version; None where the current
    one is open in another process. quality: of hybrid first-stage search, new against current,
    where judged queries were given. cases: of the new version, where a file of them was given.
    kept_because: why searches were not switched, in sentences. notices: what else there is to say.
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
    cases: CasesReport | None = None
    notices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON values, described in docs/json.md."""
        return {
            "collection": self.collection,
            "before": self.before,
            "after": self.after,
            "documents": {"before": self.documents_before, "after": self.documents_after},
            "quality": None if self.quality is None else asdict(self.quality),
            "cases": None if self.cases is None else self.cases.as_dict(),
            "switched": self.switched,
            "kept_because": list(self.kept_because),
            "notices": list(self.notices),
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
        if self.cases is not None:
            lines.append(self.cases.summary())
        lines += [f"note: {notice}" for notice in self.notices]
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
    cases: str | os.PathLike[str] | None = None,
    switch: bool | None = None,
    **options: Any,
) -> ReindexReport:
    """Build the next version of a collection from its sources, compare, and switch to it.

    Args:
        sources: files and folders that hold everything the collection is to hold. None: the
            passages that the current version holds, with another encoder's vectors.
        collection: its name; it must exist.
        store: folder, URL or `Store`.
        judged: judged queries (see `load_judgements`) that compare both versions (nDCG@10 of
            hybrid search without second stage, paired bootstrap).
        split: which of its qrels.
        cases: retrieval tests (see `load_cases`) that both versions are searched with, as users
            search: with the second stage that `retrieval.open` chooses.
        switch: None switches where the new version holds at least 90% of the documents, all of the
            sources could be read, quality is not significantly worse, and no case fails that
            passed before; True switches in any case; False never does.
        options: as for `retrieval.ingest`. What is not given stays as the current version has it:
            encoder, splitter, BM25 language, layout, storage.

    Raises:
        CollectionNotFound: there is no such collection yet: index it first.
        As `retrieval.ingest` and `retrieval.evaluate`; searches then go on as before.
    """
    place = Store.of(store, options.pop("api_key", None))
    file = None if cases is None else load_cases(cases)  # a mistake in it costs no indexing
    before = place.current(collection)
    built = place.manifest(before)
    after = _target(place, collection, before)
    ingested: tuple[IngestReport, ...] = ()
    if sources:
        settings = {**_as_built(built, options), **options}
        ingested = tuple(
            ingest(source, collection, store=place, version=after, **settings) for source in sources
        )
    else:
        _reencoded(place, before, after, options)
    notices = _keep_tuning(place, before, after)
    documents_after = _documents(place, after)
    reasons: list[str] = []
    documents_before, quality, tested = None, None, None
    try:
        documents_before = _documents(place, before)
        if documents_after < LEAST_SHARE * documents_before:
            reasons.append(
                f"{after} holds {documents_after:,} documents, {before} {documents_before:,}"
            )
        if judged is not None:
            quality = _compared(place, before, after, Path(judged), split, options.get("encoder"))
            reasons += _worse(quality)
        if file is not None:
            tested = _tested(place, after, file, options)
            if not tested.passed:
                reasons += _broken(_tested(place, before, file, options), tested)
    except StoreLocked as locked:
        reasons.append(f"{before} could not be compared with: {locked.problem}")
    if failed := sum(not one.is_note for report in ingested for one in report.failed):
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
        cases=tested,
        notices=notices,
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
        # of older rules nobody chose it
        "fold_accents": manifest.bm25.folds if manifest.bm25.version > 1 else None,
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


def _reencoded(place: Store, before: str, after: str, options: dict[str, Any]) -> None:
    """The passages of the current version, with another encoder's vectors."""
    own = ("encoder", "progress", "on_notice", *SHARED)
    others = sorted(name for name in options if name not in own)
    if "encoder" not in options or others:
        what = f"{', '.join(others)} given" if others else "no other encoder named"
        raise InvalidInput(
            f"no source was given to build {after} from, and {what}: stored passages can get "
            "another encoder's vectors, and stay as they are",
            fix="Give --encoder alone, or name the files and folders that the collection holds.",
        )
    running = {name: options[name] for name in SHARED if name in options}
    reencode(before, options["encoder"], after, store=place, options=running)


def _keep_tuning(place: Store, before: str, after: str) -> tuple[str, ...]:
    """Let the new version be searched as the old one, where nobody has said otherwise since."""
    old, new = place.manifest(before), place.manifest(after)
    if new.tuning != NO_TUNING or old.tuning == NO_TUNING:
        return ()
    place.set_defaults(after, old.tuning.defaults)
    if old.tuning.calibration is None:
        return ()
    parts = ("encoder", "splitter", "bm25", "layout")
    if all(getattr(old, part) == getattr(new, part) for part in parts):
        place.set_calibration(after, old.tuning.calibration)
        return ()
    return (
        f"The calibration of {before} does not hold for {after}, whose scores mean something else: "
        "retrieval calibrate makes a new one.",
    )


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
        return evaluate_folder(
            judged, split=split, collection=version, store=place, modes=["hybrid"],
            rerank=False, encoder=_loaded(place, version, given), measures=[MEASURE],
        )  # fmt: skip

    old, new = report(before), report(after)
    baseline, run = (next(iter(one.runs.values())) for one in (old, new))
    return compare(old.qrels, baseline, run, measures=[MEASURE])[MEASURE]


def _worse(quality: Comparison) -> list[str]:
    if quality.high >= 0:
        return []
    return [
        f"{MEASURE} is worse by {-quality.difference:.4f} "
        f"(95% interval {quality.low:+.4f} to {quality.high:+.4f})"
    ]


def _loaded(place: Store, version: str, given: object) -> Encoder | None:
    """A model that is loaded already, for the version that it built."""
    built = place.manifest(version).encoder
    return given if isinstance(given, Encoder) and given.info == built else None


def _tested(place: Store, version: str, file: CaseFile, options: dict[str, Any]) -> CasesReport:
    running = {name: options[name] for name in SHARED if name in options}
    encoder = _loaded(place, version, options.get("encoder"))
    reranker = "auto" if needs_reranker(file) else None
    with open(version, store=place, encoder=encoder, reranker=reranker, **running) as retriever:
        return replace(run_cases(file, retriever), collection=version)


def _broken(before: CasesReport, after: CasesReport) -> list[str]:
    """A sentence for each case that passed on the version before and does not on the new one."""
    passed = {outcome.name for outcome in before.outcomes if outcome.state == "ok"}
    return [
        f"the case {outcome.name!r} fails on {after.collection}: {outcome.why.rstrip('.')}"
        for outcome in after.outcomes
        if outcome.state != "ok" and outcome.name in passed
    ]
