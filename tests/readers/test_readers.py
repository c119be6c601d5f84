"""Readers: what is read, under which ids, and that every bad file is named and hurts no other."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import CorpusError, InvalidInput, MissingExtra
from retrieval.readers import files, jsonl_csv
from retrieval.readers.read import read
from retrieval.types import Document, Problem


def read_all(source: Path | str, **options: Any) -> tuple[dict[str, Document], list[Problem]]:
    """Documents by id, and problems; reading twice must give the same."""
    problems: list[Problem] = []
    documents = list(read(source, on_problem=problems.append, **options))
    assert documents == list(read(source, on_problem=lambda _: None, **options))
    assert len({d.id for d in documents}) == len(documents)
    for document in documents:
        json.dumps(dict(document.metadata), allow_nan=False)
    return {d.id: d for d in documents}, problems


def make(folder: Path, contents: dict[str, str | bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def told(problems: list[Problem], folder: Path) -> list[str]:
    return [str(problem).replace(f"{folder}/", "") for problem in problems]


# --- formats --------------------------------------------------------------------------------


def test_a_tree_of_every_format(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "b.txt": "plain text\r\nsecond line\r",
            "a/guide.md": "---\ntitle: The guide\ntags: [a, 'b c']\n---\n# Start\n\nText.\n",
            "a/page.HTML": "<title>A page</title><p>Hello <b>wor</b>ld</p>",
            "rows.jsonl": '{"id": 7, "text": "7", "title": "T", "lang": "en"}\n\n{"text": "x"}\n',
            "table.csv": "id,text,year,code\n1,first,2020,007\n2,second,1.5,12\n",
            "标题/文档.md": "# 中文\n\n内容。\n",
            ".hidden.txt": "no",
            ".git/config.txt": "no",
        },
    )
    documents, problems = read_all(tmp_path)
    assert not problems
    assert list(documents) == [
        "a/guide.md",
        "a/page.HTML",
        "b.txt",
        "rows.jsonl#7",
        "rows.jsonl#3",
        "table.csv#1",
        "table.csv#2",
        "标题/文档.md",
    ]
    assert documents["b.txt"].text == "plain text\nsecond line\n"
    assert documents["b.txt"].source == str(tmp_path / "b.txt")
    guide = documents["a/guide.md"]
    assert (guide.title, guide.text) == ("The guide", "# Start\n\nText.\n")
    assert guide.metadata == {"tags": ["a", "b c"], "path": "a/guide.md", "format": "markdown"}
    page = documents["a/page.HTML"]
    assert (page.title, page.text) == ("A page", "Hello world")
    seven = documents["rows.jsonl#7"]
    assert (seven.text, seven.title, seven.metadata) == ("7", "T", {"lang": "en"})
    assert seven.source == f"{tmp_path / 'rows.jsonl'}:1"
    assert documents["table.csv#1"].metadata == {"year": 2020, "code": "007"}
    assert documents["table.csv#2"].metadata == {"year": 1.5, "code": "12"}
    assert documents["标题/文档.md"].title == "中文"


def test_a_single_file_gives_rows_their_own_ids(tmp_path: Path) -> None:
    make(tmp_path, {"d.jsonl": '{"_id": "x", "contents": "one"}\n{"content": "two"}'})
    documents, problems = read_all(tmp_path / "d.jsonl")
    assert {k: d.text for k, d in documents.items()} == {"x": "one", "d.jsonl#2": "two"}
    assert not problems
    make(tmp_path, {"n.txt": "t"})
    assert list(read_all(str(tmp_path / "n.txt"))[0]) == ["n.txt"]


def test_a_beir_folder_gives_its_corpus_alone(tmp_path: Path) -> None:
    beir = {
        "corpus.jsonl": '{"_id": "d1", "title": "T", "text": "one", "metadata": {"y": 1}}\n'
        '{"_id": "d2", "title": "only a title", "text": ""}\n',
        "queries.jsonl": '{"_id": "q1", "text": "never a document"}\n',
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    }
    documents, problems = read_all(make(tmp_path / "set", beir))
    assert not problems
    assert {k: (d.title, d.text, d.metadata) for k, d in documents.items()} == {
        "d1": ("T", "one", {"y": 1}),
        "d2": ("", "only a title", {}),
    }
    # Inside a tree likewise, with the path before the ids.
    assert list(read_all(make(tmp_path, {"z.txt": "z"}))[0]) == [
        "set/corpus.jsonl#d1",
        "set/corpus.jsonl#d2",
        "z.txt",
    ]
    (tmp_path / "set" / "corpus.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"no corpus\.jsonl"):
        read(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text;place\nsemi, colon;x\n"),
        ("a.csv", 'TEXT,Place\r\n"semi, colon",x\r\n'),
        ("a.csv", "\ufefftext\tPlace\nsemi, colon\tx\n"),
        ("a.tsv", "Place\ttext\nx\tsemi, colon\n"),
    ],
)
def test_tables_in_their_dialects(tmp_path: Path, name: str, content: str) -> None:
    documents, problems = read_all(make(tmp_path, {name: content}) / name)
    (document,) = documents.values()
    assert document.text == "semi, colon"
    assert list(document.metadata.values()) == ["x"]
    assert (document.id, problems) == (f"{name}#2", [])


def test_cells_over_lines_and_above_pythons_default_limit(tmp_path: Path) -> None:
    long = "word " * 50_000
    content = f'id,text\na,"line one\nline ""two"""\nb,"{long}"\nc,last\n'
    documents, problems = read_all(make(tmp_path, {"t.csv": content}) / "t.csv")
    assert not problems
    assert documents["a"].text == 'line one\nline "two"'
    assert documents["b"].text == long
    assert documents["c"].source.endswith("t.csv:5")


