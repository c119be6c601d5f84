"""`retrieval test`: its output, its reports and its exit codes, on the sample of the docs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from retrieval.cli.main import run

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "docs/samples/cases"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("a store") / "here")
    command = ["index", str(SAMPLE / "handbook"), "--collection", "handbook", "--store", place]
    assert run([*command, "--encoder", "starter"]) == 0
    return place


def written(folder: Path, text: str) -> str:
    path = folder / "my cases.toml"
    path.write_text('collection = "handbook"\nrerank = false\n' + text, encoding="utf-8")
    return str(path)


def test_the_sample_passes(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    reports = ["--junit", str(tmp_path / "r.xml"), "--json", str(tmp_path / "r.json")]
    command = ["test", str(SAMPLE / "cases.toml"), "--store", store, "--reranker", "starter"]
    assert run([*command, *reports]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ok      ") for line in lines[:-1])
    assert lines[-1].startswith("7 cases on handbook: 7 ok, 0 failed; ")
    value = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert value["passed"]
    assert value["cases"][0]["name"] == "expenses"
    suite = ElementTree.parse(tmp_path / "r.xml").getroot()[0]
    assert len(suite) == 7
    assert suite.attrib["failures"] == "0"


def test_a_case_that_fails_says_what_was_found(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = written(
        tmp_path,
        "[[case]]\nname = 'fine'\nquestion = 'AUTH-0417'\nmust_contain = ['sign-in.md']\n"
        "[[case]]\nname = 'lunch\\u001b[31m'\nquestion = 'soup'\nmust_contain = ['travel.md']\n"
        "within = 1\n".replace("'lunch\\u001b[31m'", '"lunch\\u001b[31m"'),
    )
    capsys.readouterr()
    assert run(["test", cases, "--store", store, "--junit", str(tmp_path / "r.xml")]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok      fine  (")
    assert lines[1].startswith("FAILED  lunch [31m  (")
    assert lines[2].startswith("        'travel.md' is not within the first 1: it is at rank ")
    assert lines[3] == "        found 1. canteen.md"
    assert lines[4].startswith("2 cases on handbook: 1 ok, 1 failed; ")
    failure = ElementTree.parse(tmp_path / "r.xml").getroot().find(".//failure")
    assert failure is not None
    assert "'travel.md' is not within" in failure.attrib["message"]


def test_options_of_the_command_line_are_weaker_than_a_cases_own(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = "[[case]]\nquestion = 'AUTH-0417 soup'\nmust_contain = ['canteen.md', 'sign-in.md']\n"
    cases = written(tmp_path, case + case + "within = 1\n")
    assert run(["test", cases, "--store", store, "--top-k", "2", "--mode", "sparse"]) == 3
    out = capsys.readouterr().out
    assert "ok      AUTH-0417 soup  (" in out
    assert "FAILED  AUTH-0417 soup (2)" in out


@pytest.mark.parametrize(
    ("text", "more", "code", "expected"),
    [
        ("", [], 2, "has no case"),
        ("[[case]]\nquestion='a'\nmust_contain=['b']\n", ["--collection", "gone"], 2, "'gone'"),
        ("[[case]]\nquestion='a'\nmust_contain=['b']\n", ["--top-k", "0"], 2, "top_k is 0"),
        ("[[case]]\nquestion='a'\nmust_contain=['b']\n", ["--offset", "1"], 2, "--offset"),
        ("[[case]]\nquestion='a'\nmust_contain=['b']\n", ["--junit", "."], 2, "--junit is the"),
    ],
)
def test_what_could_not_be_run_is_no_failed_case(
    store: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    more: list[str],
    code: int,
    expected: str,
) -> None:
    capsys.readouterr()
    assert run(["test", written(tmp_path, text), "--store", store, *more]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err


def test_a_case_that_cannot_be_searched_decides_the_exit_code(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[[case]]\nquestion='soup'\nmust_contain=['{}']\ntenant='{}'\n"
    fails = "[[case]]\nquestion='soup'\nmust_contain=['gone.md']\n"
    capsys.readouterr()
    assert run(["test", written(tmp_path, fails + text), "--store", store]) == 2
    out = capsys.readouterr().out
    assert "FAILED  soup" in out
    assert "ERROR   soup (2)\n        tenant='{}' was given, but the collection was made" in out
    assert "0 ok, 1 failed, 1 could not be run" in out


def test_the_recipe_for_pytest(tmp_path: Path) -> None:
    folder = tmp_path / "a project"
    shutil.copytree(SAMPLE, folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert "7 passed" in done.stdout, done.stdout + done.stderr
