"""The steps of an adaptation: what each one's result hangs on, and its work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write, os_errors
from retrieval.api.adapt_settings import AdaptSettings, Labels, Step
from retrieval.api.adapt_state import Values, digest_of
from retrieval.api.calibrate import calibrate
from retrieval.api.gate import gate, queries_of, read_set
from retrieval.api.measure_stages import JudgedCollection
from retrieval.api.merge import merge
from retrieval.api.mine import mine
from retrieval.api.reencode import reencode
from retrieval.errors import CollectionNotFound, InvalidInput
from retrieval.evaluation.gate_report import advice, gate_as_dict, gate_as_text
from retrieval.index.store import Store
from retrieval.models.defaults import AUTO, NONE, choose_models
from retrieval.models.options import first_device
from retrieval.models.resolve import resolve
from retrieval.search.options import SearchArguments
from retrieval.training.data.flag_jsonl import write_flag_jsonl
from retrieval.training.data.reading import load_examples
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.run import train_encoder, train_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining, make_settings
from retrieval.types import Manifest
from retrieval.types.tuning import NO_TUNING

_DATA = "train.jsonl"
_MODEL = "model"
_VERSION = "version.txt"
_TRAINED = ("encoder", "reranker")


class AdaptSteps:
    """The work of an adaptation.

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
        self._works: dict[Step, Callable[[Path], Values]] = {
            "split": self._split,
            "mine": self._mine,
            "train-encoder": self._train_encoder,
            "train-reranker": self._train_reranker,
            "merge": self._merge,
            "encode": self._encode,
            "gate": self._gate,
            "calibrate": self._calibrate,
            "switch": self._switch,
        }

    def work(self, step: Step) -> Callable[[Path], Values]:
        """What does a step, called with its folder."""
        return self._works[step]

    def left_out(self, step: Step) -> str | None:
        """Why a step is not done; None where it is."""
        if step in self.settings.skip:
            return "skipped, as you asked"
        if step == "train-reranker" and self.reranker is None:
            return "the collection is searched without a reranker"
        if step == "encode" and "encoder" not in self._new():
            return "the encoder is not new, so the version stays"
        if step in ("calibrate", "switch") and not self._taken():
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
            teacher = self._fingerprint(self.reranker, "reranker")
            return {**held, "train": labels["train"], "teacher": teacher, **recipe["mine"]}
        if step in ("train-encoder", "train-reranker"):
            stage = step.removeprefix("train-")
            base = self._fingerprint(self.encoder if stage == "encoder" else self.reranker, stage)
            return {"data": self.results["mine"]["sha256"], "base": base, **recipe[stage]}
        if step == "merge":
            return {"models": self._fingerprints(self._tuned()), "share": settings.merge_share}
        if step == "encode":
            return {**held, "encoder": self._fingerprints(self._new())["encoder"]}
        if step == "gate":
            return {
                **held, "models": self._fingerprints(self._new()), "dev": labels["dev"],
                "general": self._general(), "rule": repr(settings.rule),
                "candidates": settings.candidates,
            }  # fmt: skip
        return {"dev": labels["dev"], "taken": self._fingerprints(self._taken()),
                "version": self._target()}  # fmt: skip

    def _split(self, folder: Path) -> Values:
        train, dev = self.labels.train, self.labels.dev
        left_out = f"; {self.labels.leaked:,} that are nearly in both are left out"
        return {
            "text": f"{len(train.queries):,} queries to train on, {len(dev.queries):,} to judge by"
            + (left_out if self.labels.leaked else ""),
            "train": list(train.queries),
            "dev": list(dev.queries),
        }

    def _mine(self, folder: Path) -> Values:
        report = mine(
            self.labels.train, folder / _DATA, collection=self.version, store=self.store,
            tenant=self.tenant, teacher=self.reranker or NONE,
            settings=MiningSettings(**self.settings.recipe.get("mine", {})),
            progress=self.progress, model_options=self.settings.model_options,
        )  # fmt: skip
        self._tell(*report.notices)
        return {
            "text": f"{report.negatives:,} hard negatives for {report.queries:,} queries",
            "file": str(folder / _DATA),
            "sha256": report.output_sha256,
            "queries": report.queries,
            "negatives": report.negatives,
        }

    def _train_encoder(self, folder: Path) -> Values:
        return self._train(EncoderTraining, self.encoder, folder, self.results["mine"]["file"])

    def _train_reranker(self, folder: Path) -> Values:
        """A reranker learns from differences: queries without negatives teach it nothing."""
        assert self.reranker is not None
        mined = load_examples(self.results["mine"]["file"])
        usable = [one for one in mined if one.negatives]
        if not usable:
            raise InvalidInput(
                f"none of {len(mined):,} queries has a hard negative, so that the reranker has "
                "nothing to learn from",
                fix="Mine deeper ([mine] rank_to of the recipe), or leave it out: --skip "
                "train-reranker.",
            )
        if len(usable) < len(mined):
            self._tell(
                f"{len(mined) - len(usable):,} of {len(mined):,} queries have no hard negative, "
                "and the reranker is not trained on them."
            )
        write_flag_jsonl(folder / _DATA, usable)
        return self._train(RerankerTraining, self.reranker, folder, str(folder / _DATA))

    def _train(self, kind: Any, base: str, folder: Path, data: str) -> Values:
        values = {
            **self.settings.recipe.get(kind.stage, {}),
            "model": base,
            "train_data": (data,),
            "output_dir": str(folder / _MODEL),
        }
        settings = make_settings(kind, values, "the recipe")
        run: Any = train_encoder if kind is EncoderTraining else train_reranker
        report = run(settings, on_notice=self.on_notice, on_line=self.on_notice)
        measured = ""
        if report.before is not None and report.after is not None:
            measured = f"; nDCG@10 on held-out examples {report.before:.4f} → {report.after:.4f}"
        return {
            "text": f"{report.steps:,} steps on {report.queries:,} queries{measured}",
            "model": str(folder / _MODEL),
            "report": report.as_dict(),
        }

    def _merge(self, folder: Path) -> Values:
        share = self.settings.merge_share
        found: Values = {}
        for stage, tuned in self._tuned().items():
            base = self.encoder if stage == "encoder" else self.reranker
            assert base is not None
            report = merge(
                [tuned], folder / stage, weights=[share, 1 - share], base=base,
                kind="encoder" if stage == "encoder" else "reranker",
                overwrite=(folder / stage).exists(),
            )  # fmt: skip
            self._tell(*report.notices)
            found[stage] = str(folder / stage)
        return {"text": f"{share:g} of the tuned, {1 - share:g} of the model before", **found}

    def _encode(self, folder: Path) -> Values:
        new = self._new()["encoder"]
        version = self._begun_version(folder.parent / _VERSION, self._fingerprint(new, "encoder"))
        done = reencode(
            self.version, new, version, store=self.store,
            options=self.settings.model_options,
            progress=lambda count, total: self._progress("encoding", count, total),
        )  # fmt: skip
        if self.store.manifest(version).tuning == NO_TUNING:
            self.store.set_defaults(version, self.manifest.tuning.defaults)
        return {
            "text": f"{done.passages:,} passages with the new encoder's vectors in {version}",
            "version": version,
        }

    def _gate(self, folder: Path) -> Values:
        settings, new = self.settings, self._new()
        versions: tuple[str, ...] = (self.version,)
        if "encoder" in new:
            versions += (self.results["encode"]["version"],)
        dev = JudgedCollection(self.labels.dev, self.store, versions, self.tenant)
        report = gate(
            (self.encoder, self.reranker),
            (new.get("encoder", self.encoder), new.get("reranker", self.reranker)),
            task=dev, general=settings.general, general_split=settings.general_split,
            rule=settings.rule, candidates=settings.candidates, options=settings.model_options,
            on_search=lambda what, done, total: self._progress(what, done, total),
        )  # fmt: skip
        return {
            "text": advice(report),
            "passed": report.passed,
            "recommended": report.recommended,
            "report": gate_as_dict(report),
            "table": gate_as_text(report),
        }

    def _calibrate(self, folder: Path) -> Values:
        version, taken = self._target(), self._taken()
        reranker = taken.get("reranker", self.reranker)
        search: SearchArguments = {} if self.tenant is None else {"tenant": self.tenant}
        try:
            report = calibrate(
                self.labels.dev, version, store=self.store, reranker=reranker or NONE,
                progress=lambda done, total: self._progress("calibrating", done, total),
                model_options=self.settings.model_options,
                **search,
            )  # fmt: skip
        except InvalidInput as error:  # too few labels
            return {"text": f"not calibrated: {error.problem}", "calibrated": False}
        return {
            "text": f"relevance is a probability, learned from {report.calibration.queries:,} "
            "queries",
            "calibrated": True,
        }

    def _switch(self, folder: Path) -> Values:
        version, taken = self._target(), self._taken()
        collection = self.manifest.collection
        if "reranker" in taken:
            defaults = self.store.manifest(version).tuning.defaults
            self.store.set_defaults(version, replace(defaults, reranker=taken["reranker"]))
        if self.store.current(collection) != version:
            self.store.switch(collection, version)
        back = f" (back: retrieval rollback {collection})" if "encoder" in taken else ""
        return {
            "text": f"searches of {collection} use {version} with {' and '.join(taken)}{back}",
            "version": version,
            "models": dict(taken),
        }

    def _tuned(self) -> dict[str, str]:
        """Stage → the folder of its tuned model."""
        stages = [stage for stage in _TRAINED if f"train-{stage}" in self.results]
        return {stage: self.results[f"train-{stage}"]["model"] for stage in stages}

    def _new(self) -> dict[str, str]:
        """Stage → its new model, merged where that was not skipped."""
        merged = self.results.get("merge")
        return {stage: merged[stage] if merged else tuned for stage, tuned in self._tuned().items()}

    def _taken(self) -> dict[str, str]:
        """Those of them that the gate lets pass."""
        passed = self.results["gate"]["recommended"]
        return {stage: one for stage, one in self._new().items() if passed in (stage, "both")}

    def _target(self) -> str:
        """The version that is to be searched."""
        if "encoder" in self._taken():
            return str(self.results["encode"]["version"])
        return self.version

    def _begun_version(self, noted: Path, fingerprint: str | None) -> str:
        """The version that is being built with this encoder; one of another encoder that an
        earlier call has built, and nothing is searched with, goes."""
        collection = self.manifest.collection
        if noted.is_file():
            version = noted.read_text("utf-8").strip()
            with contextlib.suppress(CollectionNotFound):
                if self.store.manifest(version).encoder.fingerprint == fingerprint:
                    return version
                if self.store.current(collection) != version:
                    self.store.delete(version)
        version = self.store.next_version(collection)
        with os_errors(f"write {noted}"), atomic_write(noted) as file:
            file.write(version)
        return version

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
        return {stage: self._fingerprint(name, stage) for stage, name in models.items()}

    def _fingerprint(self, name: str | None, kind: Any) -> str | None:
        return None if name is None else resolve(name, kind).fingerprint

    def _tell(self, *notices: str) -> None:
        if self.on_notice is not None:
            for notice in notices:
                self.on_notice(notice)

    def _progress(self, what: str, done: int, total: int | None) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


def reranker_searched_with(manifest: Manifest, settings: AdaptSettings) -> str | None:
    """The name of the second stage that searches of a collection take; None for none."""
    asked = settings.reranker
    if asked == AUTO and manifest.tuning.defaults.reranker is not None:
        asked = manifest.tuning.defaults.reranker
    device = first_device(settings.model_options)
    return choose_models(manifest.encoder.model, asked, device=device).reranker
