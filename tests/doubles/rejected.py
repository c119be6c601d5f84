"""What the doubles answer instead of a result."""

from __future__ import annotations


class Rejected(Exception):
    """A call that the server refuses: the HTTP status and the text of a real server.

    `retry_after_s`: what it asks to wait, as the header Retry-After (gRPC: trailing metadata).
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
