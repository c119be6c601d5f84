"""An adaptation from labels to a switched collection, killed and gone on with, on tiny models."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training.training_data import kill_when

import retrieval
from retrieval import Store
from retrieval.api import adapt_work
from retrieval.api.adapt import AdaptReport, adapt, plan
from retrieval.api.adapt_settings import AdaptSettings
from retrieval.cli.main import run
from retrieval.errors import InvalidInput
from retrieval.evaluation.gate import GateRule
from retrieval.types import SearchDefaults

RUNNING: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
SHORT: dict[str, Any] = {
    "mine": {"negatives": 3, "rank_to": 30, "relative_margin": 0.0},
    "encoder": {"max_steps": 2, "per_device_train_batch_size": 4, "train_group_size": 3,
                "device": "cpu", "tensorboard": False, "warmup_ratio": 0},
    "reranker": {"max_steps": 2, "per_device_train_batch_size": 2, "train_group_size": 3,
                 "device": "cpu", "tensorboard": False, "warmup_ratio": 0},
}  # fmt: skip
ANYTHING = GateRule("not-worse", 1.0)
NOUNS = ["fox", "dog", "path", "tree", "city", "model", "text"]
PLACES = ["place", "capital", "directory", "index", "vector"]


@dataclass(frozen=True)
class Bench:
    """A store with a collection, its labels, and where the adaptation works."""

    store: Store
    labels: Path
    folder: Path
    reranker: Path

    def settings(self, **changes: Any) -> AdaptSettings:
        given: dict[str, Any] = {
            "reranker": str(self.reranker), "recipe": SHORT, "rule": ANYTHING,
            "model_options": RUNNING, "candidates": 5, "dev_share": 0.3,
        }  # fmt: skip
        return AdaptSettings(**{**given, **changes})

    def adapt(self, **changes: Any) -> AdaptReport:
        return adapt(
            "docs", self.labels, settings=self.settings(**changes), folder=self.folder,
            store=self.store,
        )  # fmt: skip


def make_bench(tmp_path: Path, encoder: Path, reranker: Path, *, rounds: int = 1) -> Bench:
    """`rounds` times 35 documents, and a question for each."""
    source, rows = tmp_path / "source", []
    source.mkdir()
    pairs = [(noun, place) for noun in NOUNS for place in PLACES]
    for number, (noun, place) in enumerate(pairs * rounds):
        name = f"d{number}.txt"
        more = " ".join(random.Random(number).choices(NOUNS + PLACES, k=12))
        (source / name).write_text(f"The {noun} sleeps in the {place}. 北京 {more}.", "utf-8")
        asked = f"where does the {noun} of the {place} sleep?"
        rows.append((asked if rounds == 1 else f"{asked} {more}") + f",{name}")
    random.Random(0).shuffle(rows)
    labels = tmp_path / "labels.csv"
    labels.write_text("\ufeffquery,relevant\r\n" + "".join(f"{row}\r\n" for row in rows), "utf-8")
    store = Store(tmp_path / "store")
    retrieval.ingest(source, "docs", store=store, encoder=str(encoder), **RUNNING)
    return Bench(store, labels, tmp_path / "adapt", reranker)


@pytest.fixture
def bench(tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path) -> Bench:
    return make_bench(tmp_path, tiny_bert_encoder, tiny_bert_reranker)


def write_recipe(path: Path, tables: dict[str, Any]) -> Path:
    lines = []
    for name, own in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    path.write_text("\n".join(lines), "utf-8")
    return path


def adapt_command(bench: Bench, recipe: Path, *more: str) -> list[str]:
    return [
        "adapt", "docs", "--labels", str(bench.labels), "--store", str(bench.store.location),
        "--folder", str(bench.folder), "--recipe", str(recipe), "--reranker", str(bench.reranker),
        "--dev-share", "0.3", "--candidates", "5", "--engine", "transformers", "--dtype", "fp32",
        *more,
    ]  # fmt: skip


def states(report: AdaptReport) -> dict[str, str]:
    return {one.step: one.state for one in report.steps}


def test_labels_become_models_that_are_searched_with(bench: Bench) -> None:
    bench.store.set_defaults("docs", SearchDefaults(candidates=9))
    report = bench.adapt()
    assert set(states(report).values()) == {"done"}
    assert report.recommended is not None
    # the labels' parts have nothing in common, and are all there is
    split = report.steps[0].result
    assert not set(split["train"]) & set(split["dev"])
    assert len(split["train"]) + len(split["dev"]) == len(NOUNS) * len(PLACES)
    assert {"encoder", "reranker", "both"} == {row["new"] for row in report.gate["rows"]}
    taken = report.steps[-1].result["models"]
    manifest = bench.store.manifest("docs")
    if "encoder" in taken:
        assert bench.store.current("docs") == report.version == "docs@v2"
        assert manifest.encoder.model == taken["encoder"]
        assert manifest.encoder.fingerprint != bench.store.manifest("docs@v1").encoder.fingerprint
    assert manifest.tuning.defaults.candidates == 9
    assert manifest.tuning.defaults.reranker == taken.get("reranker")
    with retrieval.open("docs", store=bench.store, **RUNNING) as retriever:
        result = retriever.search("where does the fox sleep?")
    assert result.encoder == manifest.encoder.model
    text = report.as_text()
    assert "95% interval" in text
    assert "split           done" in text
    json.dumps(report.as_dict())
    again = bench.adapt()
    assert set(states(again).values()) == {"unchanged"}
    assert again.gate == report.gate
    assert [one.state for one in plan("docs", bench.labels, settings=bench.settings(),
            folder=bench.folder, store=bench.store)] == ["done"] * 9  # fmt: skip


@pytest.mark.parametrize("where", ["train_encoder", "reencode"])
def test_a_killed_run_goes_on_where_it_was(
    bench: Bench, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's work is done, and the process dies before it is noted."""
    work = getattr(adapt_work, where)

    def dies(*arguments: Any, **options: Any) -> Any:
        work(*arguments, **options)
        raise KeyboardInterrupt

    skip = ["train-reranker"] if where != "train_encoder" else ["train-reranker", "merge"]
    with monkeypatch.context() as patch:
        patch.setattr(adapt_work, where, dies)
        with pytest.raises(KeyboardInterrupt):
            bench.adapt(skip=skip)
    assert bench.store.current("docs") == "docs@v1"
    report = bench.adapt(skip=skip)
    step = {"train_encoder": "train-encoder", "reencode": "encode"}.get(where, where)
    expected = states(report)
    names = list(expected)
    before = [name for name in names[: names.index(step)] if expected[name] != "skipped"]
    assert {expected[name] for name in before} == {"unchanged"}
    assert expected[step] == "done"
    assert expected["switch"] == "done"
    assert bench.store.versions("docs") == ["docs@v1", "docs@v2"]
    assert bench.store.current("docs") == "docs@v2"