def test_html_is_reduced_to_what_it_says(tmp_path: Path) -> None:
    page = """<?xml version="1.0"?><!DOCTYPE html><html lang="en"><head><title> The
      title </title><style>p {color: red}</style></head><body>
      <nav><a href="/">Home</a></nav><header>Site</header>
      <main><h1>Install<a class="headerlink" href="#i">¶</a></h1>
      <p>First   part,<br>next&nbsp;line &amp; <em>em</em>phasis.</p><!-- note -->
      <script>alert("no")</script>
      <ul><li>one</li><li>two <a href="x">link</a></li></ul>
      <table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td>1</td></tr></table>
      <div><h2>Code</h2><pre>def f():
    return "# x"
</pre></div><div hidden>secret</div><p aria-hidden="true">icon</p></main>
      <footer>imprint</footer></body></html>"""
    (document,) = read_all(make(tmp_path, {"p.htm": page}) / "p.htm")[0].values()
    assert document.title == "The title"
    assert document.metadata == {"language": "en", "path": "p.htm", "format": "html"}
    assert document.text == (
        "# Install\n\nFirst part,\nnext line & emphasis.\n\n- one\n- two link\n\n"
        "| k | v |\n| - | - |\n| a | 1 |\n\n"
        '## Code\n\n```\ndef f():\n    return "# x"\n```'
    )


@pytest.mark.parametrize(
    ("page", "title", "text"),
    [
        ("just words, no tags", "", "just words, no tags"),
        ("<h1>Only <i>this</i></h1>", "Only this", "# Only this"),
        ("<main></main><p>outside</p>", "", "outside"),
        ("<p>unclosed <b>tags <p>everywhere", "", "unclosed tags\n\neverywhere"),
        ("<article>a</article><article>b</article>", "", "a\n\nb"),
        ("<pre>a ``` b</pre>", "", "````\na ``` b\n````"),
        ("<h2></h2><p>x</p><hr><h3><div>in</div></h3>", "", "x\n\n### in"),
        ("<div>" * 3000 + "deep" + "</div>" * 3000, "", "deep"),
    ],
)
def test_html_of_all_kinds(tmp_path: Path, page: str, title: str, text: str) -> None:
    (document,) = read_all(make(tmp_path, {"p.html": page}) / "p.html")[0].values()
    assert (document.title, document.text) == (title, text)


