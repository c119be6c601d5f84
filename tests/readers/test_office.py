"""Word and PowerPoint files: everything that is read, in order, and what is refused."""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import CorpusError
from retrieval.readers import zip_limits
from retrieval.readers.read import read
from retrieval.splitting.splitter import Splitter
from retrieval.types import Document, Problem

docx = pytest.importorskip("docx", reason="python-docx (extra 'files') is not installed")
pptx = pytest.importorskip("pptx", reason="python-pptx (extra 'files') is not installed")

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def read_one(path: Path) -> Document:
    problems: list[Problem] = []
    (document,) = read(path, on_problem=problems.append)
    assert not problems
    return document


def word(tmp_path: Path, document: Any) -> Document:
    document.save(str(tmp_path / "a.docx"))
    return read_one(tmp_path / "a.docx")


def body_of(tmp_path: Path, xml: str, parts: dict[str, str] | None = None) -> str:
    """The text of a Word document whose body is this XML."""
    document = docx.Document()
    document.save(str(tmp_path / "plain.docx"))
    body = f"<w:document {W}><w:body>{xml}</w:body></w:document>"
    changed = {"word/document.xml": body, **(parts or {})}
    rewrite(tmp_path / "plain.docx", tmp_path / "a.docx", changed)
    return read_one(tmp_path / "a.docx").text


