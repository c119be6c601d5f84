"""What goes wrong at a double on purpose, and the log of what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from .tokens import Access


@dataclass
class Request:
    """One request as it came over the wire; for gRPC, `method` and `path` are those of REST."""

    protocol: Literal["http", "grpc"]
    method: str
    path: str
    query: dict[str, str]
    """Query parameters; for gRPC the message's wait, ordering, consistency and timeout."""
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    """When it had come in whole, on the monotonic clock."""
    status: int | None = None
    """The HTTP status that was answered, as far as it was: None where the connection was dropped
    or the answer is still under way."""
    fault: str | None = None
    message: Any = field(default=None, repr=False)
    """The protobuf message of a gRPC request."""

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    def json(self) -> Any:
        """The body, parsed (for gRPC: the message's fields by name)."""
        if self.message is not None:
            from google.protobuf.json_format import MessageToDict

            return MessageToDict(self.message, preserving_proto_field_name=True)
        return json.loads(self.body) if self.body else None


@dataclass(eq=False)
class Fault:
    """A rule: which requests it hits, how often, and what happens to them."""

    method: str | None = None
    path_contains: str = ""
    when: Callable[[Request], bool] | None = None
    times: int | None = 1
    """How many requests it hits; None: all, until it is removed."""
    skip: int = 0
    """How many matching requests pass first."""
    status: int | None = None
    message: str = "a fault made on purpose"
    grpc_code: str | None = None
    """The gRPC code of the answer, where the status has none of its own (`"ABORTED"`)."""
    retry_after: str | int | None = None
    delay: float = 0.0
    drop: Literal["reset", "close"] | None = None
    after: bool = False
    """Whether the request is applied before the fault strikes: the ambiguous case."""
    hits: int = 0

    def __post_init__(self) -> None:
        if self.status is None and self.drop is None and not self.delay:
            raise ValueError("a fault needs a status, a drop or a delay")
        if self.status is not None and self.drop is not None:
            raise ValueError("a fault either answers a status or drops the connection")

    @property
    def what(self) -> str:
        """The fault in a word or two, for the log."""
        parts = [f"delay {self.delay:g}"] if self.delay else []
        parts += [f"status {self.status}"] if self.status is not None else []
        parts += [self.drop] if self.drop else []
        return " ".join(parts) + (" after applying" if self.after else "")

    def matches(self, request: Request) -> bool:
        """Whether the rule is about this request."""
        return (
            (self.method is None or self.method == request.method)
            and self.path_contains in request.path
            and (self.when is None or self.when(request))
        )


class Faults:
    """The rules of one double, first match first, and its log."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.frozen: Future[None] | None = None
        """What every request waits for, where the server neither answers nor goes away."""
        self.held = 0
        """Requests that waited for the thaw and are not done yet."""
        self.tokens: dict[str, Access] = {}
        """Keys beside the server's own (`api_key`), and what they may do; over REST."""
        self._rules: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Put a rule behind those that are there."""
        with self._lock:
            self._rules.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Take a rule away, if it is still there."""
        with self._lock:
            self._rules = [rule for rule in self._rules if rule is not fault]

    def clear(self) -> None:
        """Take all rules away."""
        with self._lock:
            self._rules.clear()

    def freeze(self) -> None:
        """Accept connections and requests, and do nothing with them until `thaw`."""
        with self._lock:
            self.frozen = self.frozen or Future()

    def thaw(self) -> None:
        """Do what has come in since `freeze`, and go on."""
        with self._lock:
            frozen, self.frozen = self.frozen, None
        if frozen is not None:
            frozen.set_result(None)

    def strike(self, request: Request) -> Fault | None:
        """Log the request, and the rule that hits it, counted."""
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if not rule.matches(request):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                rule.hits += 1
                if rule.times is not None and rule.hits >= rule.times:
                    self._rules.remove(rule)
                request.fault = rule.what
                return rule
        return None
