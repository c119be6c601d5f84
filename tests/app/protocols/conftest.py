"""Services and models that several protocols' tests read from."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from protocol_service import instructed_encoder
from service_help import small_service

import retrieval


@pytest.fixture(scope="session")
def small_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that no test writes to."""
    with small_service(tmp_path_factory.mktemp("small")) as service:
        yield service.url


@pytest.fixture(scope="module")
def http(small_url: str) -> Iterator[httpx.Client]:
    """A client of `small_url`."""
    with httpx.Client(base_url=small_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def encoder() -> Iterator[retrieval.BiEncoder]:
    """The starter's model with an instruction for queries; tests do not close it."""
    encoder = instructed_encoder()
    yield encoder
    encoder.close()