def test_changed_inputs_do_again_what_hangs_on_them(bench: Bench) -> None:
    skip = ["train-reranker", "switch"]
    bench.adapt(skip=skip)
    again = bench.adapt(skip=skip, merge_share=0.25)
    found = states(again)
    assert [found[one] for one in ("split", "mine", "train-encoder")] == ["unchanged"] * 3
    assert [found[one] for one in ("merge", "encode", "gate")] == ["done"] * 3
    assert len(bench.store.versions("docs")) == 2  # the one of before is gone
    stricter = states(bench.adapt(skip=skip, merge_share=0.25, rule=GateRule("better", 0.0)))
    assert stricter["encode"] == "unchanged"
    assert stricter["gate"] == "done"


def test_the_next_version_is_calibrated_by_what_was_held_out(
    tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    """Enough labels: relevance is a probability for the new models; the old ones keep theirs."""
    bench = make_bench(tmp_path, tiny_bert_encoder, tiny_bert_reranker, rounds=5)
    recipe = {**SHORT, "mine": {**SHORT["mine"], "teacher": "encoder"}}
    report = bench.adapt(dev_share=0.5, reranker="none", candidates=30, recipe=recipe)
    found = next(one for one in report.steps if one.step == "calibrate")
    assert found.result["calibrated"], found.text
    assert "relevance is a probability" in found.text
    new, old = (bench.store.manifest(name).tuning for name in ("docs", "docs@v1"))
    assert new.calibration is not None
    assert new.calibration.queries >= 50
    assert old.calibration is None
    with retrieval.open("docs", store=bench.store, reranker="none", **RUNNING) as retriever:
        hits = retriever.search("where does the fox of the place sleep?").hits
    assert hits
    assert all(hit.relevance is not None and 0 <= hit.relevance <= 1 for hit in hits)


@pytest.mark.slow
def test_sigkill_in_training_and_in_encoding(
    tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    """The command is killed in two of its steps; run a third time it ends as one never killed."""
    made = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        made[name] = make_bench(tmp_path / name, tiny_bert_encoder, tiny_bert_reranker)
    recipe = write_recipe(tmp_path / "recipe.toml", {**SHORT, "encoder": {
        **SHORT["encoder"], "max_steps": 12, "eval_steps": 2}})  # fmt: skip
    more = ["--skip", "train-reranker", "--need", "not-worse", "--most-loss", "1"]
    killed = made["killed"]
    for reached in (
        lambda: list(killed.folder.glob("train-encoder/*.training/checkpoint-4/*state.json")),
        lambda: (killed.folder / "encode" / "begun.json").exists(),
    ):
        kill_when(reached, ["-m", "retrieval.cli", *adapt_command(killed, recipe, *more)])
        assert killed.store.current("docs") == "docs@v1"
    for one in made.values():
        assert run(adapt_command(one, recipe, *more)) == 0
        assert one.store.current("docs") == "docs@v2"
    models = [one.store.manifest("docs").encoder for one in made.values()]
    assert models[0].fingerprint == models[1].fingerprint
    gates = [json.loads((one.folder / "gate" / "done.json").read_text()) for one in made.values()]
    assert gates[0]["result"]["report"]["rows"] == gates[1]["result"]["report"]["rows"]


def test_what_the_gate_refuses_is_never_searched_with(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", SHORT)
    command = adapt_command(bench, recipe, "--skip", "train-encoder")
    assert run([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "train-encoder   left out" in shown
    assert "mine            to do, about" in shown
    assert not bench.folder.exists()
    code = run([*command, "--json", str(tmp_path / "adapt.json")])
    written = json.loads((tmp_path / "adapt.json").read_text("utf-8"))
    assert code == (3 if written["recommended"] is None else 0)
    assert written["recommended"] is None
    assert [one["state"] for one in written["steps"]][-2:] == ["stopped", "stopped"]
    assert bench.store.manifest("docs").tuning.defaults.reranker is None
    assert bench.store.versions("docs") == ["docs@v1"]
    assert "Keep the models before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": ["gate"]}, "a step to skip is 'gate'"),
        ({"skip": ["train-encoder", "train-reranker"]}, "nothing would be new"),
        ({"merge_share": 0.0}, "merge_share is 0.0"),
        ({"recipe": {"gate": {}}}, "a table of the recipe is 'gate'"),
        ({"recipe": {"encoder": {"model": "x"}}}, r"\[encoder\] of the recipe has model"),
        ({"recipe": {"mine": 3}}, "expected a table"),
        ({"recipe": {"mine": {"teacher": 3}}}, "teacher is a int, expected text"),
        ({"recipe": {"mine": {"depth": 3}}}, r"\[mine\] of the recipe has 'depth'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        AdaptSettings(**changes)


def test_a_folder_is_of_one_collection_and_version(
    bench: Bench, make_tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.folder.mkdir()
    (bench.folder / "mine.txt").write_text("something else", "utf-8")
    with pytest.raises(InvalidInput, match="holds something else than an adaptation"):
        bench.adapt()
    (bench.folder / "mine.txt").unlink()

    def dies(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adapt_work, "mine", dies)
        with pytest.raises(KeyboardInterrupt):
            bench.adapt()
    retrieval.ingest(
        [retrieval.Document("a", "Soup.")], "other", store=bench.store,
        encoder=str(make_tiny_model("bert", "encoder", seed=4)), **RUNNING,
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="is of the collection 'docs', and 'other' was named"):
        adapt("other", bench.labels, settings=bench.settings(), folder=bench.folder,
              store=bench.store)  # fmt: skip
    bench.store.delete("docs")
    retrieval.ingest(
        [retrieval.Document("d0.txt", "Soup.")], "docs", store=bench.store,
        encoder=str(make_tiny_model("bert", "encoder", seed=4)), **RUNNING,
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="made anew since the adaptation"):
        bench.adapt()
