"""The numbers that Word shows before paragraphs: levels, starts, letters, words around them.

A wrong number is worse than none (a contract's "4.2" is quoted by it), so what this does not know
how to count gets a dash. ECMA-376 part 1, section 17.9, says what the elements mean; that lists of
one abstract definition count on together is what Word does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.readers.numerals import letters_repeated, roman

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_CHINESE = "〇一二三四五六七八九"
_STEMS = "甲乙丙丁戊己庚辛壬癸"
_SYLLABLES = "가나다라마바사아자차카타파하"
_MOST_LEVELS = 9
DASH = "- "


def _chinese(number: int) -> str:
    """一, 十, 十一, 二十 … below a hundred; what is above is written in more than one way."""
    if not 0 < number < 100:
        raise ValueError(number)
    tens, ones = divmod(number, 10)
    first = "" if tens == 0 else ("" if tens == 1 else _CHINESE[tens]) + "十"
    return first + (_CHINESE[ones] if ones else "")


def _one_of(signs: str) -> Callable[[int], str]:
    def sign(number: int) -> str:
        if not 0 < number <= len(signs):
            raise ValueError(number)
        return signs[number - 1]

    return sign


def _ordinal(number: int) -> str:
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


_FORMS: Mapping[str, Callable[[int], str]] = {
    "decimal": str,
    "decimalZero": "{:02d}".format,
    "decimalHalfWidth": str,
    "decimalFullWidth": lambda number: "".join(chr(ord(digit) + 0xFEE0) for digit in str(number)),
    "lowerLetter": letters_repeated,
    "upperLetter": lambda number: letters_repeated(number).upper(),
    "lowerRoman": roman,
    "upperRoman": lambda number: roman(number).upper(),
    "ordinal": _ordinal,
    "chineseCounting": _chinese,
    "chineseCountingThousand": _chinese,
    "japaneseCounting": _chinese,
    "taiwaneseCounting": _chinese,
    "taiwaneseCountingThousand": _chinese,
    "ideographDigital": lambda number: "".join(_CHINESE[int(digit)] for digit in str(number)),
    "ideographTraditional": _one_of(_STEMS),
    "ideographEnclosedCircle": _one_of("㊀㊁㊂㊃㊄㊅㊆㊇㊈㊉"),
    "decimalEnclosedCircle": _one_of("①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"),
    "decimalEnclosedCircleChinese": _one_of("①②③④⑤⑥⑦⑧⑨⑩"),
    "ganada": _one_of(_SYLLABLES),
    "russianLower": _one_of("абвгдежзиклмнопрстуфхцчшщэюя"),
    "russianUpper": _one_of("АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЭЮЯ"),
}


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of a list, as its definition says."""

    start: int = 1
    form: str = "decimal"
    text: str = ""
    style: str = ""
    restart: int | None = None
    is_legal: bool = False


@dataclass(slots=True)
class _Count:
    """Where a list's numbers are: level → the last number that was given."""

    at: dict[int, int] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)


