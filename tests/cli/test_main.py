"""The command line as a stranger meets it, on the starter models and real files."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrieval.cli.main import run

DOCUMENTS = {
    "trees.md": "# Trees\n\n## Oak\n\nThe oak is a slow growing tree whose fruit is the acorn.\n\n"
    "## Willow\n\nWillows grow beside rivers and their bark gave us aspirin.\n",
    "money.txt": "An invoice is approved by the head of the department before it is paid.\n\n"
    "Travel expenses are refunded within thirty days.",
    "rows.jsonl": '{"id": "r1", "text": "Bees dance to tell the way to flowers.", "year": 2001}\n'
    '{"id": "r2", "text": "Cats sleep for most of the day.", "year": 2020, "draft": true}\n',
    "bäume/中文.txt": "橡树是一种生长缓慢的树，它的果实叫橡子。",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents")
    for name, text in DOCUMENTS.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store") / "retrieval"
    assert run(["index", str(folder), "--store", str(store), "--encoder", "all-MiniLM-L6-v2"]) == 0
    return store


@pytest.fixture
def copied(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copied"))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that must fail; its one-sentence message."""
    capsys.readouterr()
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    message = captured.err.strip()
    assert message
    return message


def search(capsys: pytest.CaptureFixture[str], store: Path, query: str, *more: str) -> Any:
    capsys.readouterr()
    assert run(["search", query, "--store", str(store), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_search_finds_and_tells_what_each_stage_said(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = search(capsys, store, "who signs off a bill?")
    first = result["hits"][0]
    assert first["passage"]["document_id"] == "money.txt"
    assert first["rank"] == 1
    assert 0.0 <= first["relevance"] <= 1.0
    assert {hit["stage1_rank"] for hit in result["hits"]} <= set(range(1, 51))
    assert first["stage2_score"] is not None
    assert set(result["timings_ms"]) == {"encode", "retrieve", "rerank", "total"}
    assert result["models"]["encoder"] == "sentence-transformers/all-MiniLM-L6-v2"
    text = DOCUMENTS["money.txt"]
    passage = first["passage"]
    assert text[passage["start"] : passage["end"]] == passage["text"]


def test_where_filters(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ('{"year": {"gte": 2010}}', "draft=true", "year=2020"):
        result = search(capsys, store, "animals", "--where", where)
        assert [hit["passage"]["metadata"]["year"] for hit in result["hits"]] == [2020], where


def test_indexing_again_changes_nothing(
    folder: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["index", str(folder), "--store", str(copied), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["documents"] == {
        "read": 5,
        "new": 0,
        "changed": 0,
        "unchanged": 5,
        "pruned": 0,
        "duplicates": 0,
        "failed": 0,
    }
    assert report["passages"] == 0


def test_bad_files_are_named_and_the_rest_is_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.txt").write_text("Good text about harbours.")
    (tmp_path / "in/binary.txt").write_bytes(b"\x00\x01\x02" * 50)
    (tmp_path / "in/empty.txt").write_text("")
    (tmp_path / "in/rows.jsonl").write_text('{"text": "fine row"}\n{"text": broken\n')
    store = str(tmp_path / "store")
    assert (
        run(["index", str(tmp_path / "in"), "--store", store, "--encoder", "all-MiniLM-L6-v2"]) == 0
    )
    captured = capsys.readouterr()
    for named in ("binary.txt", "empty.txt", "rows.jsonl:2"):
        assert named in captured.err
    assert "2 documents read" in captured.out
    message = fails(capsys, "index", str(tmp_path / "in"), "--store", store, "--on-error", "raise")
    assert "binary.txt" in message


def test_two_folders_with_the_same_file_names_do_not_overwrite_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"This is the text of project {name}.")
    store = ["--store", str(tmp_path / "store"), "--encoder", "all-MiniLM-L6-v2"]
    assert run(["index", str(tmp_path / "a"), str(tmp_path / "b"), *store]) == 2
    captured = capsys.readouterr()
    assert "'README.md' is taken by" in captured.err
    assert f"nothing of {tmp_path / 'b'} could be indexed; the notes above" in captured.err
    assert search(capsys, tmp_path / "store", "project")["hits"][0]["passage"]["text"].endswith(
        "a."
    )

    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "moved/README.md").write_text("This is the new text of project a.")
    assert run(["index", str(tmp_path / "moved"), *store]) == 0
    assert "1 changed" in capsys.readouterr().out


def test_texts_in_another_language_than_the_models_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trees.txt").write_text(DOCUMENTS["bäume/中文.txt"], encoding="utf-8")
    store = str(tmp_path / "store")
    source = str(tmp_path / "trees.txt")
    assert run(["index", source, "--store", store, "--encoder", "all-MiniLM-L6-v2"]) == 0
    assert "look chinese" in capsys.readouterr().err
    assert run(["search", "橡子", "--store", store, "--mode", "sparse"]) == 0
    captured = capsys.readouterr()
    assert "look chinese" in captured.err
    assert "橡树" in captured.out


def test_info_and_models(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["info", "--store", str(store)]) == 0
    assert capsys.readouterr().out.split() == ["docs"]
    assert run(["info", "docs", "--store", str(store), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["encoder"]["pooling"] == "mean"
    assert manifest["encoder"]["dimension"] == 384
    assert run(["info", "docs", "--store", str(store)]) == 0
    assert "all-MiniLM-L6-v2" in capsys.readouterr().out
    assert run(["models"]) == 0
    assert "BAAI/bge-small-en-v1.5" in capsys.readouterr().out
    assert run(["models", "--json"]) == 0
    by_name = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert by_name["BAAI/bge-small-en-v1.5"]["query_instruction"] == (
        "Represent this sentence for searching relevant passages: "
    )
    assert by_name["BAAI/bge-small-en-v1.5"]["pooling"] == "cls"


def test_eval_prints_and_writes_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = [("a", "Oaks bear acorns."), ("b", "Bees dance."), ("c", "Cats sleep all day.")]
    (beir / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": "", "text": t}) + "\n" for i, t in rows)
    )
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "which tree has acorns"}\n')
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n")
    figures, runs = tmp_path / "figures.json", tmp_path / "runs"
    arguments = ["eval", str(beir), "--encoder", "all-MiniLM-L6-v2", "--json", str(figures)]
    assert run([*arguments, "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "nDCG@10" in out
    rows_out = json.loads(figures.read_text())["rows"]
    assert {(r["mode"], r["reranked"]) for r in rows_out} == {
        (mode, again) for mode in ("dense", "sparse", "hybrid") for again in (False, True)
    }
    assert all(r["measures"]["nDCG@10"] == 1.0 for r in rows_out)
    assert len(list(runs.glob("*.run"))) == 6
    message = fails(capsys, *arguments, "--modes", "magic")
    assert "expected dense, sparse, lexical or hybrid" in message


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nosuch", ["nosuch"]),
        ("search '  ' --store STORE", ["query is empty"]),
        ("search x --store STORE --collection dcos", ["'dcos'", "docs"]),
        ("search x --store TMP/nowhere", ["retrieval index"]),
        ("search x --store STORE --encoder TINY", ["all-MiniLM-L6-v2", "fingerprint"]),
        ("search x --store STORE --mode both", ["hybrid"]),
        ("search x --store STORE --where {oops", ["JSON"]),
        ('search x --store STORE --where \'{"year": {"above": 1}}\'', ["operator"]),
        ("search x --store STORE --top-k 0", ["top_k"]),
        (
            "search x --store STORE --budget-ms nan",
            ["budget_ms is nan, expected a positive number"],
        ),
        (
            "search x --store STORE --device cpu --devices cpu,cpu",
            ["device='cpu' and devices=['cpu', 'cpu'] were both given"],
        ),
        (
            "search x --store STORE --reranker maxsim --long-passages windows",
            ["not a cross-encoder"],
        ),
        ("search x --store STORE --reranker ''", ["the reranker is '', expected the name of a"]),
        ("search x --store STORE --dtype fp8", ["'fp8'"]),
        ("index FOLDER --store STORE --long-passages windows", ["No such option"]),
        ("index TMP/no --store TMP/s", ["TMP/no"]),
        ("index FOLDER --store TMP/s --encoder bge-smal-en-v1.5", ["bge-small-en-v1.5"]),
        (
            "index python-docs --store TMP/s --encoder all-MiniLM-L6-v2 --encoding latin-1",
            ["encoding='latin-1' was given for python-docs"],
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: str,
    words: list[str],
    store: Path,
    folder: Path,
    tmp_path: Path,
    tiny_bert_encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"STORE": store, "FOLDER": folder, "TMP": tmp_path, "TINY": tiny_bert_encoder}

    def placed(text: str) -> str:
        for name, path in places.items():
            text = text.replace(name, str(path))
        return text

    message = fails(capsys, *map(placed, shlex.split(arguments)))
    for word in words:
        assert placed(word) in message
    assert list(tmp_path.iterdir()) == []


def test_a_query_of_100_000_characters(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = search(capsys, store, "acorns and oaks " * 6250)
    assert result["hits"]
    assert any("tokens; the encoder read the first 256" in n for n in result["notices"])


@pytest.mark.parametrize(
    ("damage", "words", "code"),
    [
        ("", "manifest.json", 1),
        ("{", "manifest.json", 1),
        ("[]", "manifest.json", 1),
        ('{"format_version": 2}', "manifest.json", 1),
        ('{"format_version": 1}', "index the documents again", 2),
    ],
)
def test_a_manifest_that_cannot_be_used(
    damage: str, words: str, code: int, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "docs/manifest.json").write_text(damage)
    assert words in fails(capsys, "search", "x", "--store", str(copied), code=code)


def test_a_store_opened_twice(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retrieval.index.embedded.index import EmbeddedIndex

    with EmbeddedIndex.open(store, "docs"):
        message = fails(capsys, "search", "x", "--store", str(store), "--no-rerank")
    assert "open" in message


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything, so become somebody who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission(
    store: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "private"
    shutil.copytree(store, private / "store")
    shutil.copytree(folder, private / "documents")
    assert run(["search", "warm up", "--store", str(private / "store")]) == 0
    private.chmod(0)
    try:
        with as_nobody():
            message = fails(capsys, "search", "x", "--store", str(private / "store"), code=1)
            assert "permission" in message.lower()
            message = fails(capsys, "index", str(private / "documents"), "--store", str(store))
            assert "permission" in message.lower()
    finally:
        private.chmod(0o700)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mounted)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_full_disk_while_indexing(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence and not SIGBUS; what was acknowledged is still there."""
    rows = [json.dumps({"id": f"r{i}", "text": f"row {i} " + "word " * 60}) for i in range(6000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    arguments = ["index", str(tmp_path / "rows.jsonl"), "--store", str(small_disk / "store")]
    done = subprocess.run(
        [sys.executable, "-m", "retrieval.cli", *arguments, "--encoder", "all-MiniLM-L6-v2"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "space" in message
    if (small_disk / "store/docs").exists():
        assert run(["info", "docs", "--store", str(small_disk / "store")]) == 0


def test_ctrl_c_ends_at_once_and_what_was_written_is_kept(tmp_path: Path) -> None:
    rows = [json.dumps({"id": f"r{i}", "text": f"row {i} " + "word " * 200}) for i in range(4000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    store = tmp_path / "store"
    running = subprocess.Popen(
        [
            *[sys.executable, "-m", "retrieval.cli", "index", str(tmp_path / "rows.jsonl")],
            *["--store", str(store), "--encoder", "all-MiniLM-L6-v2"],
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    manifest = store / "docs/manifest.json"
    deadline = time.monotonic() + 60
    while not manifest.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert run(["info", "docs", "--store", str(store)]) == 0


# --- how the models are run, and for how long ------------------------------------------------


def test_a_budget_ends_re_ranking_early(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = search(capsys, store, "acorns", "--reranker", "maxsim", "--budget-ms", "0.000001")
    assert result["reranked"] in (1, 2)  # two to learn how fast the reranker is
    assert any(n.startswith("The time budget of 1e-06 ms re-ranked") for n in result["notices"])
    depth = result["reranked"]
    assert [hit["stage2_rank"] is not None for hit in result["hits"]] == [
        n < depth for n in range(len(result["hits"]))
    ]
    assert result["hits"][0]["best_span"] is None
    assert run(["search", "acorns", "--store", str(store), "--budget-ms", "1e-6"]) == 0
    assert "re-ranked ·" in capsys.readouterr().out
    assert run(["search", "acorns", "--store", str(store)]) == 0
    shown = capsys.readouterr().out
    assert "acorn" in shown
    assert "candidates · encode" in shown


def test_model_options_reach_the_models(
    tmp_path: Path,
    tiny_bert_encoder: Path,
    tiny_bert_reranker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "The oak is a tree. " * 20 + "Its fruit is the acorn. " + "It grows slowly. " * 20
    (tmp_path / "oak.txt").write_text(text)
    store = tmp_path / "store"
    models = ["--device", "cpu", "--dtype", "fp32", "--threads", "1"]
    cut = ["--truncate-dim", "16", "--allow-untrained-truncation"]
    source = ["index", str(tmp_path / "oak.txt"), "--store", str(store)]
    encoder = ["--encoder", str(tiny_bert_encoder), "--language", "en"]
    assert run([*source, *encoder, *models, *cut]) == 0
    assert run(["info", "docs", "--store", str(store), "--json"]) == 0
    assert '"dimension": 16' in capsys.readouterr().out
    windows = ["--reranker", str(tiny_bert_reranker), "--long-passages", "windows"]
    result = search(capsys, store, "acorn " * 30, *models, *windows, "--deterministic")
    passage = result["hits"][0]
    start, end = passage["best_span"]
    assert 0 <= start < end <= len(passage["passage"]["text"])
    assert end - start < len(passage["passage"]["text"])
    assert run(["search", "acorn " * 30, "--store", str(store), *windows]) == 0
    assert f"best part: characters {start:,} to {end:,} of " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["index", "search", "eval"])
def test_help_has_the_models_in_a_part_of_their_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run([command, "--help"]) == 0
    first, models = capsys.readouterr().out.split(" Models ")
    for name in ("--device", "--devices", "--engine", "--dtype", "--threads", "--deterministic"):
        assert f"{name} " in models
        assert f"{name} " not in first
    assert ("--truncate-dim" in models) == (command != "search")
    assert ("--long-passages" in models) == (command != "index")
    assert ("--budget-ms" in first) == (command != "index")


# --- nothing is passed over in silence -------------------------------------------------------


def test_a_source_of_which_nothing_could_be_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    place = ["--store", str(tmp_path / "store"), "--encoder", "all-MiniLM-L6-v2"]
    assert run(["index", str(tmp_path / "in"), *place]) == 2
    assert "holds no file that can be read" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text("")
    assert run(["index", str(tmp_path / "rows.jsonl"), *place]) == 2
    assert "rows.jsonl" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "in/binary.txt").write_bytes(b"\x00\x01\x02" * 50)
    assert run(["index", str(tmp_path / "in"), *place, "--json"]) == 2
    captured = capsys.readouterr()
    (report,) = json.loads(captured.out)
    assert report["documents"]["failed"] == 1
    assert "skipped" in captured.err
    assert f"nothing of {tmp_path / 'in'} could be indexed; the notes above" in captured.err
    (tmp_path / "in/good.txt").write_text("Good text about harbours.")
    assert run(["index", str(tmp_path / "in"), *place]) == 0


def test_debug_shows_the_traceback_and_keeps_the_code(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["--debug", "search", "  ", "--store", str(store)]) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.strip().splitlines()[-1].startswith("retrieval: the query is empty")


def test_a_command_of_the_library_starts_without_the_app() -> None:
    program = (
        "import sys; from retrieval.cli.main import run; run(['models']);"
        "sys.exit(any(name.split('.')[0] == 'app' for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
