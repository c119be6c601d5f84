"""Numbers as letters and Roman numerals, as lists of HTML and Word count with them."""

from __future__ import annotations

_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"),
          (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


def roman(number: int) -> str:
    """i, ii, iii, iv …

    Raises:
        ValueError: there is no such numeral.

    Example:
        >>> roman(1994)
        'mcmxciv'
    """
    if not 0 < number < 4000:
        raise ValueError(f"{number} has no Roman numeral")
    found = []
    for value, sign in _ROMAN:
        while number >= value:
            found.append(sign)
            number -= value
    return "".join(found)


def letters(number: int) -> str:
    """a … z, aa, ab …: as HTML counts.

    Raises:
        ValueError: the number is below 1.

    Example:
        >>> letters(28)
        'ab'
    """
    if number < 1:
        raise ValueError(f"{number} has no letter")
    text = ""
    while number > 0:
        number, place = divmod(number - 1, 26)
        text = chr(ord("a") + place) + text
    return text


def letters_repeated(number: int) -> str:
    """a … z, aa, bb …: as Word counts.

    Raises:
        ValueError: the number is below 1.

    Example:
        >>> letters_repeated(28)
        'bb'
    """
    if number < 1:
        raise ValueError(f"{number} has no letter")
    again, place = divmod(number - 1, 26)
    return chr(ord("a") + place) * (again + 1)