@pytest.mark.parametrize(
    ("front", "metadata"),
    [
        ("a: 1\nb: [x, y]\nc:\n  - p\n  - 'q'\nd:\n  nested: no\n",
         {"a": 1, "b": ["x", "y"], "d": {"nested": "no"}}),
        ("# note\ndate: 2024-01-01\nempty:\n", {"date": "2024-01-01"}),
    ],
)  # fmt: skip
def test_front_matter_is_metadata(tmp_path: Path, front: str, metadata: dict[str, Any]) -> None:
    make(tmp_path, {"a.md": f"---\n{front}---\n\nText"})
    document = read_all(tmp_path / "a.md")[0]["a.md"]
    assert document.text.strip() == "Text"
    assert document.metadata.items() >= metadata.items()
    assert "empty" not in document.metadata


def test_a_rule_at_the_top_is_no_front_matter(tmp_path: Path) -> None:
    text = "---\nJust prose, no fields.\n---\nMore."
    make(tmp_path, {"a.md": text})
    assert read_all(tmp_path / "a.md")[0]["a.md"].text == text


# --- encodings ------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.jsonl", "a.csv"])
def test_unicode_is_told_by_its_mark(tmp_path: Path, codec: str, name: str) -> None:
    content = {
        "a.jsonl": '{"text": "grüße 你好"}\n',
        "a.csv": "text,x\ngrüße 你好,1\n",
    }.get(name, "grüße 你好")
    documents, problems = read_all(make(tmp_path, {name: content.encode(codec)}) / name)
    assert [d.text for d in documents.values()] == ["grüße 你好"]
    assert not problems


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_another_encoding_is_read_when_named(tmp_path: Path, name: str) -> None:
    content = {"a.jsonl": '{"text": "北京"}\n', "a.csv": "text\n北京\n"}.get(name, "北京")
    source = make(tmp_path, {name: content.encode("gb18030")}) / name
    assert [d.text for d in read_all(source, encoding="gb18030")[0].values()] == ["北京"]
    documents, problems = read_all(source)
    assert not documents
    assert "UTF-8" in problems[0].reason
    # A mark says more than the caller, who speaks for the whole tree.
    source.write_bytes(content.encode("utf-8-sig"))
    assert [d.text for d in read_all(source, encoding="gb18030")[0].values()] == ["北京"]


SENTENCES = {
    "cp1252": "Der Aufzug fährt bis zum Gemüsekeller, 5 € für „Gäste“.",
    "cp1250": "Zażółć gęślą jaźń, proszę państwa. Książka łączy ludzi.",
    "cp1251": "Ворота закрываются в десять часов. Отпуск пять дней.",
    "koi8-r": "Ворота закрываются в десять часов. Отпуск пять дней.",
    "gb18030": "大门在十点关闭。报销在十天内完成。",
    "big5": "大門在十點關閉。報銷在十天內完成。",
    "shift_jis": "門は十時に閉まります。精算は十日以内です。",
    "euc-jp": "門は十時に閉まります。精算は十日以内です。",
    "euc-kr": "문은 열 시에 닫힙니다. 휴가는 닷새입니다.",
    "cp1253": "Η πύλη κλείνει στις δέκα. Η άδεια είναι πέντε ημέρες.",
    "cp1255": "השער נסגר בעשר. החופשה היא חמישה ימים.",
    "cp1256": "تغلق البوابة في العاشرة مساء. الإجازة خمسة أيام.",
}


@pytest.mark.parametrize("codec", SENTENCES)
def test_an_encoding_that_nothing_names_is_guessed_and_named(tmp_path: Path, codec: str) -> None:
    text = SENTENCES[codec]
    files = {
        "a.txt": text,
        "b.html": f"<p>{text}",
        "c.jsonl": f'{{"text": "plain"}}\n{{"text": "{text}"}}\n',
        "d.csv": f'id,text\nfirst,plain\nsecond,"{text}"\n',
    }
    make(tmp_path, {name: content.encode(codec) for name, content in files.items()})
    documents, problems = read_all(tmp_path)
    texts = [one.text for one in documents.values() if one.text != "plain"]
    assert texts == [text] * 4
    assert len(problems) == 4
    for problem in problems:
        assert "is not UTF-8 and was read as " in problem.reason
        assert "a guess; give its encoding if that is wrong" in problem.reason


