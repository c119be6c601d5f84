"""Grids: how they are written, what is the same in effect, what settings are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.evaluation.grid import joined, names, product, read_grid
from retrieval.evaluation.settings import DIMENSIONS, PassageLength, Setting
from retrieval.types import Fusion

VALUES: dict[str, list[str]] = {
    "encoder": ["auto", "starter", "BAAI/bge-base-en-v1.5", "/models/own/"],
    "instruction": ["model", "none", "Find the rule, if any: "],
    "passages": ["whole", "default", "256/32", "64/0"],
    "dtype": ["auto", "fp32", "int8"],
    "mode": ["dense", "sparse", "lexical", "hybrid"],
    "fusion": ["dbsf", "rrf:20", "rrf:60@2/1", "dbsf@1/0.5/3"],
    "reranker": ["none", "starter", "maxsim"],
    "candidates": ["10", "50", "200"],
    "blend": ["auto", "none", "rrf", "scores", "scores:0.5"],
    "read": ["auto", "full", "excerpts"],
}


@st.composite
def settings(draw: st.DrawFn) -> Setting:
    values: dict[str, Any] = {}
    for name, written in VALUES.items():
        values.update(DIMENSIONS[name].read(draw(st.sampled_from(written))))
    return Setting(**values)


@pytest.mark.parametrize("name", VALUES)
def test_every_value_is_written_as_it_was_read(name: str) -> None:
    for value in VALUES[name]:
        assert DIMENSIONS[name].write(Setting(**DIMENSIONS[name].read(value))) == value


def test_lists_are_combined_and_the_first_values_come_first() -> None:
    grid = product({"rerankers": ["none", "starter"], "modes": ["hybrid", "dense"]})
    assert [(one.mode, one.reranker) for one in grid] == [
        ("hybrid", None), ("hybrid", "starter"), ("dense", None), ("dense", "starter"),
    ]  # fmt: skip


def test_what_makes_no_difference_is_joined() -> None:
    grid = product(
        {
            "modes": ["dense", "hybrid", "sparse"],
            "fusions": ["dbsf", "rrf:60"],  # of hybrid alone
            "instructions": ["model", "none"],  # not of sparse
            "rerankers": ["none", "starter"],
            "candidates": ["25", "50"],  # of rerankers alone
            "blends": ["none", "rrf"],
        }
    )
    # first stages: dense and hybrid by two instructions, hybrid by two fusions, sparse: 2 + 4 + 1
    assert len(grid) == 7 * (1 + 2 * 2)
    first = grid[0]
    assert (first.mode, first.reranker) == ("dense", None)


def test_vectors_do_not_matter_to_bm25() -> None:
    lists = {"modes": ["sparse"], "encoders": ["a", "b"], "dtypes": ["fp32", "bf16"]}
    lists["rerankers"] = ["none"]
    assert len(product({**lists, "passages": ["whole"]})) == 1
    # passages are cut by the encoder's own tokens
    assert len(product({**lists, "passages": ["128/16"]})) == 2


def test_the_first_of_equals_stays_where_it_is() -> None:
    one, same = Setting(mode="dense", fusion=Fusion("rrf")), Setting(mode="dense")
    other = Setting(mode="sparse")
    assert joined([one, other, same]) == [one, other]


@given(st.lists(settings(), max_size=12))
def test_settings_that_remain_differ_in_effect_and_in_name(given_: list[Setting]) -> None:
    grid = joined(given_)
    assert {one.effect() for one in grid} == {one.effect() for one in given_}
    assert len({one.effect() for one in grid}) == len(grid)
    called = names(grid)
    assert list(called) == grid
    assert len(set(called.values())) == len(grid)
    assert all(one.effect().effect() == one.effect() for one in given_)


def test_names_say_what_varies_and_nothing_else() -> None:
    grid = product({"modes": ["hybrid", "sparse"], "rerankers": ["none", "org/starter"]})
    assert list(names(grid).values()) == [
        "hybrid · no rerank", "hybrid · starter rerank", "sparse · no rerank",
        "sparse · starter rerank",
    ]  # fmt: skip
    grid = product({"candidates": ["25", "50"], "blends": ["none", "scores:0.5"]})
    assert list(names(grid).values()) == [
        "rerank 25 · none", "rerank 25 · scores:0.5", "rerank 50 · none", "rerank 50 · scores:0.5",
    ]  # fmt: skip
    assert list(names([Setting(), replace(Setting(), mode="dense")]).values()) == [
        "hybrid", "dense",
    ]  # fmt: skip
    texts = product({"instructions": ["model", "none", "Find the rule that answers this: "]})
    assert list(names(texts).values()) == [
        "instruction", "no instruction", "“Find the rule that a…”",
    ]  # fmt: skip


def test_short_names_that_are_the_same_become_long() -> None:
    grid = product({"encoders": ["one/model", "two/model"]})
    assert list(names(grid).values()) == ["one/model", "two/model"]


def test_a_file_of_lists(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_bytes(
        b'\xef\xbb\xbfmodes = ["dense", "hybrid"]\r\ncandidates = [25, 50]\r\n'
        b'passages = "whole"\r\nrerankers = ["starter"]\r\n'
    )
    grid = read_grid(path)
    assert [(one.mode, one.candidates) for one in grid] == [
        ("dense", 25), ("dense", 50), ("hybrid", 25), ("hybrid", 50),
    ]  # fmt: skip
    assert {one.passages for one in grid} == {PassageLength(None, 0)}


def test_a_file_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(
        '[[setting]]\nmode = "dense"\nreranker = "none"\n'
        '[[setting]]\nreranker = "starter"\nblend = "scores:0.5"\ncandidates = 20\n'
    )
    base = Setting(encoder="own")
    assert read_grid(path, base) == [
        Setting(encoder="own", mode="dense", reranker=None),
        Setting(encoder="own", reranker="starter", blend="scores", blend_weight=0.5, candidates=20),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "says nothing"),
        ("modes = []", "list of modes is empty"),
        ('colours = ["red"]', "no dimension 'colours'"),
        ('modes = ["dens"]', "modes has 'dens', expected dense, sparse"),
        ("candidates = [0]", "candidates has '0', expected a whole number"),
        ("candidates = [true]", "candidates has True, expected text or a whole number"),
        ('passages = ["64/63"]', "the overlap at most half"),
        ('fusions = ["rrf:0"]', "fusions has 'rrf:0'"),
        ('fusions = ["dbsf@0/0"]', "fusions has 'dbsf@0/0'"),
        ('blends = ["rrf:0.5"]', "blends has 'rrf:0.5'"),
        ('blends = ["scores:nan"]', "blends has 'scores:nan'"),
        ('encoders = ["none"]', "encoders has 'none'"),
        ('modes = ["dense"]\n[[setting]]\nmode = "dense"', "both lists and"),
        ('[[setting]]\nmodes = "dense"', "a setting has 'modes'; there are encoder"),
        ("setting = 3", "no list of tables"),
        ("modes = [", "cannot be read"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"grid\.toml") as error:
        read_grid(path)
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.toml' cannot be read"):
        read_grid(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('encoders = ["é"]'.encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"latin\.toml' cannot be read"):
        read_grid(tmp_path / "latin.toml")
