"""Fields above a text: typed as they were meant, in any script, and never a bomb."""

from __future__ import annotations

from typing import Any

import pytest

from retrieval.readers.front_matter import NotFrontMatter, split_front_matter
from retrieval.readers.text import parse_markdown


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        ("year: 2024\ndraft: false\nscore: 4.5", {"year": 2024, "draft": False, "score": 4.5}),
        ("date: 2024-03-01 # first edition", {"date": "2024-03-01"}),
        ("at: 2024-03-01T08:00:00+09:00", {"at": "2024-03-01T08:00:00+09:00"}),
        ("version: 1.10\nbuild: 007\nhex: 0x1F",
         {"version": "1.10", "build": "007", "hex": "0x1F"}),
        ("opens: 12:30\ncountry: NO\nlight: on",
         {"opens": "12:30", "country": "NO", "light": "on"}),
        ("语言: 中文\nname-with.dots: x\n\"quoted\": 'it''s'",
         {"语言": "中文", "name-with.dots": "x", "quoted": "it's"}),
        ("tags: [a, 2, true]\nmore:\n  - p\n  - 'q'", {"tags": ["a", 2, True], "more": ["p", "q"]}),
        ("author:\n  name: Ana\n  mail: ~", {"author": {"name": "Ana"}}),
        ("empty:\nnone: null\nlist: []\nkept: 0", {"kept": 0}),
        ("summary: >\n  two\n  lines\nnote: |\n  as\n  is",
         {"summary": "two lines", "note": "as\nis"}),
        ("2024: a year", {"2024": "a year"}),
        ("# only a remark\na: 1", {"a": 1}),
    ],
)  # fmt: skip
def test_yaml(block: str, fields: dict[str, Any]) -> None:
    assert split_front_matter(f"---\n{block}\n---\nText") == (fields, "Text")


def test_toml_as_hugo_has_it() -> None:
    block = 'title = "Guide"\ndate = 2024-03-01\nweight = 3\n[params]\ndraft = true'
    assert split_front_matter(f"+++\n{block}\n+++\nText") == (
        {"title": "Guide", "date": "2024-03-01", "weight": 3, "params": {"draft": True}},
        "Text",
    )


@pytest.mark.parametrize(
    "text",
    [
        "---\nA rule, and prose below it.\n\n---\nMore.",
        "---\n- a list\n- of points\n---\nMore.",
        "---\nunclosed: block\n\nText",
        "no: rule\n---\n",
        "",
    ],
)
def test_what_is_no_front_matter_stays_text(text: str) -> None:
    assert split_front_matter(text) == ({}, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("---\ntitle: Foo: bar\n---\n", "not valid YAML in line 2"),
        ("---\na: &x [1, 2]\nb: *x\n---\n", "references are not followed"),
        ("---\na: !!python/object:os.system x\n---\n", "could not determine a constructor"),
        ("---\n" + "a: " + "[" * 3000 + "\n---\n", "YAML"),
        ("+++\na = \n+++\n", "not valid TOML"),
    ],
)
def test_what_can_be_nothing_else_is_told(text: str, reason: str) -> None:
    with pytest.raises(NotFrontMatter, match=reason):
        split_front_matter(text)
    found = parse_markdown(text.encode(), None)
    assert found.text == text
    assert found.notes[0].startswith("its front matter is not")


def test_a_title_is_the_documents() -> None:
    found = parse_markdown("---\ntitle: 报销指南\n---\n# Heading\n".encode(), None)
    assert (found.title, found.text, found.metadata) == ("报销指南", "# Heading\n", {})
    assert parse_markdown(b"---\ntitle: 2024\n---\n", None).title == "2024"
    assert parse_markdown(b"---\ntitle: [a]\n---\n# H\n", None).title == "H"
