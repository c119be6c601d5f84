"""What clients read of a store that failed."""

from __future__ import annotations

import pytest

from app.backend.store_errors import for_client, for_clients
from app.errors import error_code, http_status, retry_after
from retrieval.errors import (
    DiskFull,
    InvalidFilter,
    InvalidInput,
    ManifestCorrupt,
    RetrievalError,
    StoreDenied,
    StoreFault,
    StoreLocked,
)

LOCATION = "http://10.0.0.1:6333,http://10.0.0.2:6333"
WHERE = (
    f"could not search 'docs' on the Qdrant server at {LOCATION}: refused by http://10.0.0.2:6333"
)
FIX = "Give the right api_key, or check http://10.0.0.1:6333."


@pytest.mark.parametrize(
    "error", [StoreFault, StoreDenied, DiskFull, ManifestCorrupt, StoreLocked, InvalidFilter]
)
def test_neither_the_address_nor_advice_for_operators(error: type[RetrievalError]) -> None:
    given = error(WHERE, fix=FIX)
    status, code = http_status(given), error_code(given)
    told = for_client(given, LOCATION)
    assert "10.0.0" not in f"{told} {told.problem} {told.fix}"
    assert (http_status(told), error_code(told)) == (status, code)
    if http_status(told) >= 500:
        assert "api_key" not in str(told)


def test_how_long_to_wait_is_kept_and_the_log_has_all(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoreFault) as caught, for_clients(LOCATION):
        raise StoreFault(WHERE, fix=FIX, retry_after_s=7)
    assert retry_after(caught.value) == 7
    assert "7 s" in caught.value.fix
    assert WHERE in caplog.text


def test_other_errors_are_as_they_were() -> None:
    given = InvalidInput("top_k is 0, expected at least 1", fix="Give 1 or more.")
    assert for_client(given, LOCATION) is given
    assert str(given) == "top_k is 0, expected at least 1. Give 1 or more."
    assert for_client(given, ".retrieval") is given