def rewrite(source: Path, target: Path, changed: dict[str, str | bytes]) -> None:
    """A package with some parts replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", 8) as new:
        for name in [*old.namelist(), *(changed.keys() - set(old.namelist()))]:
            new.writestr(name, changed[name] if name in changed else old.read(name))


def paragraph(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


# --- Word -----------------------------------------------------------------------------------


def test_a_word_document(tmp_path: Path, minilm: Any) -> None:
    document = docx.Document()
    core = document.core_properties
    core.title, core.author, core.language = "The report", "A. Author", "en-GB"
    document.add_heading("The report", 0)
    document.add_paragraph("An introduction.")
    document.add_heading("Costs", 1)
    document.add_paragraph("first", style="List Bullet")
    document.add_paragraph("second", style="List Bullet")
    document.add_heading("In detail", 2)
    table = document.add_table(rows=3, cols=3)
    for row, cells in enumerate([("item", "2024", "2025"), ("paper", "1", ""), ("", "", "")]):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.add_paragraph("one", style="List Number")
    document.add_paragraph("two\nin two lines", style="List Number")
    document.add_paragraph("")
    document.add_paragraph("The end.")
    read_document = word(tmp_path, document)
    assert read_document.title == "The report"
    assert read_document.metadata == {
        "author": "A. Author",
        "language": "en-GB",
        "path": "a.docx",
        "format": "docx",
    }
    assert read_document.pages == ()
    assert read_document.text == (
        "# The report\n\nAn introduction.\n\n## Costs\n\n- first\n- second\n\n### In detail\n\n"
        "| item | 2024 | 2025 |\n| - | - | - |\n| paper | 1 |  |\n\n"
        "1. one\n2. two\nin two lines\n\nThe end."
    ).replace("## Costs", "# Costs").replace("### In", "## In")
    passages = Splitter(minilm, max_tokens=16, overlap_tokens=0).split(read_document)
    assert passages[-1].headings == ("Costs", "In detail")


@pytest.mark.parametrize(
    ("made", "title"),
    [
        (lambda d: d.add_paragraph("Named so", style="Title"), "Named so"),
        (lambda d: d.add_heading("A first heading", 1), "A first heading"),
        (lambda d: (d.add_heading("Below", 2), d.add_heading("Top", 1)), "Top"),
        (lambda d: (d.add_heading("Top", 1), d.add_heading("Title", 0)), "Title"),
        (lambda d: d.add_paragraph("Only text"), ""),
    ],
)
def test_a_document_without_a_title_of_its_own(
    tmp_path: Path, made: Callable[[Any], Any], title: str
) -> None:
    document = docx.Document()
    made(document)
    assert word(tmp_path, document).title == title


def test_a_document_without_properties_has_none_made_up(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Text.")
    document.save(str(tmp_path / "with.docx"))
    with zipfile.ZipFile(tmp_path / "with.docx") as package:
        relations = package.read("_rels/.rels").decode()
    without = re.sub(r"<Relationship [^>]*core-properties[^>]*/>", "", relations)
    assert without != relations
    rewrite(tmp_path / "with.docx", tmp_path / "a.docx", {"_rels/.rels": without})
    found = read_one(tmp_path / "a.docx")
    assert (found.title, found.metadata) == ("", {"path": "a.docx", "format": "docx"})


def test_what_hides_from_plain_readers_is_read_and_what_is_deleted_is_not(tmp_path: Path) -> None:
    box = paragraph("in a box")
    xml = (
        "<w:sdt><w:sdtContent>" + paragraph("in a control") + "</w:sdtContent></w:sdt>"
        '<w:p><w:r><w:t xml:space="preserve">kept </w:t></w:r>'
        "<w:ins><w:r><w:t>inserted</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        "<w:r><w:tab/><w:t>tab</w:t><w:noBreakHyphen/><w:t>hyphen</w:t></w:r>"
        "<w:smartTag><w:r><w:t>, smart</w:t></w:r></w:smartTag>"
        "<w:hyperlink><w:r><w:t>, link</w:t></w:r></w:hyperlink>"
        "<w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
        '<w:p><w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/'
        f'markup-compatibility/2006"><mc:Choice><w:txbxContent>{box}</w:txbxContent></mc:Choice>'
        f"<mc:Fallback><w:txbxContent>{box}</w:txbxContent></mc:Fallback>"
        "</mc:AlternateContent><w:t>beside a box</w:t></w:r></w:p>"
        "<w:tbl><w:tr><w:tc>"
        + paragraph("a frame")
        + paragraph("of text")
        + "</w:tc></w:tr></w:tbl>"
        "<w:tbl><w:tr><w:tc><w:tbl><w:tr><w:tc>"
        + paragraph("in")
        + "</w:tc><w:tc>"
        + paragraph("ner")
        + "</w:tc></w:tr></w:tbl></w:tc><w:tc>"
        + paragraph("outer")
        + "</w:tc></w:tr></w:tbl>"
    )
    assert body_of(tmp_path, xml) == (
        "in a control\n\nkept inserted tab-hyphen, smart, link\n\nbeside a box\n\nin a box\n\n"
        "a frame\n\nof text\n\n| in | ner |\n\nouter"
    )


def test_headings_and_lists_by_every_way_they_are_made(tmp_path: Path) -> None:
    styles = (
        f"<w:styles {W}>"
        '<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Kapitel"><w:name w:val="Kapitel"/>'
        '<w:basedOn w:val="berschrift1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Loop"><w:name w:val="Loop"/>'
        '<w:basedOn w:val="Loop"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="T1"><w:name w:val="toc 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Points"><w:name w:val="Points"/><w:pPr><w:numPr>'
        '<w:ilvl w:val="1"/><w:numId w:val="1"/></w:numPr></w:pPr></w:style></w:styles>'
    )
    numbering = (
        f'<w:numbering {W}><w:abstractNum w:abstractNumId="9">'
        '<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/>'
        '<w:lvlText w:val="%1."/></w:lvl>'
        '<w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/><w:lvlText w:val="o"/></w:lvl>'
        '<w:lvl w:ilvl="2"><w:start w:val="1"/><w:numFmt w:val="decimal"/>'
        '<w:lvlText w:val="%3."/></w:lvl></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="9"/></w:num></w:numbering>'
    )

    def listed(text: str, level: int, list_id: int = 1) -> str:
        places = f'<w:ilvl w:val="{level}"/><w:numId w:val="{list_id}"/>'
        return paragraph(text, f"<w:numPr>{places}</w:numPr>")

    xml = "".join(
        [
            paragraph("Contents 3", '<w:pStyle w:val="T1"/>'),
            paragraph("Localised", '<w:pStyle w:val="berschrift1"/>'),
            paragraph("Derived", '<w:pStyle w:val="Kapitel"/>'),
            paragraph("Outlined", '<w:outlineLvl w:val="2"/>'),
            paragraph("Body again", '<w:pStyle w:val="Kapitel"/><w:outlineLvl w:val="9"/>'),
            paragraph("Circle", '<w:pStyle w:val="Loop"/>'),
            listed("a", 0),
            listed("aa", 2),
            listed("ab", 2),
            listed("b", 0),
            listed("ba", 2),
            paragraph("point", '<w:pStyle w:val="Points"/>'),
            paragraph("none", '<w:pStyle w:val="Points"/><w:numPr><w:numId w:val="0"/></w:numPr>'),
        ]
    )
    parts = {"word/styles.xml": styles, "word/numbering.xml": numbering}
    assert body_of(tmp_path, xml, parts) == (
        "# Localised\n\n# Derived\n\n### Outlined\n\nBody again\n\nCircle\n\n"
        "1. a\n    1. aa\n    2. ab\n2. b\n    1. ba\n  - point\n\nnone"
    )


def test_notes_follow_the_paragraph_they_belong_to(tmp_path: Path) -> None:
    document = docx.Document()
    document.save(str(tmp_path / "plain.docx"))
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    with zipfile.ZipFile(tmp_path / "plain.docx") as package:
        relations = package.read("word/_rels/document.xml.rels").decode()
        types = package.read("[Content_Types].xml").decode()
    body = '<w:p><w:r><w:t>A claim.</w:t><w:footnoteReference w:id="2"/></w:r></w:p>' + paragraph(
        "The next."
    )
    notes = (
        f'<w:footnotes {W}><w:footnote w:type="separator" w:id="0">{paragraph("-----")}'
        f'</w:footnote><w:footnote w:id="2">{paragraph("Its source.")}</w:footnote></w:footnotes>'
    )
    override = (
        '<Override PartName="/word/footnotes.xml" ContentType="application/vnd.openxmlformats-'
        'officedocument.wordprocessingml.footnotes+xml"/></Types>'
    )
    link = f'<Relationship Id="rId99" Type="{kind}" Target="footnotes.xml"/></Relationships>'
    changed: dict[str, str | bytes] = {
        "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
        "word/footnotes.xml": notes,
        "word/_rels/document.xml.rels": relations.replace("</Relationships>", link),
        "[Content_Types].xml": types.replace("</Types>", override),
    }
    rewrite(tmp_path / "plain.docx", tmp_path / "a.docx", changed)
    assert read_one(tmp_path / "a.docx").text == "A claim.\n\nIts source.\n\nThe next."


# --- PowerPoint -----------------------------------------------------------------------------


def test_a_presentation(tmp_path: Path, minilm: Any) -> None:
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[0])
    first.shapes.title.text = "The year\vin numbers"
    first.placeholders[1].text = "A subtitle"
    deck.slides.add_slide(deck.slide_layouts[6])  # blank
    third = deck.slides.add_slide(deck.slide_layouts[1])
    third.shapes.title.text = "Costs"
    frame = third.placeholders[1].text_frame
    frame.text = "paper"
    point = frame.add_paragraph()
    point.text, point.level = "of wood", 1
    third.notes_slide.notes_text_frame.text = "Say this slowly."
    fourth = deck.slides.add_slide(deck.slide_layouts[6])
    inch = Inches(1)
    # Drawn from the bottom up, read from the top down.
    fourth.shapes.add_textbox(inch, 6 * inch, inch, inch).text_frame.text = "bottom"
    table = fourth.shapes.add_table(2, 2, inch, 3 * inch, inch, inch).table
    for at, text in enumerate(("a", "b", "c", "")):
        table.cell(at // 2, at % 2).text = text
    group = fourth.shapes.add_group_shape()
    group.shapes.add_textbox(4 * inch, inch, inch, inch).text_frame.text = "grouped"
    fourth.shapes.add_textbox(inch, inch, inch, inch).text_frame.text = "top"
    data = CategoryChartData()
    data.categories = ["x"]
    data.add_series("Sales", (1.0,))
    chart = fourth.shapes.add_chart(XL_CHART_TYPE.PIE, inch, 5 * inch, inch, inch, data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "A chart"
    deck.save(str(tmp_path / "a.pptx"))
    found = read_one(tmp_path / "a.pptx")
    slides = [
        "# The year in numbers\n\nA subtitle",
        "",
        "# Costs\n\n- paper\n  - of wood\n\nNotes:\n\nSay this slowly.",
        "top\n\ngrouped\n\n| a | b |\n| - | - |\n| c |  |\n\nA chart\n\nbottom",
    ]
    assert found.text == "\n\n".join(filter(None, slides))
    starts = [found.text.index(slides[at]) for at in (0, 2, 2, 3)]
    assert found.pages == tuple(starts)
    assert found.title == "The year in numbers"
    assert found.metadata["format"] == "pptx"
    passages = Splitter(minilm, max_tokens=24, overlap_tokens=0).split(found)
    pages = [(p.metadata["page"], p.metadata.get("last_page")) for p in passages]
    assert pages[0] == (1, None)
    assert pages[-1] == (4, None)


def test_what_every_slide_carries_is_left_out(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Title"
    layout = deck.slide_layouts[5]
    for placeholder in layout.placeholders:  # date, footer and number stand in the layout
        if placeholder.placeholder_format.idx >= 10:
            slide.shapes.clone_placeholder(placeholder)
    furniture = [p for p in slide.placeholders if p.placeholder_format.idx >= 10]
    assert len(furniture) == 3
    for each in furniture:
        each.text_frame.text = "CONFIDENTIAL"
    deck.core_properties.title = "Own title"
    deck.save(str(tmp_path / "a.pptx"))
    found = read_one(tmp_path / "a.pptx")
    assert (found.text, found.title) == ("# Title", "Own title")


# --- what cannot be used --------------------------------------------------------------------


def reason(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    problems: list[Problem] = []
    assert list(read(path, on_problem=problems.append)) == []
    (problem,) = problems
    assert "\n" not in problem.reason
    with pytest.raises(CorpusError, match=re.escape(problem.reason)):
        list(read(path, on_error="raise"))
    return problem.reason


def empty(suffix: str) -> bytes:
    made = io.BytesIO()
    (docx.Document() if suffix == "docx" else pptx.Presentation()).save(made)
    return made.getvalue()


@pytest.mark.parametrize(
    ("suffix", "kind"), [("docx", "a Word document"), ("pptx", "a PowerPoint presentation")]
)
def test_files_that_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix}"
    good = empty(suffix)
    assert reason(path, b"") == "is empty"
    assert f"is damaged, or not {kind}" in reason(path, b"plain text")
    assert f"is damaged, or not {kind}" in reason(path, good[:-500])
    assert "is encrypted with a password, or in the binary format" in reason(
        path, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512)
    )
    assert "has no text" in reason(path, good)
    other = empty("pptx" if suffix == "docx" else "docx")
    assert f"is damaged, or not {kind}" in reason(path, other)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as package:
        package.writestr("a.txt", "no office file")
    assert f"is damaged, or not {kind}" in reason(path, made.getvalue())
    middle = len(good) // 2
    reason(path, good[:middle] + bytes(400) + good[middle + 400 :])


def test_packages_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.docx"
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("word/media/image.bin", bytes(20 * 2**20))
    assert "taken for an attack (a zip bomb)" in reason(path, bomb.getvalue())
    monkeypatch.setattr(zip_limits, "MAX_UNPACKED_BYTES", 10 * 2**20)
    assert "unpacks to 20 MiB of data, more than the 10 MiB" in reason(path, bomb.getvalue())
    monkeypatch.setattr(zip_limits, "MAX_MARKUP_BYTES", 5000)
    assert "of markup, more than the 0 MiB" in reason(path, empty("docx"))
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_LZMA) as package:
        package.writestr("word/document.xml", "x")
    assert "packs 'word/document.xml' by method 14" in reason(path, squeezed.getvalue())


def test_a_package_that_lies_of_its_sizes_is_bounded_by_them(tmp_path: Path) -> None:
    """What is unpacked is no more than the directory says, whatever the data hold."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("[Content_Types].xml", b"<" * 3_000_000)
    data = bytearray(made.getvalue())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(mark) + at
        data[start : start + 4] = (1000).to_bytes(4, "little")
    assert "damaged part '[Content_Types].xml'" in reason(tmp_path / "a.docx", bytes(data))


