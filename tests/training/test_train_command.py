"""`retrieval train encoder|reranker` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training.training_data import write_examples

from retrieval.cli.main import run
from retrieval.models.resolve import resolve

SHORT = ["--max-steps", "2", "--per-device-train-batch-size", "4", "--threads", "1"]
SHORT += ["--no-tensorboard", "--train-group-size", "2"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "train.jsonl", queries=20)


def _judged(folder: Path, query: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": f"q{n}", "text": f"{query} {n}"} for n in range(6)]
    documents = [{"_id": f"d{n}", "text": f"bone gsun {n} dred"} for n in range(12)]
    for name, records in (("queries", queries), ("corpus", documents)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    rows = "".join(f"q{n}\td{n}\t1\n" for n in range(6))
    for split in ("dev", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def test_a_file_describes_a_run_and_options_come_first(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'train_data = ["{data}"]\noutput_dir = "{tmp_path / "file"}"\nlearning_rate = 1e-4\n'
        f'[encoder]\nmodel = "{tiny_bert_encoder}"\ntemperature = 0.1\nmrl_dims = [32]\n'
        '[reranker]\nloss = "lambda"\n',
        "utf-8-sig",
    )
    out = tmp_path / "tuned"
    code = run(["train", "encoder", "--run", str(file), "--out", str(out), *SHORT, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = json.loads(printed.out)
    assert found["output"] == str(out)
    assert found["steps"] == 2
    assert found["gate"] is None
    assert "GB free" in printed.err
    record = json.loads((out / "training.json").read_text("utf-8"))["settings"]
    assert (record["temperature"], record["learning_rate"]) == (0.1, 1e-4)
    assert record["mrl_dims"] == [32]
    assert not (tmp_path / "file").exists()


def test_what_it_would_take(
    data: Path, tmp_path: Path, tiny_bert_reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    arguments = ["train", "reranker", str(data), "--model", str(tiny_bert_reranker)]
    assert run([*arguments, "--out", str(out), *SHORT, "--dry-run"]) == 0
    assert "2 steps of about" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "names no train_data"),
        (["TRAIN"], "names no output_dir"),
        (["TRAIN", "--out", "OUT", "--temperature", "0"], "temperature is 0.0, expected a number"),
        (["TRAIN", "--out", "OUT", "--dtype", "int8"], "int8"),
        (["TRAIN", "--out", "OUT", "--general", "x"], "--general was given without --gate"),
        (["none.jsonl", "--out", "OUT"], "none.jsonl is not there"),
        (["TRAIN", "--out", "OUT", "--model", "no/such/model"], "no/such/model"),
        (["--run", "none.toml"], "none.toml cannot be read: No such file"),
        (["--run", "TRAIN"], "is not TOML"),
        (["TRAIN", "--out", "OUT", "--deepspeed", "x.json"], "deepspeed"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = {"TRAIN": str(data), "OUT": "out"}
    code = run(["train", "encoder", *(names.get(one, one) for one in arguments)])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gate_behind_it(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    judged = _judged(tmp_path / "task", "where is bone")
    arguments = ["train", "encoder", str(data), "--model", str(tiny_bert_encoder), *SHORT]
    gate = ["--gate", str(judged), "--other", str(tiny_bert_reranker)]
    code = run([*arguments, "--out", str(tmp_path / "tuned"), *gate])
    printed = capsys.readouterr()
    assert code == 3, printed.err  # two steps win nothing
    assert "task" in printed.out
    assert "Written to" in printed.out
    leaking = _judged(tmp_path / "leaking", "never")
    query = json.loads(data.read_text("utf-8").splitlines()[0])["query"]
    text = (leaking / "queries.jsonl").read_text().replace("never 0", query)
    (leaking / "queries.jsonl").write_text(text)
    code = run([*arguments, "--out", str(tmp_path / "u"), "--gate", str(leaking)])
    assert code == 2
    assert "are queries of the evaluation" in capsys.readouterr().err
    assert not (tmp_path / "u").exists()


def test_a_reranker_is_gated_beside_an_encoder(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    judged = _judged(tmp_path / "task", "where is bone")
    out = tmp_path / "tuned"
    arguments = ["train", "reranker", str(data), "--model", str(tiny_bert_reranker), *SHORT]
    gate = ["--gate", str(judged), "--other", str(tiny_bert_encoder), "--json"]
    assert run([*arguments, "--out", str(out), *gate]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["gate"]["changed"] == "reranker"
    assert resolve(out, "reranker").spec.score_head == "classification"