def test_too_little_is_not_guessed_and_damaged_utf8_stays_utf8(tmp_path: Path) -> None:
    damaged = '{"text": "grüße"}\n{"text": "Köln"}\n'.encode() + b'{"text": "gr\xfc\xdfe"}\n'
    make(tmp_path, {"a.txt": "北京".encode("gb18030"), "b.jsonl": damaged})
    documents, problems = read_all(tmp_path)
    assert [one.text for one in documents.values()] == ["grüße", "Köln"]
    assert [one.reason.split(",")[0] for one in problems] == ["was read as UTF-8"] * 2


def test_what_is_guessed_late_in_a_long_file(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "row {number}"}}\n' for number in range(100_000))
    make(tmp_path, {"a.jsonl": rows.encode() + '{"text": "Gemüse"}\n'.encode("cp1252")})
    documents, problems = read_all(tmp_path)
    assert list(documents.values())[-1].text == "Gemüse"
    assert "cp1252" in problems[0].reason


def test_html_may_declare_its_encoding(tmp_path: Path) -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=gb2312"><p>北京</p>'
    make(tmp_path, {"a.html": page.encode("gb2312"), "b.html": page.encode()})
    documents, problems = read_all(tmp_path)
    assert [d.text for d in documents.values()] == ["北京", "北京"]
    assert not problems


# --- bad input ------------------------------------------------------------------------------

