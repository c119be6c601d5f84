"""`retrieval compare` as a user types it, on trained and on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.api import compare as comparing
from retrieval.cli.main import run

TEXTS = {
    "gate": "The gate of the garden closes at ten in the evening.",
    "soup": "Soup is served at noon, with bread.",
    "costs": "Costs of a journey are paid back within ten days.",
    "dog": "Dogs must be kept on a lead everywhere in the park.",
    "bus": "The last bus to town leaves at half past nine.",
    "pool": "Children under eight swim only with a grown-up.",
    "wifi": "The password of the network is on the back of your key card.",
    "fire": "In case of fire take the stairs, never the lift.",
}
QUERIES = {
    "when can I eat?": "soup",
    "do I get my money for the train back?": "costs",
    "may my poodle run free?": "dog",
    "how late can I get home by public transport?": "bus",
    "internet access": "wifi",
    "at what time is the park locked?": "gate",
}
FAST = ["--encoders", "all-MiniLM-L6-v2", "--passages", "whole"]


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hotel"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": id_, "text": text} for id_, text in TEXTS.items()]
    asked = [{"_id": f"q{at}", "text": text} for at, text in enumerate(QUERIES)]
    for name, rows in (("corpus", corpus), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = "".join(f"q{at}\t{id_}\t1\n" for at, id_ in enumerate(QUERIES.values()))
    (folder / "qrels" / "test.tsv").write_text(grades)
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 2) -> str:
    capsys.readouterr()
    assert run(["compare", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_from_judged_queries_to_a_setting_that_is_taken(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = ["index", str(judged), "--collection", "hotel", "--encoder", "all-MiniLM-L6-v2"]
    assert run(index) == 0
    capsys.readouterr()
    command = ["compare", str(judged), "--collection", "hotel", "--modes", "sparse,dense,hybrid"]
    command += ["--rerankers", "none,maxsim", "--json", "out.json", "--apply", "hotel"]
    assert run(command) == 0
    captured = capsys.readouterr()
    assert "6 settings need about " in captured.err
    assert "6 of 6: hybrid · maxsim rerank: " in captured.err
    assert captured.out.startswith("hotel test: 6 queries, 6 settings, 15 comparisons\n")
    assert "Searches of hotel take from now on: dtype=auto, mode=" in captured.out
    found = json.loads(Path("out.json").read_text())
    assert found["baseline"] == "sparse · no rerank"
    dense = next(one for one in found["settings"] if one["name"] == "dense · no rerank")
    sparse = next(one for one in found["settings"] if one["name"] == "sparse · no rerank")
    assert dense["mean"] > sparse["mean"]  # the questions share few words with the answers
    assert dense["index_bytes"] > 0
    assert next(path.name for path in Path(".retrieval-compare").iterdir()).startswith("hotel-")
    assert run(["defaults", "hotel", "--json"]) == 0
    defaults = json.loads(capsys.readouterr().out)["defaults"]
    chosen = next(one for one in found["settings"] if one["name"] == found["choice"])["setting"]
    assert defaults["mode"] == chosen["mode"]


def test_a_grid_from_a_file_on_the_sets_own_documents(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("grid.toml").write_text(
        'encoders = ["all-MiniLM-L6-v2"]\nmodes = ["dense", "sparse"]\nrerankers = ["none"]\n'
        'instructions = ["none", "Find, if there is one, the rule: "]\npassages = ["whole"]\n'
    )
    assert run(["compare", str(judged), "--grid", "grid.toml", "--output", "out"]) == 0
    out = capsys.readouterr().out
    assert "“Find, if there is on…” · dense" in out
    assert len(list(Path("out").glob("00*.json"))) == 3
    kept = json.loads(Path("out/001.json").read_text())
    assert set(kept["values"]) == {f"q{at}" for at in range(6)}
    assert kept["setting"]["mode"] == "dense"


def test_an_instruction_of_ones_own_keeps_its_commas(
    judged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def stop(judged: Any, settings: Any, **more: Any) -> None:
        seen.extend(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "compare_settings", stop)
    lists = ["--instructions", "model,none", "--instructions", "Find, if you can: "]
    fails(capsys, judged, *lists, "--candidates", "25, 50", code=130)
    assert [one.instruction for one in seen[::2]] == ["model", "none", "Find, if you can: "]
    assert [one.candidates for one in seen[:2]] == [25, 50]


def test_ctrl_c_says_where_it_goes_on(
    judged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*FAST, "--modes", "dense,sparse", "--rerankers", "none", "--output", "out"]
    with monkeypatch.context() as patch:
        patch.setattr("retrieval.cli.compare._done", _interrupt)
        error = fails(capsys, judged, *options, code=130)
    assert "the same with --output out --resume goes on" in error
    assert len(list(Path("out").glob("00*.json"))) == 1
    error = fails(capsys, judged, *options)
    assert "holds a comparison already. Go on with it with --resume" in error
    assert run(["compare", str(judged), *options, "--resume"]) == 0
    captured = capsys.readouterr()
    assert "1 of 2" not in captured.err
    assert "2 of 2: sparse" in captured.err


def _interrupt(done: int, total: int, result: object) -> None:
    raise KeyboardInterrupt


def test_mistakes_are_sentences(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("grid.toml").write_text('modes = ["dense"]\n')
    Path("file").write_text("")
    for arguments, said in (
        ((judged, "--modes", "dens"), "modes has 'dens', expected dense, sparse"),
        ((judged, "--modes", ","), "the list of modes is empty"),
        ((judged, "--resume"), "--resume was given without --output"),
        ((judged, "--grid", "grid.toml", "--modes", "dense"), "--grid and --modes were both"),
        ((judged, "--grid", "nothing.toml"), "nothing.toml"),
        ((judged, "--output", "file", *FAST), "is a file, expected a folder"),
        ((judged, "--output", ".", *FAST), "holds something else than a comparison"),
        ((judged, "--collection", "docs"), "there is no collection 'docs'"),
        ((judged, "--apply", "docs"), "there is no collection 'docs'"),
        ((judged, *FAST, "--modes", "dense", "--rerankers", "none"), "there is one setting only"),
        ((judged, "--encoders", "no-such-model-anywhere/x,"), "no-such-model-anywhere"),
        ((judged / "missing", *FAST, "--modes", "dense,sparse"), "missing is not there"),
        ((judged, *FAST, "--split", "dev"), "no split 'dev'"),
    ):
        error = fails(capsys, *arguments)
        assert said in error
        assert error.startswith("retrieval: ")
