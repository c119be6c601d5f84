"""Spreadsheets, mail, notebooks, code and data, read as what they are."""

from __future__ import annotations

import datetime
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from retrieval.readers.read import read
from retrieval.types import Document, Problem


def read_one(path: Path, **options: Any) -> tuple[Document, list[str]]:
    problems: list[Problem] = []
    (document,) = read(path, on_problem=problems.append, **options)
    return document, [one.reason for one in problems]


def refused(path: Path) -> str:
    problems: list[Problem] = []
    assert not list(read(path, on_problem=problems.append))
    (problem,) = problems
    return problem.reason


# --- spreadsheets ---------------------------------------------------------------------------


def test_a_spreadsheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.properties.title, book.properties.creator = "Stock", "A. Author"
    sheet = book.active
    sheet.title = "Parts"
    sheet.append(["name", "price", "share", "since", "kept"])
    sheet.append(["bolt | M8", 2.5, 0.125, datetime.date(2024, 3, 1), True])
    sheet.append([None, 3, None, datetime.datetime(2024, 3, 1, 8, 30), False])
    sheet["B2"].number_format = "0.00"
    sheet["C2"].number_format = "0.0%"
    sheet.append([])
    sheet.append(["sum", "=SUM(B2:B3)"])
    book.create_sheet("Empty")
    other = book.create_sheet("Numbers")
    other["B2"], other["C2"], other["B3"] = 1, 2, 3
    hidden = book.create_sheet("Lists")
    hidden["A1"], hidden.sheet_state = "secret", "hidden"
    book.save(tmp_path / "a.xlsx")
    document, problems = read_one(tmp_path / "a.xlsx")
    assert document.text == (
        "# Parts\n\n"
        "| name | price | share | since | kept |\n"
        "| - | - | - | - | - |\n"
        "| bolt \\| M8 | 2.50 | 12.5% | 2024-03-01 | TRUE |\n"
        "|  | 3 |  | 2024-03-01 08:30 | FALSE |\n"
        "| sum |  |  |  |  |\n\n"
        "# Numbers\n\n| 1 | 2 |\n| 3 |  |"
    )
    assert (document.title, document.metadata["author"]) == ("Stock", "A. Author")
    assert problems == ["has hidden sheets that were not read: Lists"]


def test_spreadsheets_that_are_refused(tmp_path: Path) -> None:
    openpyxl.Workbook().save(tmp_path / "empty.xlsx")
    assert refused(tmp_path / "empty.xlsx") == "has no cells with values"
    (tmp_path / "a.xlsx").write_bytes(b"no package")
    assert "spreadsheet" in refused(tmp_path / "a.xlsx")
    (tmp_path / "b.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    assert "encrypted with a password, or in the binary format" in refused(tmp_path / "b.xlsx")


# --- mail -----------------------------------------------------------------------------------


def test_mail_with_all_that_mail_has(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"] = "Jörg Müller <joerg@example.org>"
    mail["To"] = "a@example.org, b@example.org"
    mail["Subject"] = "Die Öffnungszeiten"
    mail["Date"] = "Fri, 01 Mar 2024 08:30:00 +0100"
    mail.set_content("Das Tor schließt um zehn.\n")
    mail.add_alternative("<p>Das Tor <b>schließt</b>.</p>", subtype="html")
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="plan.pdf")
    inner = EmailMessage()
    inner["Subject"], inner["From"] = "Before", "c@example.org"
    inner.set_content("When does it close?")
    mail.add_attachment(inner)
    (tmp_path / "a.eml").write_bytes(bytes(mail))
    document, problems = read_one(tmp_path / "a.eml")
    assert document.title == "Die Öffnungszeiten"
    assert document.text == ("Das Tor schließt um zehn.\n\n## Before\n\nWhen does it close?")
    assert document.metadata == {
        "from": ["Jörg Müller <joerg@example.org>"],
        "to": ["a@example.org", "b@example.org"],
        "date": "2024-03-01T08:30:00+01:00",
        "attachments": ["plan.pdf"],
        "path": "a.eml",
        "format": "mail",
    }
    assert problems == ["has attachments that were not read: plan.pdf"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Subject: s\nContent-Type: text/html; charset=gb2312\n\n<p>\xb1\xb1\xbe\xa9</p>", "北京"),
        (b"Subject: s\nContent-Type: text/plain; charset=nonsense\n\nas it is", "as it is"),
        (b"Subject: alone\n\n", "alone"),
        (b"Subject: =?utf-8?B?5YyX5Lqs?=\nDate: never\nFrom: <<>\n\nx", "x"),
    ],
)
def test_mail_of_all_kinds(tmp_path: Path, raw: bytes, text: str) -> None:
    (tmp_path / "a.eml").write_bytes(raw)
    assert read_one(tmp_path / "a.eml")[0].text == text