BAD_FILES: dict[str, tuple[bytes, str]] = {
    "binary.txt": (b"ab\0cd", "binary.txt: looks binary: a NUL byte at offset 2"),
    "late.txt": (b"a\n" * 40000 + b"\0", "late.txt:40001: looks binary: a NUL"),
    "latin.txt": (
        "grüße\n".encode() + "gr\xfc\xdfe".encode("latin-1"),
        "latin.txt:2: was read as UTF-8, but byte 0xfc",
    ),
    "half.md": ("北京".encode("utf-16")[:-1], "half.md: was read as UTF-16"),
    "empty.txt": (b"", "empty.txt: is empty"),
    "blank.md": (b" \n\t\n", "blank.md: is empty"),
    "bom.txt": (b"\xef\xbb\xbf", "bom.txt: is empty"),
    "script.html": (b"<script>x</script>", "script.html: has no text in its main part"),
    "image.html": (b"\x89PNG\r\n\0", "image.html: looks binary"),
    "none.jsonl": (b"\n\n", "none.jsonl: has no rows"),
    "zip.jsonl": (b"PK\3\4\0\0", "zip.jsonl: looks binary"),
    "none.csv": (b"", "none.csv: is empty"),
    "head.csv": (b"id,text\n", "head.csv: has no rows"),
    "untexted.csv": (b"a,b\n1,2\n", "untexted.csv:1: has the columns a, b; expected one"),
    "twice.csv": (b"text,x,x\n1,2,3\n", "twice.csv:1: has two columns named 'x'"),
    "bytes.csv": (b"te\xffxt,b\n1,2\n", "bytes.csv:1: has the columns"),
    "sixteen.csv": ("text\nab".encode("utf-16")[:-1], "sixteen.csv:2: was read as UTF-16"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    content, expected = BAD_FILES[name]
    make(tmp_path, {"aa.txt": "before", name: content, "zz.txt": "after"})
    documents, problems = read_all(tmp_path)
    assert list(documents) == ["aa.txt", "zz.txt"]
    (problem,) = told(problems, tmp_path)
    assert problem.startswith(expected), problem
    with pytest.raises(CorpusError) as caught:
        list(read(tmp_path, on_error="raise"))
    assert problem in str(caught.value).replace(f"{tmp_path}/", "")
    assert "on_error='skip'" in caught.value.fix


BAD_ROWS = [
    ("a.jsonl", b'{"text": "x"', "is not valid JSON: Expecting"),
    ("a.jsonl", b'["text"]', "is JSON, but an array; expected an object"),
    ("a.jsonl", b"null", "is JSON, but null"),
    ("a.jsonl", b'"text"', "is JSON, but a string"),
    ("a.jsonl", b'{"name": "x"}', "has no text field: found 'name'; expected text"),
    ("a.jsonl", b"{}", "has no text field: found no field"),
    ("a.jsonl", b'{"text": ["x"]}', "has a text field that is an array, expected a string"),
    ("a.jsonl", b'{"text": "x", "title": 3}', "has a title that is a number, expected"),
    ("a.jsonl", b'{"text": "x", "id": [1]}', "has an id that is an array, expected"),
    ("a.jsonl", b'{"text": "x", "id": true}', "has an id that is true, expected"),
    (
        "a.jsonl",
        b'{"text": "x", "n": NaN}',
        "is not JSON that can be used: NaN is not a JSON number",
    ),
    ("a.jsonl", b'{"text": "\\ud800"}', "holds half of a surrogate pair"),
    ("a.jsonl", b'{"text": "a\\u0000b"}', "has a NUL character"),
    ("a.jsonl", b'{"text": " ", "title": ""}', "is empty: neither text nor title"),
    ("a.jsonl", b'{"text": "\xff"}', "was read as UTF-8, but byte 0xff"),
    ("a.jsonl", b'{"a":' * 100_000, "is not JSON that can be used: "),
    ("a.jsonl", b'{"id": "good1", "text": "again"}', "the document id 'good1' was read before"),
    ("a.csv", b"1,2,3,4", "has 4 cells, but the header has 2 columns"),
    ("a.csv", b"x", "has no text field: found 'id'; expected text"),
    ("a.csv", b"x,", "is empty: neither text nor title"),
    ("a.csv", b"x,\xff", "has bytes in the column 'text' that are not UTF-8"),
    ("a.csv", b'x,"a"b', "is not valid CSV: "),
    ("a.csv", b"good1,again", "the document id 'good1' was read before"),
]


@pytest.mark.parametrize("encoding", [None, "UTF8"])
@pytest.mark.parametrize(("name", "row", "reason"), BAD_ROWS)
def test_a_bad_row_is_named_by_line_and_the_rest_is_read(
    tmp_path: Path, name: str, row: bytes, reason: str, encoding: str | None
) -> None:
    lines = (
        [b'{"id": "good1", "text": "one"}', row, b'{"id": "good2", "text": "two"}']
        if name == "a.jsonl"
        else [b"id,text", b"good1,one", row, b"good2,two"]
    )
    source = make(tmp_path, {name: b"\n".join(lines)}) / name
    documents, problems = read_all(source, encoding=encoding)
    assert list(documents) == ["good1", "good2"]
    (problem,) = told(problems, tmp_path)
    assert problem.startswith(f"{name}:{lines.index(row) + 1}: {reason}"), problem
    with pytest.raises(CorpusError):
        list(read(source, on_error="raise"))


def test_an_open_quote_is_told_with_its_line(tmp_path: Path) -> None:
    source = make(tmp_path, {"a.csv": 'text\nfine\n"open\nlost\n'}) / "a.csv"
    documents, problems = read_all(source)
    assert [d.text for d in documents.values()] == ["fine"]
    assert told(problems, tmp_path)[0].startswith("a.csv:3: is not valid CSV")
    assert "never closed" in problems[0].reason


def test_only_so_many_bad_rows_of_a_file_are_listed(tmp_path: Path) -> None:
    source = make(tmp_path, {"a.jsonl": "bad\n" * 1000 + '{"text": "good"}\n'}) / "a.jsonl"
    documents, problems = read_all(source)
    assert list(documents) == ["a.jsonl#1001"]
    assert len(problems) == 101
    assert problems[-1].reason == "has 900 more bad rows; the first 100 are named"


def test_ids_given_twice_are_named(tmp_path: Path) -> None:
    make(tmp_path, {"a.jsonl": '{"id": "x", "text": "1"}\n{"id": "x", "text": "2"}\n'})
    documents, problems = read_all(tmp_path)
    assert documents["a.jsonl#x"].text == "1"
    assert told(problems, tmp_path) == [
        "a.jsonl:2: the document id 'a.jsonl#x' was read before in this run; the first is kept"
    ]


def test_lines_and_files_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl_csv, "MAX_LINE_BYTES", 2**20)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 3 * 2**20)
    long = '{"text": "' + "x" * 2**21 + '"}\n'
    make(
        tmp_path,
        {
            "a.jsonl": '{"text": "one"}\n' + long + '{"text": "two"}\n',
            "b.jsonl": (long + '{"text": "two"}\n').encode("utf-16"),
            "c.csv": "text\none\n" + "x" * 2**21 + "\n",
            "d.txt": "x" * (3 * 2**20 + 1),
            "e.txt": "x" * (3 * 2**20),
        },
    )
    documents, problems = read_all(tmp_path)
    assert list(documents) == ["a.jsonl#1", "a.jsonl#3", "c.csv#2", "e.txt"]
    assert [p.split(", ")[0] for p in told(problems, tmp_path)] == [
        "a.jsonl:2: is longer than 1 MiB",
        "b.jsonl:1: is longer than 1 MiB",
        "c.csv:3: is longer than 1 MiB",
        "d.txt: is larger than 3 MiB",
    ]


