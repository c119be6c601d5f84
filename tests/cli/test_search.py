"""`retrieval search` and its options, on a tiny encoder and real files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from retrieval.cli.main import run
from retrieval.cli.search import read_queries
from retrieval.errors import CorpusError

RUNNING = ["--engine", "transformers", "--device", "cpu", "--dtype", "fp32"]
PLAIN = ["--no-rerank", *RUNNING]
PARTS = [
    "The oak is a slow growing tree whose fruit is the acorn.",
    "Willows grow beside rivers and their bark gave us aspirin.",
    "Birches are the first trees that grow after a fire.",
    "The acorn is eaten by jays, which forget where they hid some of them.",
]


@pytest.fixture(scope="module")
def store(tiny_bert_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents")
    (root / "trees.txt").write_text("\n\n".join(PARTS), encoding="utf-8")
    (root / "bees.txt").write_text("Bees dance to tell the way to flowers.", encoding="utf-8")
    (root / "acorns.txt").write_text("Acorns are the fruit of the oak.", encoding="utf-8")
    store = tmp_path_factory.mktemp("store") / "retrieval"
    command = ["index", str(root), "--store", str(store), "--encoder", str(tiny_bert_encoder)]
    assert run([*command, *RUNNING, "--max-tokens", "60", "--overlap-tokens", "0"]) == 0
    return store


def search(capsys: pytest.CaptureFixture[str], store: Path, *more: str) -> Any:
    capsys.readouterr()
    assert run(["search", "--store", str(store), *PLAIN, "--json", *more]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["models"]["reranker"] is None
    assert result["mode"] == (more[more.index("--mode") + 1] if "--mode" in more else "hybrid")
    return result


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(["search", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.strip()


def test_pages_and_groups(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = search(capsys, store, "acorn", "--top-k", "6")
    first = search(capsys, store, "acorn", "--top-k", "3")
    second = search(capsys, store, "acorn", "--top-k", "3", "--offset", "3")
    assert first["hits"] + second["hits"] == whole["hits"]
    assert (first["offset"], second["offset"]) == (0, 3)
    grouped = search(capsys, store, "acorn", "--per-document", "1")
    documents = [hit["passage"]["document_id"] for hit in grouped["hits"]]
    assert sorted(documents) == ["acorns.txt", "bees.txt", "trees.txt"]


def test_neighbours_in_both_forms(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = search(
        capsys, store, "bark aspirin", "--top-k", "1", "--neighbours", "1", "--mode", "sparse"
    )
    (hit,) = result["hits"]
    assert "aspirin" in hit["passage"]["text"]
    assert [passage["text"] for passage in hit["before"]] == [PARTS[0]]
    assert [passage["text"] for passage in hit["after"]] == [PARTS[2]]
    arguments = ["search", "bark aspirin", "--store", str(store), "--top-k", "1"]
    assert run([*arguments, *PLAIN, "--neighbours", "1", "--mode", "sparse"]) == 0
    shown = capsys.readouterr().out
    assert f"before: {PARTS[0]}" in shown
    assert f"after: {PARTS[2]}" in shown
    assert search(capsys, store, "acorn")["hits"][0]["before"] == []


def test_the_first_stage_can_be_told_how(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def order(*more: str) -> list[str]:
        hits = search(capsys, store, "fruit of trees beside rivers", "--top-k", "9", *more)["hits"]
        return [hit["passage"]["id"] for hit in hits]

    dense, sparse = order("--mode", "dense"), order("--mode", "sparse")
    assert dense[: len(sparse)] != sparse
    assert order("--weights", "1,0") == dense
    assert order("--weights", "0,1")[: len(sparse)] == sparse
    assert order("--exact", "--mode", "dense") == dense
    assert order("--diversity", "0.9", "--mode", "dense") != dense
    scores = {
        method: search(capsys, store, "acorn", "--fusion", method)["hits"][0]["score"]
        for method in ("rrf", "dbsf")
    }
    assert scores["rrf"] < 0.2 < scores["dbsf"]
    few = search(capsys, store, "acorn", "--mode", "sparse", "--min-score", "0.8")["hits"]
    assert few
    assert all(hit["score"] >= 0.8 for hit in few)
    assert search(capsys, store, "acorn", "--rrf-k", "1000")["hits"][0]["score"] <= 2 / 1_000


def test_a_page_after_the_last(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", "acorn", "--store", str(store), *PLAIN, "--offset", "50"]) == 0
    assert "Nothing after hit 50." in capsys.readouterr().out


# --- many queries ----------------------------------------------------------------------------


def test_many_queries_give_a_line_of_json_each(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    lines = [{"id": "q7", "text": "acorn"}, {"_id": "q9", "text": "wer tanzt? 蜜蜂"}]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    file.write_text(text, encoding="utf-8")
    capsys.readouterr()
    command = ["search", "--queries", str(file), "--store", str(store), *PLAIN]
    assert run([*command, "--json", "--top-k", "2"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["id"], one["query"]) for one in results] == [
        ("q7", "acorn"),
        ("q9", "wer tanzt? 蜜蜂"),
    ]
    alone = search(capsys, store, "acorn", "--top-k", "2")
    pairs = list(zip(results[0]["hits"], alone["hits"], strict=True))
    assert [one["passage"] for one, _ in pairs] == [other["passage"] for _, other in pairs]
    for one, other in pairs:  # texts that are encoded together differ in the last digits
        assert one["score"] == pytest.approx(other["score"], abs=0.02)
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "q7: acorn\n" in shown
    assert "q9: wer tanzt? 蜜蜂\n" in shown


def test_more_queries_than_are_searched_together_from_standard_input(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"tree {n}\n" for n in range(70))))
    capsys.readouterr()
    command = ["search", "--queries", "-", "--store", str(store), *PLAIN, "--json"]
    assert run([*command, "--mode", "sparse", "--top-k", "1"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["id"] for one in results] == [str(number) for number in range(1, 71)]
    assert [one["query"] for one in results] == [f"tree {n}" for n in range(70)]


def test_a_file_of_lines(tmp_path: Path) -> None:
    file = tmp_path / "queries.txt"
    file.write_text("\ufeffwhat is an oak?\r\n\n  {curly} words \n", encoding="utf-8")
    assert read_queries(str(file)) == [("1", "what is an oak?"), ("3", "{curly} words")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no query"),
        (b"\n  \n", "holds no query"),
        (b"oak\n\xff\n", "it is not UTF-8 text"),
        (b'{"id": "1", "text": "oak"}\nwhat?', "queries:2 is not a query"),
        (b'{"id": "1"}', "queries:1 is not a query"),
        (b'{"id": ["1"], "text": "oak"}', "queries:1 is not a query"),
        (b'{"id": true, "text": "oak"}', "queries:1 is not a query"),
        (b'{"text": "  "}', "queries:1 is not a query"),
        (b"{" * 100_000, "queries:1 is not a query"),
        (b'{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}', "queries:2 has the id '1'"),
    ],
)
def test_files_that_hold_no_queries(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "queries"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=words):
        read_queries(str(file))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CorpusError, match="cannot be read"):
            read_queries(str(place))


# --- what cannot be asked for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "neither of them was given"),
        (["acorn", "--queries", "file"], "both were given"),
        (["acorn", "--weights", "2"], "--weights is '2', expected two or three numbers"),
        (["acorn", "--weights", "2,x"], "--weights is '2,x'"),
        (["acorn", "--weights", "2,1,1,1"], "two or three numbers"),
        (["acorn", "--fusion", "dbsf", "--rrf-k", "3"], "--rrf-k 3 was given with --fusion dbsf"),
        (["acorn", "--fusion", "sum"], "--fusion"),
    ],
)
def test_the_command_line_is_checked_before_anything_is_opened(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in fails(capsys, *arguments, "--store", "nowhere")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "0,0"], "leave nothing of the 2 legs"),
        (["--weights", "2,nan"], "expected three numbers of at least 0"),
        (["--weights", "2,1", "--mode", "dense"], "fusion joins the legs of a hybrid"),
        (["--offset", "-1"], "offset is -1"),
        (["--mode", "lexical"], "stores no lexical weights"),
        (["--refine", "10"], "stores no token vectors"),
        (["--tenant", "ada"], "without tenants"),
    ],
)
def test_what_the_collection_cannot_do(
    store: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, "acorn", "--store", str(store), *PLAIN, *arguments)
    assert words in message
    assert "Traceback" not in message


def test_the_help_has_its_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run(["search", "--help"]) == 0
    shown = capsys.readouterr().out
    for part in ("Options", "First stage", "Results", "Models"):
        assert f" {part} " in shown
    for name in ("--offset", "--per-document", "--diversity", "--neighbours", "--min-score",
                 "--fusion", "--rrf-k", "--weights", "--refine", "--exact", "--tenant",
                 "--queries"):  # fmt: skip
        assert name in shown
