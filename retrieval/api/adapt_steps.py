"""The steps of an adaptation: which are done, and what the result of each hangs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retrieval.api.adapt_settings import AdaptSettings, Labels, Step
from retrieval.api.adapt_state import Values, digest_of
from retrieval.api.gate import queries_of, read_set
from retrieval.index.store import Store
from retrieval.models.defaults import AUTO, choose_models
from retrieval.models.options import first_device
from retrieval.models.resolve import resolve
from retrieval.types import Manifest

_TRAINED = ("encoder", "reranker")


class AdaptSteps:
    """What is known of an adaptation so far.

    Args:
        store: where the collection is.
        version: that it began with.
        manifest: of that version.
        labels, settings, tenant: as for `adapt`.
        reranker: that the version was searched with; None for none.

    Attributes:
        encoder: the name of the one before.
        results: of the steps that are done, by name.
        on_notice, progress: see `adapt`.
    """

    def __init__(
        self,
        store: Store,
        version: str,
        manifest: Manifest,
        labels: Labels,
        settings: AdaptSettings,
        tenant: str | None,
        reranker: str | None,
    ) -> None:
        self.results: dict[str, Values] = {}
        self.on_notice: Callable[[str], None] | None = None
        self.progress: Callable[[str, int, int | None], None] | None = None
        self.store = store
        self.version = version
        self.manifest = manifest
        self.labels = labels
        self.settings = settings
        self.tenant = tenant
        self.encoder = manifest.encoder.model
        self.reranker = reranker
        self._count: int | None = None

    def left_out(self, step: Step) -> str | None:
        """Why a step is not done; None where it is."""
        if step in self.settings.skip:
            return "skipped, as you asked"
        if step == "train-reranker" and self.reranker is None:
            return "the collection is searched without a reranker"
        if step == "encode" and "encoder" not in self.new():
            return "the encoder is not new, so the version stays"
        if step in ("calibrate", "switch") and not self.taken():
            return "the gate lets nothing pass; searches go on as before"
        return None

    def inputs(self, step: Step) -> Values:
        """What the result of a step hangs on."""
        settings, own = self.settings, self.store.manifest(self.version)
        held = {"id": own.id, "passages": self.passages(), "tenant": self.tenant}
        recipe = {name: dict(settings.recipe.get(name, {})) for name in ("mine", *_TRAINED)}
        labels = self.labels.inputs()
        if step == "split":
            return labels
        if step == "mine":
            teacher = self.fingerprint(self.reranker, "reranker")
            return {**held, "train": labels["train"], "teacher": teacher, **recipe["mine"]}
        if step in ("train-encoder", "train-reranker"):
            stage = step.removeprefix("train-")
            base = self.fingerprint(self.encoder if stage == "encoder" else self.reranker, stage)
            return {"data": self.results["mine"]["sha256"], "base": base, **recipe[stage]}
        if step == "merge":
            return {"models": self._fingerprints(self.tuned()), "share": settings.merge_share}
        if step == "encode":
            return {**held, "encoder": self._fingerprints(self.new())["encoder"]}
        if step == "gate":
            return {
                **held, "models": self._fingerprints(self.new()), "dev": labels["dev"],
                "general": self._general(), "rule": repr(settings.rule),
                "candidates": settings.candidates,
            }  # fmt: skip
        return {"dev": labels["dev"], "taken": self._fingerprints(self.taken()),
                "version": self.target()}  # fmt: skip

    def tuned(self) -> dict[str, str]:
        """Stage → the folder of its tuned model."""
        stages = [stage for stage in _TRAINED if f"train-{stage}" in self.results]
        return {stage: self.results[f"train-{stage}"]["model"] for stage in stages}

    def new(self) -> dict[str, str]:
        """Stage → its new model, merged where that was not skipped."""
        merged = self.results.get("merge")
        return {stage: merged[stage] if merged else tuned for stage, tuned in self.tuned().items()}

    def taken(self) -> dict[str, str]:
        """Those of them that the gate lets pass."""
        passed = self.results["gate"]["recommended"]
        return {stage: one for stage, one in self.new().items() if passed in (stage, "both")}

    def target(self) -> str:
        """The version that is to be searched."""
        if "encoder" in self.taken():
            return str(self.results["encode"]["version"])
        return self.version

    def passages(self) -> int:
        """How many the version holds."""
        if self._count is None:
            with self.store.open(self.version) as index:
                self._count = index.status().points
        return self._count

    def _general(self) -> list[str]:
        sets = [
            queries_of(read_set(one, self.settings.general_split)) for one in self.settings.general
        ]
        return [digest_of([one.name, one.queries, one.qrels]) for one in sets]

    def _fingerprints(self, models: Mapping[str, str]) -> Values:
        return {stage: self.fingerprint(name, stage) for stage, name in models.items()}

    def fingerprint(self, name: str | None, kind: Any) -> str | None:
        """Of a model's weights and settings; None of none."""
        return None if name is None else resolve(name, kind).fingerprint

    def tell(self, *notices: str) -> None:
        """Say what is to be known while a step is done."""
        if self.on_notice is not None:
            for notice in notices:
                self.on_notice(notice)

    def report(self, what: str, done: int, total: int | None) -> None:
        """Say how far a step is."""
        if self.progress is not None:
            self.progress(what, done, total)


def reranker_searched_with(manifest: Manifest, settings: AdaptSettings) -> str | None:
    """The name of the second stage that searches of a collection take; None for none."""
    asked = settings.reranker
    if asked == AUTO and manifest.tuning.defaults.reranker is not None:
        asked = manifest.tuning.defaults.reranker
    device = first_device(settings.model_options)
    return choose_models(manifest.encoder.model, asked, device=device).reranker