def test_other_suffixes_are_counted_and_never_fatal(tmp_path: Path) -> None:
    make(tmp_path, {"a.txt": "a", "b.ODT": "x", "c/d.odt": "x", "Makefile": "x"})
    documents, problems = read_all(tmp_path, on_error="raise")
    assert list(documents) == ["a.txt"]
    assert [p.split("; ")[0] for p in told(problems, tmp_path)] == [
        "Makefile: 1 file has no suffix and were skipped (this is the first)",
        "b.ODT: 2 files have the suffix .odt and were skipped (this is the first)",
    ]


def test_a_folder_with_nothing_to_read_says_so(tmp_path: Path) -> None:
    documents, problems = read_all(tmp_path)
    assert not documents
    assert "holds no file that can be read" in problems[0].reason
    with pytest.raises(CorpusError, match="holds no file"):
        list(read(tmp_path, on_error="raise"))


def test_without_the_extra_each_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.pdf", "b.docx", "c.pptx"):
        (tmp_path / name).write_bytes(b"not looked at")
    (tmp_path / "d.txt").write_text("text")
    for module in ("pypdfium2", "docx", "pptx"):
        monkeypatch.setitem(sys.modules, module, None)
    problems: list[Problem] = []
    documents = list(read(tmp_path, on_problem=problems.append))
    assert [document.id for document in documents] == ["d.txt"]
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in problems] == [
        f"{name}: was not read. Reading {kind} files needs the package '{package}', which is not "
        "installed. Install it with: pip install 'two-stage-retrieval[files]'"
        for name, kind, package in (
            ("a.pdf", "PDF", "pypdfium2"),
            ("b.docx", "Word", "python-docx"),
            ("c.pptx", "PowerPoint", "python-pptx"),
        )
    ]
    with pytest.raises(MissingExtra, match=r"two-stage-retrieval\[files\]"):
        list(read(tmp_path, on_error="raise"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
def test_links_loops_pipes_and_names_that_are_no_text(tmp_path: Path) -> None:
    real = make(tmp_path / "root", {"z/real.txt": "real"})
    (real / "a_link").symlink_to(real / "z", target_is_directory=True)
    (real / "z" / "loop").symlink_to(real, target_is_directory=True)
    outside = make(tmp_path / "outside", {"o.txt": "linked"})
    (outside / "back").symlink_to(outside, target_is_directory=True)
    (real / "b").symlink_to(outside, target_is_directory=True)
    (real / "file.txt").symlink_to(outside / "o.txt")
    (real / "broken.txt").symlink_to(real / "missing.txt")
    os.mkfifo(real / "pipe.txt")
    bad_name = os.fsdecode(os.fsencode(real) + b"/caf\xe9.txt")
    Path(bad_name).write_text("x", encoding="utf-8")
    documents, problems = read_all(real)
    assert list(documents) == ["z/real.txt"]
    assert [one for one in told(problems, real) if "leads out of the folder" in one] == [
        f"{name}: is a link that leads out of the folder, and is not followed unless "
        "follow_links is given (--follow-links)"
        for name in ("file.txt", "b")
    ]
    documents, problems = read_all(real, follow_links=True)
    assert list(documents) == ["file.txt", "z/real.txt", "b/o.txt"]
    assert sorted(told(problems, real)) == [
        "broken.txt: cannot be read: no such file or directory",
        "caf\\udce9.txt: has a name that is not valid UTF-8; rename it",
        "pipe.txt: is neither a file nor a folder (a pipe, socket or device)",
    ]


@contextlib.contextmanager
def someone_else() -> Iterator[Path]:
    """A folder that all may enter, and a user whom permissions bind, as they do not bind root."""
    folder = Path(tempfile.mkdtemp(prefix="retrieval-test-"))
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_what_permissions_forbid_is_named() -> None:
    with someone_else() as folder:
        make(folder, {"a.txt": "a", "b.txt": "b", "c/c.txt": "c", "d.jsonl": "{}", "e.csv": "text"})
        for name in ("b.txt", "c", "d.jsonl", "e.csv"):
            (folder / name).chmod(0)
        documents, problems = read_all(folder)
        assert list(documents) == ["a.txt"]
        assert told(problems, folder) == [
            f"{name}: cannot be read: permission denied"
            for name in ("b.txt", "c", "d.jsonl", "e.csv")
        ]
        for name in ("c", "c/c.txt"):
            with pytest.raises(CorpusError, match="permission denied"):
                read(folder / name)
        with pytest.raises(CorpusError, match="permission denied"):
            list(read(folder / "b.txt", on_error="raise"))


@pytest.mark.skipif(os.name == "nt", reason="no such permissions there")
def test_a_folder_that_may_be_listed_and_not_entered() -> None:
    with someone_else() as folder:
        make(folder, {"a.txt": "a", "f/x.txt": "x"})
        (folder / "f").chmod(0o444)
        try:
            documents, problems = read_all(folder)
        finally:
            (folder / "f").chmod(0o755)
        assert list(documents) == ["a.txt"]
        assert told(problems, folder) == ["f/x.txt: cannot be read: permission denied"]


# --- the call itself ------------------------------------------------------------------------


def test_a_source_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    make(tmp_path, {"a.odt": "x", "README": "x"})
    os.mkfifo(tmp_path / "pipe.txt")
    for source, words in {
        "missing": "there is no file or folder",
        "a.odt": "has the suffix '.odt'; expected one of txt",
        "README": "has no suffix",
        "pipe.txt": "neither a file nor a folder",
        "x" * 300: "too long",
        "a\0b": "null",
    }.items():
        with pytest.raises(CorpusError) as caught:
            read(tmp_path / source)
        assert words in str(caught.value)
        assert caught.value.fix
    with pytest.raises(CorpusError, match="the source is empty"):
        read("")


@pytest.mark.parametrize(
    "options", [{"on_error": "ignore"}, {"encoding": "utf-9"}, {"encoding": "rot13"}]
)
def test_bad_arguments_are_refused_in_words(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, **options)
    assert repr(next(iter(options.values()))) in str(caught.value)


def test_problems_nobody_asks_for_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, {"a.txt": "", "b.txt": "b"})
    with caplog.at_level(logging.WARNING):
        assert len(list(read(tmp_path))) == 1
    assert "a.txt: is empty" in caplog.text


def test_reading_is_lazy(tmp_path: Path) -> None:
    source = tmp_path / "many.jsonl"
    with source.open("w", encoding="utf-8") as out:
        for number in range(100_000):
            out.write(json.dumps({"id": number, "text": "x" * 100}) + "\n")
    documents = read(source)
    assert [d.id for d in itertools.islice(documents, 3)] == ["0", "1", "2"]
    source.unlink()
    assert next(documents).id == "3"


@pytest.mark.shared_data
def test_a_public_collection_is_read_whole(shared_data: Path) -> None:
    documents, problems = read_all(shared_data / "scifact")
    assert len(documents) == 5183
    assert not problems
    documents, problems = read_all(shared_data / "xquad-zh")
    assert len(documents) == 240
    assert not problems
