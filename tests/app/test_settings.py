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


def test_how_the_models_run_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.model_options(settings.load()) == {}
    monkeypatch.setenv("RETRIEVAL_DEVICES", "cuda:0, cuda:1")
    monkeypatch.setenv("RETRIEVAL_DTYPE", "bf16")
    monkeypatch.setenv("RETRIEVAL_THREADS", "2")
    monkeypatch.setenv("RETRIEVAL_DETERMINISTIC", "true")
    monkeypatch.setenv("RETRIEVAL_LONG_PASSAGES", "windows")
    monkeypatch.setenv("RETRIEVAL_BUDGET_MS", "80")
    chosen = settings.load(engine="packed")
    options = {
        "devices": ["cuda:0", "cuda:1"],
        "engine": "packed",
        "dtype": "bf16",
        "threads": 2,
        "deterministic": True,
    }
    assert settings.model_options(chosen) == {**options, "long_passages": "windows"}
    assert settings.model_options(chosen, reranker=False) == options
    assert settings.model_options(settings.load(engine="packed", reranker="none")) == options
    assert chosen.budget_ms == 80


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"engine": "onnx"}, r"--engine is 'onnx': .*openvino"),
        ({"dtype": "fp8"}, r"--dtype is 'fp8'"),
        ({"threads": 0}, r"--threads is 0"),
        ({"budget_ms": 0}, r"--budget-ms is 0"),
        ({"budget_ms": float("inf")}, r"--budget-ms is inf"),
        ({"long_passages": "fold"}, r"--long-passages is 'fold': .*windows"),
    ],
)
def test_model_options_that_cannot_be_used(option: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        settings.load(**option)
