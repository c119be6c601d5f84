"""Repeating calls: waits, deadlines, and what the client's exceptions mean."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import grpc
import httpx
import pytest
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from retrieval.index.server.errors import failure_of, retry_after
from retrieval.index.server.retry import FIRST_WAIT_S, LONGEST_WAIT_S, Clock, Exhausted, repeat


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)


def _failing(times: int | None, error: type[BaseException] = OSError) -> Callable[[], int]:
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if times is None or calls <= times:
            raise error(f"call {calls}")
        return calls

    return call


def _repeat(
    call: Callable[[], int], time: Time, *, asked: float | None = 0.0, within_s: float = 300.0
) -> int:
    def again(error: Exception) -> float | None:
        return asked if isinstance(error, OSError) else None

    return repeat(
        call, again, since=time.now, within_s=within_s, clock=time.clock,
        before_wait=lambda error: None,
    )  # fmt: skip


def test_the_first_success_counts() -> None:
    time = Time()
    assert _repeat(_failing(0), time) == 1
    assert time.waits == []
    assert _repeat(_failing(3), time) == 4
    assert len(time.waits) == 3


def test_waits_grow_are_spread_and_have_a_bound() -> None:
    spread: list[list[float]] = []
    for _ in range(40):
        time = Time()
        _repeat(_failing(12), time, within_s=10_000)
        spread.append(time.waits)
    for number in range(12):
        most = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**number)
        waits = [waits[number] for waits in spread]
        assert 0 <= min(waits) < most / 2 < max(waits) <= most  # anything from nothing to all of it


def test_the_last_try_is_at_the_deadline() -> None:
    time = Time()
    with pytest.raises(Exhausted) as caught:
        _repeat(_failing(None), time, within_s=60)
    assert time.now == pytest.approx(1_060)
    assert caught.value.seconds == pytest.approx(60)
    assert str(caught.value.error) == f"call {len(time.waits) + 1}"


def test_a_wait_that_is_asked_for_is_kept() -> None:
    time = Time()
    assert _repeat(_failing(2), time, asked=7.0) == 3
    assert all(7.0 <= wait <= 7.7 for wait in time.waits)
    with pytest.raises(Exhausted):  # it would outlast the deadline: no sense in waiting at all
        _repeat(_failing(None), time, asked=301.0)
    assert len(time.waits) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_other_errors_and_interrupts_go_through_at_once(error: type[BaseException]) -> None:
    time = Time()
    with pytest.raises(error, match="call 1"):
        _repeat(_failing(None, error), time)
    assert time.waits == []


def test_an_interrupt_ends_a_wait() -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repeat(
            _failing(None), lambda error: 0.0, since=0.0, within_s=9,
            clock=Clock(lambda: 0.0, interrupted),
            before_wait=lambda error: None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 29.0),
        ("Fri, 31 Dec 1999 23:59:00 GMT", 0.0),  # long ago
        ("soon", 0.0),
        ("", 0.0),
        ("nan", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after(value, datetime(1999, 12, 31, 23, 59, 30, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, "Wrong input: Vector dimension error", "refused"),
        (400, "JSON payload (9 bytes) is larger than allowed (limit: 8 bytes).", "large"),
        (413, "", "large"),
        (401, "", "denied"),
        (403, "", "denied"),
        (404, '{"status":{"error":"Not found: Collection `docs` does not exist!"}}', "missing"),
        (404, "", "stranger"),
        (409, "Collection `docs` already exists!", "exists"),
        (408, "", "slow"),
        (504, "", "slow"),
        (429, "", "busy"),
        (500, "Service internal error: 1 of 2 replicas failed", "busy"),
        (500, "Service internal error: No space left on device", "full"),
        (501, "", "refused"),
        (502, "", "away"),
        (503, "", "away"),
        (507, "", "full"),
    ],
)
def test_statuses(status: int, body: str, kind: str) -> None:
    error = UnexpectedResponse(status, "Reason", body.encode(), httpx.Headers())
    failure = failure_of(error)
    assert failure.kind == kind
    assert f"status {status} Reason" in failure.text


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "away"),
        (httpx.ConnectError("[Errno -3] Temporary failure in name resolution"), "away"),
        (httpx.ConnectTimeout("timed out"), "away"),
        (httpx.ReadError("[Errno 104] Connection reset by peer"), "cut"),
        (httpx.WriteError("[Errno 32] Broken pipe"), "cut"),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), "cut"),
        (httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred"), "cut"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "tls"),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "tls"),
        (httpx.ReadTimeout("timed out"), "slow"),
        (httpx.WriteTimeout("timed out"), "slow"),
        (httpx.LocalProtocolError("Illegal header value"), "refused"),
        (TypeError("not JSON"), "refused"),
    ],
)
def test_transport_errors(source: Exception, kind: str) -> None:
    assert failure_of(ResponseHandlingException(source)).kind == kind


class _RpcError(grpc.RpcError):
    def __init__(self, code: str, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self._code]

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", "away"),
        ("UNAVAILABLE", "SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED", "tls"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "slow"),
        ("RESOURCE_EXHAUSTED", "Rate limiting exceeded", "busy"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)", "large"),
        ("OUT_OF_RANGE", "Error, decoded message length too large: found 9 bytes", "large"),
        ("ABORTED", "", "busy"),
        ("INTERNAL", "Service internal error: 1 of 2 replicas failed", "busy"),
        ("INTERNAL", "No space left on device", "full"),
        ("NOT_FOUND", "Not found: Collection `docs` doesn't exist!", "missing"),
        ("ALREADY_EXISTS", "", "exists"),
        ("INVALID_ARGUMENT", "Wrong input: Collection `docs` already exists!", "exists"),
        ("INVALID_ARGUMENT", "Wrong input: Vector dimension error", "refused"),
        ("UNAUTHENTICATED", "", "denied"),
        ("PERMISSION_DENIED", "", "denied"),
        ("UNIMPLEMENTED", "", "stranger"),
    ],
)
def test_grpc_codes_mean_what_the_statuses_do(code: str, details: str, kind: str) -> None:
    assert failure_of(_RpcError(code, details)).kind == kind
