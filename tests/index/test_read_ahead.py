"""Pages read ahead: one at most, errors in their place, no waiting for what is not used."""

from __future__ import annotations

import threading

import pytest

from retrieval.index.server.read_ahead import Page, pages

SOON_S = 20.0


class Book:
    """Pages "0", "1", …, which were asked for, and events that pages wait for."""

    def __init__(self, length: int, *, broken: int | None = None) -> None:
        self._length, self._broken = length, broken
        self.asked = [threading.Event() for _ in range(length)]
        self.waits: dict[int, threading.Event] = {}

    def read(self, after: str | None) -> Page[str]:
        number = int(after or 0)
        self.asked[number].set()
        if number in self.waits:
            assert self.waits[number].wait(SOON_S)
        if number == self._broken:
            raise ValueError(f"page {number}")
        following = number + 1
        return [str(number)], str(following) if following < self._length else None


@pytest.mark.parametrize("length", [1, 2, 5])
def test_all_pages_come_in_order(length: int) -> None:
    assert list(pages(Book(length).read)) == [[str(number)] for number in range(length)]


def test_the_next_page_is_asked_for_while_one_is_used_and_no_other() -> None:
    book = Book(4)
    found = pages(book.read)
    assert next(found) == ["0"]
    assert book.asked[1].wait(SOON_S)
    assert next(found) == ["1"]
    assert book.asked[2].wait(SOON_S)
    assert not book.asked[3].is_set()
    found.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_its_page_would() -> None:
    found = pages(Book(4, broken=2).read)
    assert [next(found), next(found)] == [["0"], ["1"]]
    with pytest.raises(ValueError, match="page 2"):
        next(found)


def test_who_stops_early_waits_for_nothing() -> None:
    book = Book(3)
    arrives = book.waits[1] = threading.Event()
    found = pages(book.read)
    assert next(found) == ["0"]
    assert book.asked[1].wait(SOON_S)
    found.close()  # type: ignore[attr-defined]
    assert not arrives.is_set(), "or this line would not have been reached"
    arrives.set()
