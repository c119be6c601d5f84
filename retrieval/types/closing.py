"""A base class of what is closed at the end of a `with` block."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that calls the class's own `close` at the end of the block."""

    def close(self) -> None:
        """Free what is held; the subclass says what that is."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
