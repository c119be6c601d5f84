from __future__ import annotations

import os

import pytest

from app import settings
from retrieval.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def test_defaults_are_for_this_machine_only() -> None:
    chosen = settings.load()
    assert (chosen.host, chosen.port, chosen.public) == ("127.0.0.1", 7860, False)
    assert (chosen.collection, chosen.store) == ("docs", ".retrieval")
    assert (chosen.encoder, chosen.reranker) == (None, "auto")


def test_the_environment_sets_what_no_option_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_PORT", "9000")
    monkeypatch.setenv("RETRIEVAL_COLLECTION", "handbook")
    monkeypatch.setenv("RETRIEVAL_STORE", "")
    chosen = settings.load(port=9001, collection=None)
    assert chosen.port == 9001
    assert chosen.collection == "handbook"
    assert chosen.store == ".retrieval"


def test_the_api_key_is_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.secret(settings.load().api_key) is None
    monkeypatch.setenv("RETRIEVAL_API_KEY", "very-secret")
    chosen = settings.load()
    assert "very-secret" not in f"{chosen!r} {chosen}"
    assert settings.secret(chosen.api_key) == "very-secret"


def test_a_bad_option_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"--port is 99999.*65535.*Correct the option"):
        settings.load(port=99_999)


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_PORT", "lots")
    with pytest.raises(InvalidInput, match=r"environment variable RETRIEVAL_PORT is 'lots'"):
        settings.load()