@pytest.mark.parametrize("far_down", [False, True])
def test_entities_are_neither_fetched_nor_expanded(tmp_path: Path, far_down: bool) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    declared = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{secret.as_uri()}"><!ENTITY l0 "ha">{laughs}]>'
    # Where it escapes the look at the part's head, the parser leaves entities as they are.
    before = f"<!--{'-.' * 5000}-->" if far_down else ""
    for entity in ("&s;", "&l9;"):
        document = docx.Document()
        document.save(str(tmp_path / "plain.docx"))
        xml = f"<w:body>{paragraph(f'before {entity} after')}</w:body>"
        body = f"{before}{declared}<w:document {W}>{xml}</w:document>"
        rewrite(tmp_path / "plain.docx", tmp_path / "a.docx", {"word/document.xml": body})
        problems: list[Problem] = []
        texts = [d.text for d in read(tmp_path / "a.docx", on_problem=problems.append)]
        assert texts in ([], ["before"], ["before after"])
        assert bool(problems) == (not texts)
        if not far_down:
            assert "taken for an attack" in problems[0].reason


@pytest.mark.parametrize("suffix", ["docx", "pptx"])
def test_damage_anywhere_ends_in_documents_or_problems(tmp_path: Path, suffix: str) -> None:
    """Markup changed at random, parts taken away: never another error."""
    chance = random.Random(11)
    made = io.BytesIO()
    if suffix == "docx":
        document = docx.Document()
        document.add_heading("Heading", 1)
        document.add_paragraph("item", style="List Number")
        document.add_table(2, 2).cell(0, 0).text = "cell"
        document.save(made)
    else:
        deck = pptx.Presentation()
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = "Title"
        slide.notes_slide.notes_text_frame.text = "A note."
        deck.save(made)
    (tmp_path / "good").write_bytes(made.getvalue())
    with zipfile.ZipFile(made) as package:
        names = [n for n in package.namelist() if n.endswith((".xml", ".rels"))]
        parts = {name: package.read(name) for name in names}
    outcomes = set()
    for _ in range(40):
        name = chance.choice(names)
        data = parts[name]
        values = [found.span() for found in re.finditer(rb'"[^"]*"', data)]
        start, end = chance.choice(values)
        value = chance.choice((b'""', b'"-1"', b'"99999999999"', b'"NULL"', b'"../x"', b""))
        rewrite(
            tmp_path / "good", tmp_path / f"a.{suffix}", {name: data[:start] + value + data[end:]}
        )
        problems: list[Problem] = []
        documents = list(read(tmp_path / f"a.{suffix}", on_problem=problems.append))
        assert bool(documents) != bool(problems)
        outcomes.add(len(documents))
    assert outcomes == {0, 1}
