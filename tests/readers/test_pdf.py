"""PDF files: pages and their numbers, lines to paragraphs, letters of print, what is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from readers.pdf_files import IMAGE, Line, lines, pdf

from retrieval.errors import CorpusError
from retrieval.readers import blocks
from retrieval.readers.read import read
from retrieval.splitting.splitter import Splitter
from retrieval.types import Document, Problem

pytest.importorskip("pypdfium2", reason="pypdfium2 (extra 'files') is not installed")


def read_one(path: Path, data: bytes) -> tuple[Document, list[str]]:
    path.write_bytes(data)
    problems: list[Problem] = []
    (document,) = read(path, on_problem=problems.append)
    return document, [problem.reason for problem in problems]


def reason(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    problems: list[Problem] = []
    assert list(read(path, on_problem=problems.append)) == []
    (problem,) = problems
    with pytest.raises(CorpusError, match=re.escape(problem.reason)):
        list(read(path, on_error="raise"))
    return problem.reason


def text_of(tmp_path: Path, *page: Sequence[Line], **options: Any) -> str:
    document, problems = read_one(tmp_path / "a.pdf", pdf(page, **options))
    assert not problems
    return document.text


# --- pages ----------------------------------------------------------------------------------


def test_a_document_of_pages(tmp_path: Path) -> None:
    data = pdf(
        [lines("First page."), [], lines("Third page."), []],
        info={"Title": "Das Buch 标题", "Author": "A. Author"},
    )
    document, problems = read_one(tmp_path / "book.PDF", data)
    assert not problems
    assert document == Document(
        id="book.PDF",
        text="First page.\n\nThird page.",
        title="Das Buch 标题",
        metadata={"author": "A. Author", "path": "book.PDF", "format": "pdf"},
        source=str(tmp_path / "book.PDF"),
        # A page without text begins where the next one does, or where the text ends.
        pages=(0, 13, 13, 24),
    )


def test_passages_name_their_pages(tmp_path: Path, minilm: Any) -> None:
    page = [f"Sentence number {n} of this page tells of ingots of metal." for n in range(15)]
    document, _ = read_one(tmp_path / "a.pdf", pdf([lines(*page), [], lines(*page), lines("End.")]))
    passages = Splitter(minilm, max_tokens=60, overlap_tokens=0).split(document)
    assert len(passages) > 4
    starts = [*document.pages, len(document.text) + 1]
    for passage in passages:
        first = next(n for n in range(4, 0, -1) if starts[n - 1] <= passage.start)
        last = next(n for n in range(4, 0, -1) if starts[n - 1] < passage.end)
        assert first != 2  # the page without text
        expected = {"page": first} if first == last else {"page": first, "last_page": last}
        assert passage.metadata == {"path": "a.pdf", "format": "pdf", **expected}
    (whole,) = Splitter(minilm, max_tokens=None).split(document)
    assert (whole.metadata["page"], whole.metadata["last_page"]) == (1, 4)


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Microsoft Word - Annual report", "Annual report"),
        ("Microsoft Word - thesis_final.doc", ""),
        ("Untitled", ""),
        ("paper.dvi", ""),
        ("  An   essay.\tOn files ", "An essay. On files"),
        ("", ""),
    ],
)
def test_titles_that_programs_make_up_are_none(tmp_path: Path, title: str, shown: str) -> None:
    document, _ = read_one(tmp_path / "a.pdf", pdf([lines("Text.")], info={"Title": title}))
    assert document.title == shown


# --- lines ----------------------------------------------------------------------------------


def test_wrapped_lines_become_paragraphs_and_others_stay(tmp_path: Path) -> None:
    text = text_of(
        tmp_path,
        [
            *lines("2 Results", top=740),
            Line("The candidates that the first stage finds are read once more by the", y=700),
            Line("cross-encoder, which sees the query and the passage side by side and", y=685),
            Line("puts them in order.", y=670),
            # Below it the next paragraph, indented, no space between.
            Line(
                "What it costs depends on the number of candidates, on their length,", x=90, y=655
            ),
            Line("and on the model:", y=640),
            Line("• candidates;", y=625),
            Line("• tokens;", y=610),
            # A table, its cells apart, with as much space above as below.
            *(Line(t, x=x, y=580) for x, t in ((72, "model"), (300, "size"))),
            *(Line(t, x=x, y=565) for x, t in ((72, "small"), (300, "33 M"))),
        ],
    )
    assert text == (
        "2 Results\n\n"
        "The candidates that the first stage finds are read once more by the cross-encoder, which "
        "sees the query and the passage side by side and puts them in order.\n\n"
        "What it costs depends on the number of candidates, on their length, and on the model:\n"
        "• candidates;\n• tokens;\n\n"
        "model size\nsmall 33 M"
    )


def test_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    left = ["The left column has lines of", "about equal length, and its", "last sentence goes on"]
    right = ["in the right column, where it", "ends."]
    text = text_of(
        tmp_path,
        [
            Line("A Title That Is Centred Above Both of the Columns", x=130, y=740, size=14),
            *lines(*left, top=700),
            *lines(*right, top=700, x=320),
        ],
    )
    assert text == "A Title That Is Centred Above Both of the Columns\n\n" + " ".join(left + right)


def test_chinese_lines_are_joined_without_blanks(tmp_path: Path) -> None:
    sentence = "检索分为两个阶段首先召回候选再由交叉编码器重新排序"
    codes = {code: sentence[code - 48] for code in range(48, 48 + len(sentence))}
    coded = "".join(map(chr, codes))
    page = [
        Line(coded, x=90, y=700),  # the first line of a paragraph is indented
        Line(coded + coded[:4], y=680),
        Line(coded[:9], y=660),
        Line(coded, x=90, y=640),
    ]
    joined = sentence * 2 + sentence[:4] + sentence[:9]
    assert text_of(tmp_path, page, to_unicode=codes) == f"{joined}\n{sentence}"


def test_code_and_verse_keep_their_lines(tmp_path: Path) -> None:
    code = ["for hit in hits:", "print(hit.score)", "if hit.score < limit:", "break"]
    prose = ["This is a line of ordinary text that reaches the right margin of the page,", "so."]
    text = text_of(tmp_path, [*lines(*prose, top=740), *lines(*code, top=700)])
    assert text == " ".join(prose) + "\n\n" + "\n".join(code)


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        ("retrie-", "val works", "retrieval works"),
        ("well-", "known", "well-known"),  # stands so elsewhere in the document
        ("state-of-", "the-art", "state-of-the-art"),
        ("Anglo-", "Saxon", "Anglo-Saxon"),
        ("pages 3-", "5", "pages 3-5"),
    ],
)
def test_words_divided_at_line_ends(tmp_path: Path, before: str, after: str, joined: str) -> None:
    first = lines("A line that is long enough to reach the margin, ending in " + before, after)
    second = lines("This is well-known, and a hyphen may end a page-")
    text = text_of(tmp_path, first, second)
    assert text.split("\n\n")[0].endswith(" ending in " + joined)
    assert text.endswith("end a page-")
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}


def test_characters_of_print_become_letters(tmp_path: Path) -> None:
    forms = {
        ord("a"): "ﬁ",  # ligature
        ord("b"): "⼀⽤",  # radicals in place of 一用
        ord("c"): "\uf0b7",  # the bullet of the font Symbol
        ord("d"): "x²",  # no ligature: stays
        ord("e"): "\x07\x00",
        ord("f"): "😀",
        ord("g"): "ﻻ",  # a letter form of Arabic
    }
    text = text_of(tmp_path, [Line("c a b d e f g z")], to_unicode={**forms, 0x20: " ", 0x7A: "."})
    assert re.sub(" +", " ", text) == "• fi 一用 x² 😀 لا ."


def test_geometry_holds_beyond_the_basic_plane(tmp_path: Path) -> None:
    # PDFium counts in units of UTF-16: each emoji before a line shifts its boxes by one.
    page = lines("~" * 60, "~~~~ a", "b c d", "~" * 55 + " a", "bbbbb.")
    codes = {ord("~"): "😀", **{ord(c): c for c in "abcd. "}}
    smiles = f"{'😀' * 60} {'😀' * 4} a\nb c d\n{'😀' * 55} a bbbbb."
    assert text_of(tmp_path, page, to_unicode=codes) == smiles


# --- what cannot be used --------------------------------------------------------------------


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    good = pdf([lines("Text of the page.")] * 3)
    assert reason(path, b"") == "is empty"
    assert reason(path, b"plain text") == "is damaged, or not a PDF"
    assert reason(path, good[: len(good) // 2]) == "is damaged, or not a PDF"
    assert "is encrypted with a password" in reason(path, pdf([lines("x")], password="secret"))
    scanned = reason(path, pdf([IMAGE, IMAGE]))
    assert scanned == "has no text layer on any page (2 in all); run OCR first (such as ocrmypdf)"


def test_encryption_that_asks_for_no_password_is_read(tmp_path: Path) -> None:
    data = pdf([lines("Printing is forbidden.")], info={"Title": "Locked"}, password="")
    document, problems = read_one(tmp_path / "a.pdf", data)
    assert (document.text, document.title, problems) == ("Printing is forbidden.", "Locked", [])


def test_a_bad_page_costs_itself_alone(tmp_path: Path) -> None:
    page = b"/Type /Page /Parent"
    good = pdf([lines("One."), lines("Two."), lines("Three.")])
    second = good.index(page, good.index(page) + 1)
    bad = good[:second] + good[second:].replace(page, b"/Type /Pagx /Parent", 1)
    document, problems = read_one(tmp_path / "a.pdf", bad)
    assert document.text == "One.\n\nThree."
    assert document.pages == (0, 6, 6)
    assert problems == ["page 2 of 3 cannot be read and is left out"]
    with pytest.raises(CorpusError, match="page 2 of 3 cannot be read"):
        list(read(tmp_path / "a.pdf", on_error="raise"))
    all_bad = good.replace(page, b"/Type /Pagx /Parent")
    assert reason(tmp_path / "b.pdf", all_bad) == "is damaged: of its pages (3) none can be read"


def test_scanned_pages_are_told_of_and_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    document, problems = read_one(path, pdf([IMAGE, lines("Text."), *[IMAGE] * 11]))
    assert document.text == "Text."
    assert problems == [
        "pages 1, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more of 13: pictures and hardly any text; "
        "if they are scans, run OCR first (such as ocrmypdf)"
    ]
    assert len(list(read(path, on_error="raise"))) == 1


def test_a_stamp_on_a_scan_is_no_text_layer(tmp_path: Path) -> None:
    scan = "q 600 0 0 780 5 5 cm /Im0 Do Q BT /F1 9 Tf 1 0 0 1 72 20 Tm (Copy 17) Tj ET"
    document, problems = read_one(tmp_path / "a.pdf", pdf([scan, lines("Text.")]))
    assert document.text == "Copy 17\n\nText."
    assert problems[0].startswith("page 1 of 2: pictures and hardly any text")


def test_fields_and_notes_are_read_where_they_stand(tmp_path: Path) -> None:
    page = [
        Line("Name of applicant:"),
        Line("I agree to the terms.", x=100, y=462),
        Line("I do not.", x=100, y=442),
        Line("The rest of the page.", y=600),
    ]
    field = "/Subtype /Widget /DA (/F1 12 Tf 0 g)"
    box = "/Subtype /Widget /FT /Btn /AP << /N << /Yes 4 0 R /Off 4 0 R >> >>"
    annotations = [
        f"{field} /FT /Tx /T (name) /V (Jane Roe) /Rect [190 716 400 732]",
        f"{field} /FT /Tx /T (pin) /TU (Secret) /Ff 8192 /V (1234) /Rect [72 500 300 516]",
        f"{field} /FT /Ch /Ff 131072 /T (land) /Opt [(Peru) (Chad)] /V (Chad) "
        "/Rect [72 480 300 496]",
        f"{box} /T (agreed) /TU (Agreed to the terms) /V /Yes /AS /Yes /Rect [72 460 90 476]",
        f"{box} /T (other) /V /Off /AS /Off /Rect [72 440 90 456]",
        "/Subtype /FreeText /DA (/F1 12 Tf 0 g) /Contents (Sent back in May.) "
        "/Rect [72 400 300 416]",
        "/Subtype /FreeText /F 2 /Contents (Hidden.) /Rect [72 380 300 396]",
        "/Subtype /Text /Contents (A reader's remark.) /Rect [72 360 90 376]",
    ]
    document, problems = read_one(tmp_path / "a.pdf", pdf([page], annotations=annotations))
    assert problems == []
    assert [one for one in document.text.split("\n") if one] == [
        "Name of applicant: Jane Roe",
        "[x] I agree to the terms.",
        "[ ] I do not.",
        "The rest of the page.",
        "land: Chad",
        "Sent back in May.",
    ]
    # without a line beside it a box has its name
    alone, _ = read_one(tmp_path / "b.pdf", pdf([[page[3]]], annotations=annotations[3:4]))
    assert alone.text == "The rest of the page.\n\nAgreed to the terms: Yes"


def test_text_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_CHARACTERS", 1000)
    data = pdf([lines("x" * 70)] * 30)
    assert "of text by page or part 14, the most that is read" in reason(tmp_path / "a.pdf", data)


def test_damage_anywhere_ends_in_documents_or_problems(tmp_path: Path) -> None:
    """Bytes changed at random: never another error, never a half-written mark."""
    chance = random.Random(7)
    good = pdf([lines("A page of text with divi-", "ded words."), IMAGE], info={"Title": "T"})
    path = tmp_path / "a.pdf"
    outcomes = set()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.choice((1, 5, 40))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.choice((len(data), chance.randrange(len(data))))]))
        problems: list[Problem] = []
        documents = list(read(path, on_problem=problems.append))
        outcomes.add(len(documents))
        assert documents or problems
        for document in documents:
            assert not re.search("[\ufffe\x00-\x08]", document.text)
            document.text.encode()
    assert outcomes == {0, 1}


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([lines(f"Page {n}.") for n in range(40)]))
    expected = list(read(path))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: list(read(path)), range(20)))
    assert results == [expected] * 20
