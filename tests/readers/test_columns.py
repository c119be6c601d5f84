"""Tables and JSON Lines: columns by usual names or by choice, kinds settled by column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import InvalidInput
from retrieval.readers.read import read
from retrieval.types import Document, Problem


def rows_of(
    tmp_path: Path, content: str, name: str = "t.csv", **options: Any
) -> tuple[list[Document], list[str]]:
    (tmp_path / name).write_text(content, encoding="utf-8")
    problems: list[Problem] = []
    documents = list(read(tmp_path / name, on_problem=problems.append, **options))
    return documents, [str(one).removeprefix(f"{tmp_path}/") for one in problems]


@pytest.mark.parametrize(
    ("header", "text", "title"),
    [
        ("id,page_content,k", "a", ""),
        ("id,Body,k", "a", ""),
        ("ID,Content,Title", "a", "b"),
        ("id,Question,Answer", "b", "a"),
        ("id,answer,question", "a", "b"),
    ],
)
def test_usual_names_in_any_case(tmp_path: Path, header: str, text: str, title: str) -> None:
    (document,), problems = rows_of(tmp_path, f"{header}\n7,a,b\n")
    assert (document.id, document.text, document.title, problems) == ("7", text, title, [])
    (document,), _ = rows_of(
        tmp_path, '{"doc_id": 3, "question": "q", "answer": "a", "k": 1}\n', "t.jsonl"
    )
    assert (document.id, document.text, document.title) == ("3", "a", "q")
    assert document.metadata == {"k": 1}


def test_columns_by_choice(tmp_path: Path) -> None:
    columns = {"text": ["Befund", "Therapie"], "title": "Name", "id": "Nr"}
    content = "Nr;Name;Befund;Therapie;Jahr\n4;Knie;Riss.;Ruhe.;2020\n5;Arm;Bruch.;;2021\n"
    documents, problems = rows_of(tmp_path, content, columns=columns)
    assert not problems
    assert [(one.id, one.title, one.text, one.metadata) for one in documents] == [
        ("4", "Knie", "Riss.\n\nRuhe.", {"Jahr": 2020}),
        ("5", "Arm", "Bruch.", {"Jahr": 2021}),
    ]
    lines = '{"Nr": "4", "Befund": "Riss.", "text": "other"}\n{"text": "x"}\n'
    documents, problems = rows_of(tmp_path, lines, "t.jsonl", columns=columns)
    assert [(one.id, one.text, one.metadata) for one in documents] == [
        ("4", "Riss.", {"text": "other"})
    ]
    assert problems == ["t.jsonl:2: has no text field: found 'text'; expected Befund, Therapie"]


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    _, problems = rows_of(tmp_path, "a,b\n1,2\n", columns={"text": "c"})
    assert problems == ["t.csv:1: has the columns a, b; expected 'c' among them"]
    _, problems = rows_of(tmp_path, "a,b\n1,2\n")
    assert problems[0].endswith("or its name as the text column")


def test_kinds_are_settled_by_column(tmp_path: Path) -> None:
    content = (
        "id,text,version,count,share,flag,code,empty\n"
        "a,x,1.10,3,0.5,true,007,\n"
        "b,x,1.1,4,2,false,12,\n"
        "c,x,,,,,,\n"
    )
    documents, _ = rows_of(tmp_path, content)
    assert [one.metadata for one in documents] == [
        {"version": "1.10", "count": 3, "share": 0.5, "flag": True, "code": "007"},
        {"version": "1.1", "count": 4, "share": 2, "flag": False, "code": "12"},
        {},
    ]


@pytest.mark.parametrize(
    "columns", [{"body": "x"}, {"text": ""}, {"text": 3}, {"id": ["a", "b"]}, ["text"]]
)
def test_columns_that_cannot_be_meant_are_refused(tmp_path: Path, columns: Any) -> None:
    with pytest.raises(InvalidInput, match="columns"):
        rows_of(tmp_path, "text\nx\n", columns=columns)
