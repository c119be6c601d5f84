"""Pages that are read one after the other: the next is on its way while one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")
Page: TypeAlias = tuple[list[_T], str | None]
"""What is on a page, and where the next one starts (None: it was the last)."""


def pages(read: Callable[[str | None], Page[_T]]) -> Iterator[list[_T]]:
    """All pages from the first on.

    An error of a page is raised where the page would come. A reader that stops early does not wait
    for the page that is on its way.

    Args:
        read: reads the page that starts at a place; from the second page on in another thread.
    """
    found, following = read(None)
    if following is None:
        yield found
        return
    pool = ThreadPoolExecutor(1, "retrieval-read")
    try:
        while following is not None:
            coming: Future[Page[_T]] = pool.submit(read, following)
            yield found
            found, following = coming.result()
        yield found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
