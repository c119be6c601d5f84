"""Every sample of docs/samples is measured by the command that docs/evaluation.md shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from retrieval.cli.main import run

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--encoder", "all-MiniLM-L6-v2"]


@pytest.fixture(autouse=True)
def _in_a_copy_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)


MINE = {"documents", "questions.csv", "flag-embedding", "topics.txt", "qrels.txt", "other.run"}


def shown() -> list[list[str]]:
    """The commands of the part "How to measure", in its order."""
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").replace("\\\n", " ")
    part = text.partition("## How to measure")[2].partition("\n## ")[0]
    lines = re.findall(r"^retrieval (.*docs/samples.*|documents .*)$", part, re.MULTILINE)
    return [shlex.split(line.partition(" #")[0]) for line in lines]


def test_every_command_on_a_sample_runs(capsys: pytest.CaptureFixture[str]) -> None:
    commands = shown()
    used = {word for command in commands for word in command if word.startswith("docs/samples")}
    assert used == {f"docs/samples/{name}" for name in MINE}
    for command in commands:
        own = "--collection" in command and command[0] == "eval"
        models = [] if own or command[0] == "documents" else QUICK
        second = ["--reranker", "maxsim"] if command[0] == "eval" else []
        second = [] if "--no-rerank" in command else second
        assert run([*command, *models, *second]) == 0, command
    told = capsys.readouterr().out
    assert "#Opening hours" in told
    assert re.search(r"^other +rerank", told, re.MULTILINE)


def test_the_table_of_questions_names_sections_and_files(tmp_path: Path) -> None:
    index = ["index", "docs/samples/documents", "--collection", "house", "--max-tokens", "48"]
    assert run([*index, "--overlap-tokens", "0", *QUICK]) == 0
    command = ["eval", "docs/samples/questions.csv", "--collection", "house", "--modes", "dense"]
    outputs = ["--json", "out.json", "--html", "out.html", "--runs", "runs"]
    assert run([*command, "--no-rerank", *outputs, "--api-key", "secret"]) == 0
    told: dict[str, Any] = json.loads(Path("out.json").read_text(encoding="utf-8"))
    (row,) = told["rows"]
    assert row["measures"]["recall@100"] == 1.0
    assert row["per_query"]["2"]["MRR@10"] == 1.0
    assert told["command"].startswith("retrieval eval docs/samples/questions.csv --collection")
    assert "secret" not in Path("out.json").read_text(encoding="utf-8")
    assert "secret" not in Path("out.html").read_text(encoding="utf-8")
    assert "house-rules.md#opening-hours" in Path("runs/qrels.txt").read_text(encoding="utf-8")


def test_the_command_that_is_told_makes_the_same_figures(tmp_path: Path) -> None:
    command = ["eval", "docs/samples/flag-embedding", "--modes", "dense,sparse", "--no-rerank"]
    assert run([*command, *QUICK, "--json", "first.json"]) == 0
    told = json.loads(Path("first.json").read_text(encoding="utf-8"))
    again = [word.replace("first", "again") for word in shlex.split(told["command"])[1:]]
    assert run(again) == 0
    found = json.loads(Path("again.json").read_text(encoding="utf-8"))
    for one, other in zip(told["rows"], found["rows"], strict=True):
        assert one["per_query"] == other["per_query"]
        assert one["intervals"] == other["intervals"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("docs/samples/questions.csv", "--collection"),
        ("docs/samples/topics.txt", "a file without judgements"),
        ("docs/samples/documents", "no judged queries that are understood"),
        ("docs/samples/flag-embedding --split dev", "no split 'dev'"),
        ("docs/samples/flag-embedding --beside nowhere.run", "cannot read nowhere.run"),
        ("docs/samples/flag-embedding --modes none", "no mode was named"),
        ("docs/samples/flag-embedding --html docs", "--html is the folder 'docs'"),
        (
            "docs/samples/flag-embedding --beside docs/samples/other.run",
            "results for none of the 3 judged queries",
        ),
        ("docs/samples/flag-embedding --beside a=x --beside a=y", "two runs are called 'a'"),
        (
            "docs/samples/flag-embedding --service http://127.0.0.1:9 --run a=x --encoder starter",
            "--encoder, --run was given beside --service",
        ),
        ("docs/samples/flag-embedding --service http://127.0.0.1:9", "no service answers at"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["eval", *shlex.split(arguments), "--json", "figures.json"]) == 2
    assert told in capsys.readouterr().err
    assert not Path("figures.json").exists()


def test_an_interruption_leaves_no_file_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from retrieval.search.retriever import TwoStageRetriever

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TwoStageRetriever, "search_batch", interrupted)
    outputs = ["--json", "out.json", "--html", "out.html", "--runs", "runs"]
    assert run(["eval", "docs/samples/flag-embedding", *QUICK, "--no-rerank", *outputs]) == 130
    assert [one.name for one in tmp_path.iterdir()] == ["docs"]
