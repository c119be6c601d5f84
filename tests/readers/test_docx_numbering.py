"""Numbers before Word's paragraphs, as Word shows them; a dash where that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from retrieval.readers.docx_numbering import DASH, Numbering
from retrieval.readers.numerals import letters, letters_repeated, roman

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def level(at: int, text: str, form: str = "decimal", more: str = "", start: int = 1) -> str:
    return (
        f'<w:lvl w:ilvl="{at}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>'
        f'{more}<w:lvlText w:val="{text}"/></w:lvl>'
    )


def numbering(levels: Sequence[str], nums: str = "", more: str = "") -> Numbering:
    """Lists 1 and 2 of one definition, and others."""
    return Numbering(
        ElementTree.fromstring(
            f'<w:numbering {W}><w:abstractNum w:abstractNumId="9">{"".join(levels)}'
            f'</w:abstractNum>{more}<w:num w:numId="1"><w:abstractNumId w:val="9"/></w:num>'
            f'<w:num w:numId="2"><w:abstractNumId w:val="9"/>{nums}</w:num></w:numbering>'
        )
    )


LEGAL = (
    level(0, "%1."),
    level(1, "%1.%2"),
    level(2, "(%3)", "lowerLetter"),
    level(3, "%1.%2.%4", "lowerRoman"),
)


@pytest.mark.parametrize(
    ("levels", "asked", "shown"),
    [
        (LEGAL, [0, 1, 1, 2, 2, 0, 1, 2], ["1.", "1.1", "1.2", "(a)", "(b)", "2.", "2.1", "(a)"]),
        (LEGAL, [0, 1, 3, 3, 1, 3], ["1.", "1.1", "1.1.i", "1.1.ii", "1.2", "1.2.i"]),
        # the level above never came: Word's number is not known
        (LEGAL, [1, 0, 1], [DASH, "1.", "1.1"]),
        ([level(0, "Article %1", start=4)], [0, 0], ["Article 4", "Article 5"]),
        ([level(0, "§ %1", "decimalZero")], [0, 0], ["§ 01", "§ 02"]),
        ([level(0, "%1)", "upperRoman", start=3)], [0, 0], ["III)", "IV)"]),
        ([level(0, "%1", "upperLetter", start=26)], [0, 0], ["Z", "AA"]),
        ([level(0, "第%1条", "chineseCounting", start=9)], [0, 0, 0],
         ["第九条", "第十条", "第十一条"]),
        ([level(0, "%1、", "ideographTraditional")], [0, 0], ["甲、", "乙、"]),
        ([level(0, "%1", "ordinal")], [0, 0, 0, 0], ["1st", "2nd", "3rd", "4th"]),
        ([level(0, "", "none")], [0], [None]),
        ([level(0, "")], [0], [None]),
        ([level(0, "o", "bullet")], [0], [DASH]),
        ([level(0, "%1", "cardinalText")], [0], [DASH]),
        ([level(0, "%1", "decimalEnclosedCircle", start=20)], [0, 0], ["⑳", DASH]),
        ([level(0, "%1", "upperRoman"), level(1, "%1.%2", more="<w:isLgl/>")], [0, 1],
         ["I", "1.1"]),
        ([level(0, "%1"), level(1, "%2", more='<w:lvlRestart w:val="0"/>')], [0, 1, 0, 1],
         ["1", "1", "2", "2"]),
        ([level(0, "%1"), level(1, "%2"), level(2, "%3", more='<w:lvlRestart w:val="1"/>')],
         [0, 1, 2, 1, 2, 0, 1, 2], ["1", "1", "1", "2", "2", "2", "1", "1"]),
    ],
)  # fmt: skip
def test_what_word_shows(levels: list[str], asked: list[int], shown: list[str | None]) -> None:
    own = numbering(levels)
    assert [own.next("1", at) for at in asked] == shown


def test_lists_of_one_definition_count_on_unless_they_start_anew() -> None:
    going_on = numbering(LEGAL)
    assert [going_on.next(one, 0) for one in ("1", "2", "1")] == ["1.", "2.", "3."]
    anew = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="1"/></w:lvlOverride>'
    fresh = numbering(LEGAL, anew)
    assert [fresh.next(one, 0) for one in ("1", "1", "2", "2")] == ["1.", "2.", "1.", "2."]
    other = f'<w:lvlOverride w:ilvl="0">{level(0, "%1)", "lowerLetter")}</w:lvlOverride>'
    assert numbering(LEGAL, other).next("2", 0) == "a)"


def test_a_list_that_is_unknown_gets_a_dash() -> None:
    own = numbering(LEGAL)
    assert own.next("7", 0) == DASH
    assert own.next("1", 8) == DASH
    assert Numbering(()).next("1", 0) == DASH


def test_a_style_has_the_level_that_names_it() -> None:
    own = numbering([level(0, "%1"), level(1, "%1.%2", more='<w:pStyle w:val="Heading2"/>')])
    assert own.level_of_style("1", "Heading2") == 1
    assert own.level_of_style("1", "Heading3") == 0


def test_a_list_may_be_that_of_a_style_of_lists() -> None:
    more = (
        '<w:abstractNum w:abstractNumId="8"><w:numStyleLink w:val="Outline"/></w:abstractNum>'
        f'<w:abstractNum w:abstractNumId="7"><w:styleLink w:val="Outline"/>{level(0, "%1)")}'
        '</w:abstractNum><w:num w:numId="3"><w:abstractNumId w:val="8"/></w:num>'
    )
    assert numbering(LEGAL, more=more).next("3", 0) == "1)"


def test_letters_and_numerals_end() -> None:
    assert [letters(number) for number in (1, 26, 27, 52, 703)] == ["a", "z", "aa", "az", "aaa"]
    assert [letters_repeated(number) for number in (26, 27, 53)] == ["z", "aa", "aaa"]
    assert [roman(number) for number in (4, 1994, 3999)] == ["iv", "mcmxciv", "mmmcmxcix"]
    for count in (letters, letters_repeated, roman):
        with pytest.raises(ValueError, match="has no"):
            count(0)
