"""Steps on disk: passed over, gone on with, done again; and labels in two parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.api.adapt_settings import AdaptSettings, read_labels
from retrieval.api.adapt_state import AdaptFolder, digest_of
from retrieval.errors import CorpusError, InvalidInput
from retrieval.training.settings import read_toml


@pytest.fixture
def folder(tmp_path: Path) -> AdaptFolder:
    made = AdaptFolder(tmp_path / "adapt")
    made.claim({"collection": "docs"})
    return made


def done(folder: Path) -> dict[str, Any]:
    return {"text": "done", "was there": sorted(one.name for one in folder.iterdir())}


def test_a_step_is_done_once(folder: AdaptFolder) -> None:
    assert folder.state("mine", {"a": 1}) == "new"
    assert folder.result("mine") is None
    first, now = folder.run("mine", {"a": 1}, done)
    assert now
    again, now = AdaptFolder(folder.path).run("mine", {"a": 1}, lambda _: pytest.fail("again"))
    assert (again, now) == (first, False)
    assert folder.state("mine", {"a": 1}) == "done"
    assert folder.state("mine", {"a": 2}) == "changed"


def test_a_step_that_was_killed_goes_on_in_its_folder(folder: AdaptFolder) -> None:
    def dies(place: Path) -> dict[str, Any]:
        (place / "half.txt").write_text("half", "utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.run("mine", {"a": 1}, dies)
    assert folder.state("mine", {"a": 1}) == "begun"
    found, _ = folder.run("mine", {"a": 1}, done)
    assert "half.txt" in found["was there"]


def test_other_inputs_begin_in_an_empty_folder(folder: AdaptFolder) -> None:
    def makes(place: Path) -> dict[str, Any]:
        (place / "old.txt").write_text("old", "utf-8")
        return {"text": "old"}

    folder.run("mine", {"a": 1}, makes)
    found, now = folder.run("mine", {"a": 2}, done)
    assert now
    assert "old.txt" not in found["was there"]


def test_a_file_that_is_damaged_is_named(folder: AdaptFolder) -> None:
    folder.run("mine", {"a": 1}, done)
    for text in ("{", "[]", "{}"):
        (folder.path / "mine" / "done.json").write_text(text, "utf-8")
        with pytest.raises(InvalidInput, match=r"done\.json .*(cannot be read|is not what)"):
            folder.state("mine", {"a": 1})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(InvalidInput, match="holds something else"):
        AdaptFolder(tmp_path)
    with pytest.raises(InvalidInput, match="is a file"):
        AdaptFolder(tmp_path / "letter.txt")


def test_digests_know_what_changes(folder: AdaptFolder) -> None:
    assert digest_of({"a": [1, None], "b": "北京"}) == digest_of({"b": "北京", "a": [1, None]})
    assert digest_of({"a": [1, None]}) != digest_of({"a": [None, 1]})


def write_labels(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = "".join(f"{query},{relevant}\r\n" for query, relevant in rows)
    path.write_text(f"\ufeffquery,relevant\r\n{lines}", "utf-8")
    return path


def test_labels_that_share_an_answer_stay_together(tmp_path: Path) -> None:
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "北京", "gem"]
    rows = [(f"{ask} {word}?", f"{word}.txt") for word in words for ask in ("why", "how is")]
    labels = read_labels(write_labels(tmp_path / "own.csv", rows), AdaptSettings())
    train, dev = labels.train, labels.dev
    assert (len(train.queries), len(dev.queries), labels.leaked) == (16, 4, 0)
    answers = [{key for own in part.qrels.values() for key in own} for part in (train, dev)]
    assert not answers[0] & answers[1]
    assert answers[0] | answers[1] == {f"{word}.txt" for word in words}
    assert set(train.typed) == answers[0]
    assert dev.split == "test-dev"
    other = read_labels(tmp_path / "own.csv", AdaptSettings(seed=1))
    assert other.dev.queries != dev.queries


def test_what_is_judged_by_is_not_trained_on(tmp_path: Path) -> None:
    rows = [(f"where is the {word} tale kept", f"{word}.txt") for word in "abcdefghij"]
    general = write_labels(tmp_path / "general.csv", [("Where is the A tale kept?", "a.txt")])
    settings = AdaptSettings(general=[general], seed=3)
    alone = read_labels(write_labels(tmp_path / "own.csv", rows), AdaptSettings(seed=3))
    labels = read_labels(tmp_path / "own.csv", settings)
    asked = {text.casefold() for text in labels.train.queries.values()}
    assert "where is the a tale kept" not in asked
    assert labels.leaked >= alone.leaked
    everything = write_labels(tmp_path / "all.csv", rows)
    with pytest.raises(InvalidInput, match="no query is left to train on"):
        read_labels(tmp_path / "own.csv", AdaptSettings(general=[everything]))


def test_labels_and_recipes_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        read_labels(tmp_path / "none.csv", AdaptSettings())
    bad = tmp_path / "recipe.toml"
    bad.write_text("[mine\n", "utf-8")
    with pytest.raises(InvalidInput, match="is not TOML"):
        read_toml(bad)
    bad.write_bytes(b'\xef\xbb\xbf[mine]\r\nsources = "dense"\r\n')
    assert read_toml(bad) == {"mine": {"sources": "dense"}}
    assert json.dumps(read_toml(bad))