class Numbering:
    """A document's lists, and how far they have counted."""

    def __init__(self, root: Any) -> None:
        """Args: root: the numbering part's element; empty where a document has none."""
        self._levels: dict[str, dict[int, _Level]] = {}
        self._list_of: dict[str, str] = {}
        self._overrides: dict[str, dict[int, Any]] = {}
        self._counts: dict[str, _Count] = {}
        styles: dict[str, str] = {}
        links: dict[str, str] = {}
        for each in root:
            if each.tag == f"{_W}abstractNum":
                name = str(each.get(f"{_W}abstractNumId"))
                self._levels[name] = dict(_levels(each))
                styles.setdefault(_value(each, "styleLink"), name)
                links[name] = _value(each, "numStyleLink")
            elif each.tag == f"{_W}num":
                number = str(each.get(f"{_W}numId"))
                self._list_of[number] = _value(each, "abstractNumId")
                self._overrides[number] = dict(_overrides(each))
        for name, link in links.items():  # a list that is defined by a style of lists
            if link and link in styles:
                self._levels[name] = self._levels[styles[link]]

    def level_of_style(self, list_id: str, style: str) -> int:
        """The level that a list keeps for a paragraph style; else the first."""
        levels = self._levels.get(self._list_of.get(list_id, ""), {})
        return next((at for at, level in levels.items() if level.style == style), 0)

    def next(self, list_id: str, level: int) -> str | None:
        """Count a paragraph of a list's level.

        Returns:
            What Word shows before it ("1.2", "(a)", "Article 4"); `DASH` for a bullet and for what
            this cannot count; None where nothing is shown.
        """
        name = self._list_of.get(list_id, "")
        levels = self._own_levels(list_id, name)
        if level not in levels:
            return DASH
        count = self._counts.setdefault(name, _Count())
        own = levels[level]
        self._start(count, list_id, levels)
        self._restart(count, level, levels)
        count.at[level] = count.at.get(level, own.start - 1) + 1
        if own.form == "none" or (own.form != "bullet" and not own.text):
            return None
        if own.form == "bullet":
            return DASH
        return self._shown(count, own, levels)

    def _own_levels(self, list_id: str, name: str) -> dict[int, _Level]:
        levels = self._levels.get(name, {})
        changed = {
            at: level for at, level in self._overrides.get(list_id, {}).items()
            if isinstance(level, _Level)
        }  # fmt: skip
        return {**levels, **changed}

    def _start(self, count: _Count, list_id: str, levels: dict[int, _Level]) -> None:
        """At a list's first paragraph, begin anew where it says so."""
        if list_id in count.started:
            return
        count.started.add(list_id)
        for at, start in self._overrides.get(list_id, {}).items():
            if isinstance(start, int):
                count.at[at] = start - 1
                for deeper in [one for one in count.at if one > at]:
                    del count.at[deeper]

    def _restart(self, count: _Count, level: int, levels: dict[int, _Level]) -> None:
        """Deeper levels begin anew below this one."""
        for deeper in [one for one in count.at if one > level]:
            after = levels[deeper].restart if deeper in levels else None
            if after is None or (after > 0 and level < after):
                del count.at[deeper]

    def _shown(self, count: _Count, own: _Level, levels: dict[int, _Level]) -> str:
        def number(found: re.Match[str]) -> str:
            at = int(found.group(1)) - 1
            form = "decimal" if own.is_legal else levels[at].form
            return _FORMS[form](count.at[at])

        try:
            return re.sub(r"%([1-9])", number, own.text).strip()
        except (KeyError, ValueError):
            return DASH  # a form that is not known here, or a level above that never came


def _levels(element: Any) -> Iterator[tuple[int, _Level]]:
    for each in element.iterfind(f"{_W}lvl"):
        at = _whole(str(each.get(f"{_W}ilvl")))
        if at is None or at >= _MOST_LEVELS:
            continue
        legal = each.find(f"{_W}isLgl")
        yield (
            at,
            _Level(
                start=_whole(_value(each, "start")) or 0,
                form=_value(each, "numFmt") or "decimal",
                text=_value(each, "lvlText"),
                style=_value(each, "pStyle"),
                restart=_whole(_value(each, "lvlRestart")),
                is_legal=legal is not None and legal.get(f"{_W}val") not in ("0", "false"),
            ),
        )


def _overrides(element: Any) -> Iterator[tuple[int, Any]]:
    """level → another definition of it, or where it starts."""
    for each in element.iterfind(f"{_W}lvlOverride"):
        at = _whole(str(each.get(f"{_W}ilvl")))
        if at is None:
            continue
        start = _whole(_value(each, "startOverride"))
        own = dict(_levels(each))
        if own:
            yield from own.items()
        elif start is not None:
            yield at, start


def _value(element: Any, name: str) -> str:
    found = element.find(f"{_W}{name}")
    return "" if found is None else str(found.get(f"{_W}val") or "")


def _whole(value: str) -> int | None:
    return int(value) if re.fullmatch(r"\d{1,9}", value) else None
