"""`retrieval models`: where weights are, and fetching them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval.cli.main import run


def test_get_prints_where_weights_came_from_and_where_they_lie(
    bge_small_folder: Path,
    minilm_reranker_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["models", "get", "starter"]) == 0
    said = capsys.readouterr().out
    assert "BAAI/bge-small-en-v1.5@int8-origin (encoder) from" in said
    assert f"\n  {bge_small_folder}\n" in said
    assert "(int8 origin)" in said
    assert run(["models", "get", "starter", "all-MiniLM-L6-v2", "--json"]) == 0
    encoder, reranker, old = json.loads(capsys.readouterr().out)
    assert encoder["folder"] == str(bge_small_folder)
    assert (reranker["folder"], reranker["kind"]) == (str(minilm_reranker_folder), "reranker")
    assert (encoder["int8_origin"], old["int8_origin"]) == (True, False)
    assert old["source"] == "package"


def test_the_list_says_where_weights_are_or_would_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(tmp_path))
    assert run(["models", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    [*_, packaged] = listed["BAAI/bge-small-en-v1.5"]["sources"]
    assert (packaged["kind"], packaged["folder"]) == ("package", None)
    assert packaged["int8_origin"] is True
    assert listed["sentence-transformers/all-MiniLM-L6-v2"]["cached"] is True
    assert run(["models"]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("BAAI/bge-small-en-v1.5 "))
    assert f"{packaged['from']} (int8 origin)" in row
    assert "On this machine:" in said


def test_a_model_that_is_not_listed_needs_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "get", "some/thing"]) == 2
    assert "--kind encoder or --kind reranker" in capsys.readouterr().err


def test_a_search_with_the_starter_pair_says_what_it_is(
    bge_small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "oak.txt").write_text("Oaks bear acorns, and squirrels hide them.")
    (tmp_path / "bee.txt").write_text("Bees dance to say where flowers are.")
    place = ["--store", str(tmp_path / "store")]
    assert run(["index", str(tmp_path), *place, "--encoder", "starter", "--collection", "d"]) == 0
    capsys.readouterr()
    asked = ["search", "what do oaks bear", *place, "--collection", "d"]
    assert run([*asked, "--reranker", "starter", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["models"] == {
        "encoder": "BAAI/bge-small-en-v1.5@int8-origin",
        "reranker": "cross-encoder/ms-marco-MiniLM-L12-v2@int8-origin",
    }
    assert result["hits"][0]["passage"]["document_id"].endswith("oak.txt")
    assert run(["info", "d", *place, "--json"]) == 0
    built = json.loads(capsys.readouterr().out)["encoder"]
    assert (built["model"], built["pooling"]) == ("BAAI/bge-small-en-v1.5@int8-origin", "cls")
    assert built["query_instruction"].startswith("Represent this sentence")
