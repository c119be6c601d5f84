"""The command line where its output, its notes or its files are not as it would wish."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.cli.main import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and documents of which one cannot be read."""
    root = tmp_path_factory.mktemp("streams")
    (root / "docs").mkdir()
    (root / "docs/a.txt").write_text("Oaks bear acorns.")
    (root / "docs/bad.jsonl").write_text("{")
    arguments = ["--store", str(root / "store"), "--encoder", "all-MiniLM-L6-v2"]
    assert run(["index", str(root / "docs"), *arguments]) == 0
    return root


# As users have it: with buffers, in which what could not be written stays behind.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def shell(place: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `retrieval` is the command line; its code is the first one's."""
    function = f'retrieval() {{ "{sys.executable}" -m retrieval.cli "$@"; }}'
    return subprocess.run(
        ["bash", "-c", f"{function}; {line}; exit ${{PIPESTATUS[0]}}"],
        cwd=place,
        env={**CLEAN, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("retrieval models | exec true", 0),
        ("retrieval info docs --store store --json >&- 2>&-", 0),
        ("retrieval info nope --store store 2>&1 | exec true", 2),
        ("retrieval info nope --store store 2>&-", 2),
        ("retrieval index docs --store store 2>&1 | exec true", 0),
        ("retrieval index docs --store store 2>&-", 0),
    ],
)
def test_nobody_listens(line: str, code: int, place: Path) -> None:
    done = shell(place, line)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_indexing_goes_on_without_a_reader_of_its_notes(place: Path, tmp_path: Path) -> None:
    arguments = f"docs --store {tmp_path}/store --encoder all-MiniLM-L6-v2"
    assert shell(place, f"retrieval index {arguments} 2>&1 >/dev/null | exec true").returncode == 0
    assert run(["info", "docs", "--store", str(tmp_path / "store")]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_is_full(place: Path) -> None:
    done = shell(place, "retrieval info --store store >/dev/full")
    assert done.returncode == 1
    assert "the output could not be written (No space left on device)" in done.stderr
    assert "unexpected" not in done.stderr


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Its bytes neither spoil the JSON nor move the terminal's cursor."""
    documents = tmp_path / "docs"
    documents.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(documents) + b"/b\xff\x1b[31m.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system has no such names")
    line = f"retrieval index docs --store {tmp_path}/store --encoder all-MiniLM-L6-v2"
    done = shell(tmp_path, f"{line} --json")
    assert done.returncode == 2, done.stderr  # there was nothing else to index
    assert os.fsencode(json.loads(done.stdout)[0]["problems"][0]["source"]).endswith(b"[31m.txt")
    assert "valid UTF-8" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(("content", "reason"), [(b"\xff\xfe", "not UTF-8"), (None, "No such")])
def test_a_key_file_that_cannot_be_read(
    content: bytes | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    assert run(["info", "--api-key", f"@{tmp_path / 'key'}"]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--json", "."], "expected a file"),
        (["--runs", __file__], "expected a folder"),
        (["--measures", "foo@3"], "no measure 'foo@3'"),
        (["--measures", ","], "no measure was named"),
        (["--candidates", "0"], "at least 1"),
    ],
)
def test_eval_refuses_before_the_long_work(
    option: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The folder is not there: that nobody has looked shows that nothing was indexed.
    assert run(["eval", str(tmp_path / "nowhere"), *option]) == 2
    assert told in capsys.readouterr().err


def test_eval_looks_for_the_reranker_before_it_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "Oaks bear acorns."}')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "acorns"}')
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    monkeypatch.setattr(
        "retrieval.api.evaluate_folder.ingest", lambda *_, **__: pytest.fail("indexed")
    )
    encoder = "BAAI/bge-small-en-v1.5"
    assert run(["eval", str(tmp_path), "--reranker", encoder]) == 2
    assert "cannot be used as a reranker" in capsys.readouterr().err
