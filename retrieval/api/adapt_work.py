"""What each step of an adaptation does, called with what is known so far and the step's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from retrieval._files import atomic_write, os_errors
from retrieval.api.adapt_settings import Step
from retrieval.api.adapt_state import Values
from retrieval.api.adapt_steps import AdaptSteps
from retrieval.api.calibrate import calibrate
from retrieval.api.gate import gate
from retrieval.api.measure_stages import JudgedCollection
from retrieval.api.merge import merge
from retrieval.api.mine import mine
from retrieval.api.reencode import reencode
from retrieval.errors import CollectionNotFound, InvalidInput
from retrieval.evaluation.gate_report import advice, gate_as_dict, gate_as_text
from retrieval.models.defaults import NONE
from retrieval.search.options import SearchArguments
from retrieval.training.data.flag_jsonl import write_flag_jsonl
from retrieval.training.data.reading import load_examples
from retrieval.training.run import train_encoder, train_reranker
from retrieval.training.settings import EncoderTraining, RerankerTraining, make_settings
from retrieval.types.tuning import NO_TUNING

Work = Callable[[AdaptSteps, Path], Values]

_DATA = "train.jsonl"
_MODEL = "model"
_VERSION = "version.txt"


def _split(steps: AdaptSteps, folder: Path) -> Values:
    train, dev = steps.labels.train, steps.labels.dev
    left_out = f"; {steps.labels.leaked:,} that are nearly in both are left out"
    return {
        "text": f"{len(train.queries):,} queries to train on, {len(dev.queries):,} to judge by"
        + (left_out if steps.labels.leaked else ""),
        "train": list(train.queries),
        "dev": list(dev.queries),
    }


def _mine(steps: AdaptSteps, folder: Path) -> Values:
    settings, teacher = steps.settings.mining()
    report = mine(
        steps.labels.train, folder / _DATA, collection=steps.version, store=steps.store,
        tenant=steps.tenant, teacher=teacher or steps.reranker or NONE, settings=settings,
        progress=steps.progress, model_options=steps.settings.model_options,
    )  # fmt: skip
    steps.tell(*report.notices)
    return {
        "text": f"{report.negatives:,} hard negatives for {report.queries:,} queries",
        "file": str(folder / _DATA),
        "sha256": report.output_sha256,
        "queries": report.queries,
        "negatives": report.negatives,
    }


def _train_encoder(steps: AdaptSteps, folder: Path) -> Values:
    return _train(steps, EncoderTraining, steps.encoder, folder, steps.results["mine"]["file"])


def _train_reranker(steps: AdaptSteps, folder: Path) -> Values:
    """A reranker learns from differences: queries without negatives teach it nothing."""
    assert steps.reranker is not None
    mined = load_examples(steps.results["mine"]["file"])
    usable = [one for one in mined if one.negatives]
    if not usable:
        raise InvalidInput(
            f"none of {len(mined):,} queries has a hard negative, so that the reranker has "
            "nothing to learn from",
            fix="Mine deeper ([mine] rank_to of the recipe), or leave it out: --skip "
            "train-reranker.",
        )
    if len(usable) < len(mined):
        steps.tell(
            f"{len(mined) - len(usable):,} of {len(mined):,} queries have no hard negative, "
            "and the reranker is not trained on them."
        )
    write_flag_jsonl(folder / _DATA, usable)
    return _train(steps, RerankerTraining, steps.reranker, folder, str(folder / _DATA))


def _train(steps: AdaptSteps, kind: Any, base: str, folder: Path, data: str) -> Values:
    values = {
        **steps.settings.recipe.get(kind.stage, {}),
        "model": base,
        "train_data": (data,),
        "output_dir": str(folder / _MODEL),
    }
    settings = make_settings(kind, values, "the recipe")
    run: Any = train_encoder if kind is EncoderTraining else train_reranker
    report = run(settings, on_notice=steps.on_notice, on_line=steps.on_notice)
    measured = ""
    if report.before is not None and report.after is not None:
        measured = f"; nDCG@10 on held-out examples {report.before:.4f} → {report.after:.4f}"
    return {
        "text": f"{report.steps:,} steps on {report.queries:,} queries{measured}",
        "model": str(folder / _MODEL),
        "report": report.as_dict(),
    }


def _merge(steps: AdaptSteps, folder: Path) -> Values:
    share = steps.settings.merge_share
    found: Values = {}
    for stage, tuned in steps.tuned().items():
        base = steps.encoder if stage == "encoder" else steps.reranker
        assert base is not None
        report = merge(
            [tuned], folder / stage, weights=[share, 1 - share], base=base,
            kind="encoder" if stage == "encoder" else "reranker",
            overwrite=(folder / stage).exists(),
        )  # fmt: skip
        steps.tell(*report.notices)
        found[stage] = str(folder / stage)
    return {"text": f"{share:g} of the tuned, {1 - share:g} of the model before", **found}


def _encode(steps: AdaptSteps, folder: Path) -> Values:
    new = steps.new()["encoder"]
    version = _begun_version(steps, folder.parent / _VERSION, steps.fingerprint(new, "encoder"))
    done = reencode(
        steps.version, new, version, store=steps.store,
        options=steps.settings.model_options,
        progress=lambda count, total: steps.report("encoding", count, total),
    )  # fmt: skip
    if steps.store.manifest(version).tuning == NO_TUNING:
        steps.store.set_defaults(version, steps.manifest.tuning.defaults)
    return {
        "text": f"{done.passages:,} passages with the new encoder's vectors in {version}",
        "version": version,
    }


def _gate(steps: AdaptSteps, folder: Path) -> Values:
    settings, new = steps.settings, steps.new()
    versions: tuple[str, ...] = (steps.version,)
    if "encoder" in new:
        versions += (steps.results["encode"]["version"],)
    dev = JudgedCollection(steps.labels.dev, steps.store, versions, steps.tenant)
    report = gate(
        (steps.encoder, steps.reranker),
        (new.get("encoder", steps.encoder), new.get("reranker", steps.reranker)),
        task=dev, general=settings.general, general_split=settings.general_split,
        rule=settings.rule, candidates=settings.candidates, options=settings.model_options,
        on_search=lambda what, done, total: steps.report(what, done, total),
    )  # fmt: skip
    return {
        "text": advice(report),
        "passed": report.passed,
        "recommended": report.recommended,
        "report": gate_as_dict(report),
        "table": gate_as_text(report),
    }


def _calibrate(steps: AdaptSteps, folder: Path) -> Values:
    version, taken = steps.target(), steps.taken()
    reranker = taken.get("reranker", steps.reranker)
    search: SearchArguments = {} if steps.tenant is None else {"tenant": steps.tenant}
    try:
        report = calibrate(
            steps.labels.dev, version, store=steps.store, reranker=reranker or NONE,
            progress=lambda done, total: steps.report("calibrating", done, total),
            model_options=steps.settings.model_options,
            **search,
        )  # fmt: skip
    except InvalidInput as error:  # too few labels
        return {"text": f"not calibrated: {error.problem}", "calibrated": False}
    return {
        "text": f"relevance is a probability, learned from {report.calibration.queries:,} queries",
        "calibrated": True,
    }


def _switch(steps: AdaptSteps, folder: Path) -> Values:
    version, taken = steps.target(), steps.taken()
    collection = steps.manifest.collection
    if "reranker" in taken:
        defaults = steps.store.manifest(version).tuning.defaults
        steps.store.set_defaults(version, replace(defaults, reranker=taken["reranker"]))
    if steps.store.current(collection) != version:
        steps.store.switch(collection, version)
    back = f" (back: retrieval rollback {collection})" if "encoder" in taken else ""
    return {
        "text": f"searches of {collection} use {version} with {' and '.join(taken)}{back}",
        "version": version,
        "models": dict(taken),
    }


def _begun_version(steps: AdaptSteps, noted: Path, fingerprint: str | None) -> str:
    """The version that is being built with this encoder; one of another encoder that an
    earlier call has built, and nothing is searched with, goes."""
    collection = steps.manifest.collection
    if noted.is_file():
        version = noted.read_text("utf-8").strip()
        with contextlib.suppress(CollectionNotFound):
            if steps.store.manifest(version).encoder.fingerprint == fingerprint:
                return version
            if steps.store.current(collection) != version:
                steps.store.delete(version)
    version = steps.store.next_version(collection)
    with os_errors(f"write {noted}"), atomic_write(noted) as file:
        file.write(version)
    return version


WORKS: Mapping[Step, Work] = MappingProxyType(
    {
        "split": _split,
        "mine": _mine,
        "train-encoder": _train_encoder,
        "train-reranker": _train_reranker,
        "merge": _merge,
        "encode": _encode,
        "gate": _gate,
        "calibrate": _calibrate,
        "switch": _switch,
    }
)
"""Step → what does it."""
