"""`retrieval merge`: weights by name, by loss, by a sweep; what is printed and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.merging_models import tuned

from retrieval.api.merge import merge
from retrieval.api.merge_sweep import judged_for_choosing, sweep_merges
from retrieval.cli.main import run
from retrieval.errors import InvalidInput
from retrieval.models.resolve import resolve
from retrieval.training.examples import TrainingExample

DOCUMENTS = {
    "fox": "The quick brown fox jumps over the lazy dog.",
    "copy": "def copy(source, target): copies a whole directory tree to another place.",
    "score": "A cross-encoder reads the query and the passage together and gives one score.",
    "beijing": "北京是中国的首都，上海是中国最大的城市。",
    "path": "Return the path of the file; raise an error when the directory does not exist.",
}
QUERIES = {"q1": "the quick brown fox", "q2": "北京是中国的首都", "q3": "copies a directory"}
QRELS = {"q1": "fox", "q2": "beijing", "q3": "copy"}


def judged_folder(folder: Path, *splits: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": key, "title": "", "text": text} for key, text in DOCUMENTS.items()]
    write_lines(folder / "corpus.jsonl", rows)
    write_lines(folder / "queries.jsonl", [{"_id": k, "text": v} for k, v in QUERIES.items()])
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, d in QRELS.items())]
    for split in splits:
        (folder / "qrels" / f"{split}.tsv").write_text("\r\n".join(lines) + "\r\n", "utf-8")
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def encoders(tiny_bert_encoder: Path, tmp_path: Path) -> list[str]:
    """A tuned one, and the original."""
    folders = [tuned(tiny_bert_encoder, tmp_path / f"model-{seed}", seed=seed) for seed in (0, 1)]
    return list(map(str, folders))


@pytest.fixture
def rerankers(tiny_bert_reranker: Path, tmp_path: Path) -> list[str]:
    folders = [tuned(tiny_bert_reranker, tmp_path / f"head-{seed}", seed=seed) for seed in (0, 1)]
    return list(map(str, folders))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert run(["merge", *arguments]) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_command(encoders: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    text, _ = printed(capsys, *encoders, "--out", str(out), "--weights", "0.7,0.3")
    assert "0.7" in text
    assert f"in {out}" in text
    text, _ = printed(capsys, *encoders, "--out", str(out), "--json", "--overwrite")
    report = json.loads(text)
    assert report["kind"] == "encoder"
    assert [one["weight"] for one in report["sources"]] == [0.5, 0.5]
    assert report["fingerprint"] == resolve(out, "encoder").fingerprint
    assert report["weights"] == {"found": "equal", "examples": 0, "temperature": None}
    assert (report["method"], report["dtype"]) == ("linear", "fp32")
    _, err = printed(capsys, *encoders, "--out", str(out), code=2)
    assert "is not empty" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "0.7,0.2"], "sum to 0.9, expected 1"),
        (["--weights", "0.7"], "1 weights were given for 2 models"),
        (["--weights", "best"], "expected numbers joined by commas, equal or loss"),
        (["--weights", "1.5,-0.5"], "--extrapolate"),
        (["--weights", "loss"], "without examples"),
        (["--examples", "nowhere.jsonl"], "the weights do not come from losses"),
        (["--task", "somewhere"], "--task was given without --sweep"),
        (["--limit", "3"], "--limit was given without --sweep"),
        (["--sweep", "0,1"], "without --task"),
        (["--sweep", "0,1", "--weights", "equal"], "--weights was given with --sweep"),
        (["--sweep", "0,x", "--task", "t"], "expected numbers from 0 to 1"),
        (["--sweep", "0,…", "--task", "t"], "expected numbers from 0 to 1"),
        (["--instruction-of", "other"], "which is none of the models"),
    ],
)
def test_what_does_not_go_together(
    encoders: list[str], tmp_path: Path, capsys: Any, arguments: list[str], message: str
) -> None:
    _, err = printed(capsys, *encoders, "--out", str(tmp_path / "out"), *arguments, code=2)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_the_two_variants_of_bge(encoders: list[str], tmp_path: Path, capsys: Any) -> None:
    """One tuned with the instruction, one without: the merged one takes the instruction."""
    from dataclasses import replace

    from retrieval.training.saving import write_encoder_files

    spec = resolve(Path(encoders[0]), "encoder").spec
    write_encoder_files(Path(encoders[0]), replace(spec, query_instruction="指令："))
    write_encoder_files(Path(encoders[1]), spec)
    _, err = printed(capsys, *encoders, "--out", str(tmp_path / "out"))
    assert "the instruction before queries differs" in err
    assert resolve(tmp_path / "out", "encoder").spec.query_instruction == "指令："
    arguments = ("--instruction-of", encoders[1], "--out", str(tmp_path / "bare"))
    printed(capsys, *encoders, *arguments)
    assert resolve(tmp_path / "bare", "encoder").spec.query_instruction == ""
    base = ("--base", encoders[0], "--out", str(tmp_path / "with-base"))
    printed(capsys, encoders[1], *base)
    assert resolve(tmp_path / "with-base", "encoder").spec.query_instruction == "指令："


@pytest.mark.parametrize("kind", ["encoders", "rerankers"])
def test_weights_by_loss(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: Any, kind: str
) -> None:
    models = request.getfixturevalue(kind)
    rows = [
        {"query": QUERIES[key], "pos": [DOCUMENTS[own]], "neg": [DOCUMENTS["path"]]}
        for key, own in QRELS.items()
    ]
    examples = str(write_lines(tmp_path / "train.jsonl", rows))
    out = str(tmp_path / "out")
    text, err = printed(
        capsys, *models, "--out", out, "--weights", "loss", "--examples", examples,
        "--temperature", "0.5", "--engine", "transformers", "--json",
    )  # fmt: skip
    report = json.loads(text)
    losses = [one["loss"] for one in report["sources"]]
    weights = [one["weight"] for one in report["sources"]]
    assert losses[0] != losses[1]
    assert (losses[0] < losses[1]) == (weights[0] > weights[1])
    assert report["weights"] == {"found": "loss", "examples": 3, "temperature": 0.5}
    assert f"loss of {models[0]}: {losses[0]:.4f}" in err
    assert "softmax(-loss / 0.5)" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_a_sweep_over_encoders(encoders: list[str], tmp_path: Path, capsys: Any) -> None:
    task = judged_folder(tmp_path / "task", "dev", "test")
    general = judged_folder(tmp_path / "general", "test")
    arguments = [*encoders, "--task", str(task), "--general", str(general), "--most-loss", "1"]
    arguments += ["--sweep", "0.5,0.75,...,1", "--engine", "transformers"]
    text, err = printed(capsys, *arguments, "--out", str(tmp_path / "out"), "--json")
    report = json.loads(text)
    sweep = report["sweep"]
    assert [one["share"] for one in sweep["points"]] == [0.0, 0.5, 0.75, 1.0]
    assert sweep["task"] == {"set": "task", "split": "dev"}
    assert sweep["general"] == [{"set": "general", "split": "test"}]
    assert "the choice looks at the test split of general" in err
    assert "test split of task" not in err
    [chosen] = [one for one in sweep["points"] if one["chosen"]]
    assert chosen["task"] == max(one["task"] for one in sweep["points"])
    assert chosen["front"]
    original = sweep["points"][0]
    assert original["gain"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    for one in sweep["points"]:
        gain = one["gain"]
        assert gain["difference"] == pytest.approx(one["task"] - original["task"])
        assert gain["low"] <= gain["difference"] <= gain["high"]
    assert report["sources"][0]["weight"] == chosen["share"]
    assert report["weights"]["found"] == "sweep"
    assert "found by a sweep: the best nDCG@10 on task (dev)" in (
        tmp_path / "out" / "README.md"
    ).read_text("utf-8")
    text, _ = printed(capsys, *arguments, "--out", str(tmp_path / "text"), "--limit", "2")
    assert "Pareto front" in text
    assert ">" in text


def test_a_sweep_over_rerankers(rerankers: list[str], tmp_path: Path) -> None:
    task, notice = judged_for_choosing(judged_folder(tmp_path / "task", "dev"), None)
    assert notice is None
    report = sweep_merges(
        rerankers[0], rerankers[1], [0.5, 1.0], task=task, general=[task],
        encoder="all-MiniLM-L6-v2", options={"engine": "transformers"},
    )  # fmt: skip
    assert report.system == "two-stage"
    assert [one.share for one in report.points] == [0.0, 0.5, 1.0]
    assert [one.task for one in report.points] == [one.general["task"] for one in report.points]
    assert all(own[0].reranker is not None for own in report.scores)
    assert len({own[0].reranker for own in report.scores}) == 3


def test_which_split_is_looked_at(tmp_path: Path) -> None:
    dev = judged_folder(tmp_path / "a", "test", "validation")
    assert judged_for_choosing(dev, None)[0].split == "validation"
    only = judged_folder(tmp_path / "b", "test", "train")
    with pytest.raises(InvalidInput, match=r"no dev split to choose on; it has test, train"):
        judged_for_choosing(only, None)
    judged, notice = judged_for_choosing(only, "test")
    assert judged.split == "test"
    assert notice is not None
    assert "no longer" in notice
    assert judged_for_choosing(only, "train")[1] is None
    assert judged_for_choosing(only, None, general=True)[0].split == "test"


def test_kinds(
    encoders: list[str],
    tiny_bert_reranker: Path,
    tmp_path: Path,
    make_tiny_model: Callable[..., Path],
) -> None:
    examples = [TrainingExample("q", ("p",), ("n",))]
    with pytest.raises(InvalidInput, match="cannot be told whether some/model and other/model"):
        merge(["some/model", "other/model"], tmp_path / "out")
    with pytest.raises(InvalidInput, match="cannot be used as an encoder"):
        merge([encoders[0], str(tiny_bert_reranker)], tmp_path / "out")
    bare = Path(shutil.copytree(encoders[0], tmp_path / "bare"))
    (bare / "modules.json").unlink()
    report = merge(
        [bare, encoders[1]], tmp_path / "out", options={"pooling": "cls"}, weights=[1, 3],
        normalize_weights=True,
    )  # fmt: skip
    assert report.weights.values == (0.25, 0.75)
    with pytest.raises(InvalidInput, match="the weights do not come from losses"):
        merge(encoders, tmp_path / "out", examples=examples)


def test_sweeps_that_are_refused(
    encoders: list[str], rerankers: list[str], tmp_path: Path, capsys: Any
) -> None:
    task, _ = judged_for_choosing(judged_folder(tmp_path / "task", "dev"), None)
    for models, message, options in (
        (encoders, "a share of the sweep is 1.5", {"shares": [0.5, 1.5]}),
        (encoders, "most_loss is -1", {"most_loss": -1}),
        (encoders, "by 'two-stage' needs a reranker", {"system": "two-stage"}),
        (rerankers, "'dense' was asked for a sweep over rerankers", {"system": "dense"}),
        (encoders, "two general sets are called 'task'", {"general": [task, task]}),
        (encoders, "fish", {"measure": "fish"}),
    ):
        given = {"shares": [1.0], **options}
        with pytest.raises(InvalidInput, match=message):
            sweep_merges(models[0], models[1], task=task, **given)
    out = str(tmp_path / "out")
    bare = judged_folder(tmp_path / "bare", "test")
    arguments = (*encoders, "--out", out, "--sweep", "0,1", "--task", str(bare))
    _, err = printed(capsys, *arguments, code=2)
    assert "no dev split to choose on; it has test" in err
    assert "--task-split" in err


def test_a_sweep_of_encoders_by_the_whole_pipeline(
    encoders: list[str], tiny_bert_reranker: Path, tmp_path: Path
) -> None:
    task, _ = judged_for_choosing(judged_folder(tmp_path / "task", "dev"), None)
    report = sweep_merges(
        encoders[0], encoders[1], [1.0], task=task, system="two-stage",
        reranker=tiny_bert_reranker, options={"engine": "transformers"},
    )  # fmt: skip
    assert [own[0].system for own in report.scores] == ["two-stage"] * 2
    assert report.rule == "the best nDCG@10 on task (dev); no general set was given"
    assert report.weights.values == (
        report.points[report.chosen].share,
        1 - report.weights.values[0],
    )