def test_what_is_no_mail_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(b"just words\n")
    assert refused(tmp_path / "a.eml").startswith("is not a mail")


# --- notebooks ------------------------------------------------------------------------------


def test_a_notebook(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Fit\n", "of a line"]},
        {
            "cell_type": "code",
            "source": "# no heading\nprint(1)",
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "array([2])"}},
                {"output_type": "error", "traceback": ["not read"]},
                {"output_type": "stream", "text": "x" * 3000},
            ],
        },
    ]
    notebook = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4}
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    document, _ = read_one(tmp_path / "a.ipynb")
    assert document.title == "Fit"
    assert document.text == (
        "# Fit\nof a line\n\n```python\n# no heading\nprint(1)\n```\n\n```\n1\n```\n\n"
        f"```\narray([2])\n```\n\n```\n{'x' * 2000}…\n```"
    )
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": "2 + 2", "outputs": []}]}]}
    (tmp_path / "a.ipynb").write_text(json.dumps(old))
    assert read_one(tmp_path / "a.ipynb")[0].text == "```python\n2 + 2\n```"
    for bad in ("{}", "[]", "{", '{"cells": 3}'):
        (tmp_path / "b.ipynb").write_text(bad)
        assert "notebook" in refused(tmp_path / "b.ipynb")


# --- code and data --------------------------------------------------------------------------


def test_code_is_as_it_is_and_its_comments_are_no_headings(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('# not a heading\ndef f():\n    """```"""\n\n')
    document, _ = read_one(tmp_path / "a.py")
    assert document.text == '````python\n# not a heading\ndef f():\n    """```"""\n````'
    assert document.metadata == {"language": "python", "path": "a.py", "format": "code"}
    (tmp_path / "b.YAML").write_text("a: 1\n")
    assert read_one(tmp_path / "b.YAML")[0].text == "```yaml\na: 1\n```"
    (tmp_path / "c.sh").write_text("\n\n")
    assert refused(tmp_path / "c.sh") == "is empty"


def test_json_is_a_list_of_documents_or_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": "x", "text": "one", "k": 1}, {"text": "two"}, 3]')
    problems: list[Problem] = []
    found = list(read(path, on_problem=problems.append))
    assert [(one.id, one.text, one.metadata) for one in found] == [
        ("x", "one", {"k": 1}),
        ("a.json#2", "two", {}),
    ]
    assert [str(one).rpartition("/")[2] for one in problems] == [
        "a.json:3: is a number, expected an object with a text field"
    ]
    path.write_text('{"version": 2, "data": [{"question": "q", "answer": "a"}]}')
    document, _ = read_one(path)
    assert (document.title, document.text) == ("q", "a")
    path.write_text('{"port": 8080, "hosts": ["a"]}')
    document, _ = read_one(path)
    assert document.text == '```json\n{"port": 8080, "hosts": ["a"]}\n```'
    assert document.metadata["format"] == "json"
    path.write_text('{"port": 8080,\n}')
    assert refused(path).startswith("is not valid JSON: ")


# --- markup ---------------------------------------------------------------------------------


def test_restructuredtext(tmp_path: Path) -> None:
    (tmp_path / "a.rst").write_text(
        "=====\nGuide\n=====\n\nFirst::\n\n    # code\n\n    more\n\nPart\n----\n\n"
        ".. code-block:: python\n   :linenos:\n\n   x = 1\n\n.. note:: Kept.\n\nDeep\n~~~~\nend\n"
    )
    document, _ = read_one(tmp_path / "a.rst")
    assert document.title == "Guide"
    assert [line for line in document.text.split("\n") if line] == [
        "# Guide", "First:", "```", "# code", "more", "```", "## Part", "```python", "x = 1",
        "```", ".. note:: Kept.", "### Deep", "end",
    ]  # fmt: skip


def test_tex(tmp_path: Path) -> None:
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\title{A \\emph{Paper}}\\begin{document}\\maketitle\n"
        '% a remark\n\\section{Start} Some \\textbf{bold} text, $x^2$, 5\\%, na\\"ive.\n'
        "\\subsection*{More} \\unknown{kept}\\begin{verbatim}\nx_1 % stays\n\\end{verbatim}\n"
        "\\end{document} not read"
    )
    document, _ = read_one(tmp_path / "a.tex")
    assert document.title == "A Paper"
    assert [line.strip() for line in document.text.split("\n") if line.strip()] == [
        "## Start", "Some bold text, $x^2$, 5%, naïve.", "### More", "kept", "```",
        "x_1 % stays", "```",
    ]  # fmt: skip
