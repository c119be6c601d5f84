"""Checks of arguments: what passes, what is refused, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest

from retrieval import _validate as validate
from retrieval.errors import InvalidFilter, InvalidInput, InvalidQuery

Colour = Literal["red", "green"]


def check_count(value: object) -> object:
    return validate.whole_number(value, "size", least=0)


def check_range(value: object) -> object:
    return validate.whole_number(value, "size", least=2, most=4, fix="Give 3.")


def check_share(value: object) -> object:
    return validate.number(value, "share", least=0, most=1, expected="0 to 1", fix="Try 0.3.")


def check_seconds(value: object) -> object:
    return validate.number(value, "time", above=0, expected="seconds", fix="Try 5.")


def check_colour(value: object) -> object:
    return validate.one_of(value, Colour, "colour")


def check_flag(value: object) -> object:
    return validate.true_or_false(value, "flag", fix="Give True.")


def check_text(value: object) -> object:
    return validate.unicode_text(value, "the name", fix="Mend it.")


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (check_count, [0, 7], [-1, 1.0, "1", None, True], "a whole number of at least 0. Give"),
        (check_range, [2, 4], [1, 5, True], r"a whole number from 2 to 4. Give 3\."),
        (check_share, [0, 1, 0.5], [-0.1, 1.1, math.nan, True, "1"], r"0 to 1. Try 0.3\."),
        (check_seconds, [0.1, 10**400], [0, math.inf, -math.inf, False], "seconds. Try"),
        (check_colour, ["red"], ["blue", None], "expected one of red, green. Choose one of them"),
        (check_flag, [True, False], [0, 1, "yes", None], "expected True or False. Give True"),
        (check_text, ["", "é", "😀"], ["a\udcffb", b"a", None], "text"),
    ],
)
def test_a_value_is_returned_as_it_is_or_refused(
    check: Callable[[object], object], good: list[Any], bad: list[Any], message: str
) -> None:
    for value in good:
        assert check(value) is value
    for value in bad:
        with pytest.raises(InvalidInput, match=message):
            check(value)


def test_messages_name_the_argument_and_the_value() -> None:
    with pytest.raises(InvalidInput, match="size is -1, expected"):
        check_count(-1)
    with pytest.raises(InvalidInput, match="the name has a lone surrogate at character 1"):
        check_text("a\udcffb")
    with pytest.raises(InvalidInput, match="the name is a int, expected text"):
        check_text(3)


def test_a_text_may_be_refused_by_a_narrower_error() -> None:
    with pytest.raises(InvalidFilter):
        validate.unicode_text("\ud800", "a key", fix="Mend it.", error=InvalidFilter)


@pytest.mark.parametrize(
    ("query", "message"),
    [("", "empty"), (" \n", "empty"), (None, "NoneType"), ("a\ud800", "surrogate at character 1")],
)
def test_what_is_no_query_is_refused(query: object, message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        validate.query_text(query)


@pytest.mark.parametrize(
    ("text", "place", "mended"),
    [("plain", None, "plain"), ("😀é", None, "😀é"), ("é\ud83dx\ude00", 1, "é\ufffdx\ufffd")],
)
def test_surrogates_are_found_and_replaced_without_moving_offsets(
    text: str, place: int | None, mended: str
) -> None:
    assert validate.surrogate_at(text) == place
    assert validate.without_surrogates(text) == mended


@pytest.mark.parametrize(
    "text",
    [
        *("", " \t\n", "\u200b", "\ufeff", "\u00ad\u2060", "\ufe0f", "\u3164\u115f", "\u2800"),
        "\U000e0101",
    ],
)
def test_what_shows_nothing_is_blank(text: str) -> None:
    assert validate.is_blank(text)
    assert not validate.is_blank(f"{text}x{text}")
    with pytest.raises(InvalidQuery, match="empty"):
        validate.query_text(text)
