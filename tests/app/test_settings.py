from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.settings import settings, sources
from retrieval.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def test_defaults_are_for_this_machine_only() -> None:
    chosen = sources.load()
    assert (chosen.host, chosen.port, chosen.public) == ("127.0.0.1", 7860, False)
    assert (chosen.collection, chosen.store) == ("docs", ".retrieval")
    assert (chosen.encoder, chosen.reranker) == (None, "auto")


def test_the_environment_sets_what_no_option_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_PORT", "9000")
    monkeypatch.setenv("RETRIEVAL_COLLECTION", "handbook")
    monkeypatch.setenv("RETRIEVAL_STORE", "")
    chosen = sources.load(port=9001, collection=None)
    assert chosen.port == 9001
    assert chosen.collection == "handbook"
    assert chosen.store == ".retrieval"


def test_the_api_key_is_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.secret(sources.load().api_key) is None
    monkeypatch.setenv("RETRIEVAL_API_KEY", "very-secret")
    chosen = sources.load()
    assert "very-secret" not in f"{chosen!r} {chosen}"
    assert settings.secret(chosen.api_key) == "very-secret"


def test_a_bad_option_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"--port is 99999.*65535.*Correct the option"):
        sources.load(port=99_999)


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_PORT", "lots")
    with pytest.raises(InvalidInput, match=r"environment variable RETRIEVAL_PORT is 'lots'"):
        sources.load()


def test_an_address_for_people_that_nobody_can_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_PUBLIC_URL", "https://a.example/search")
    assert sources.load().public_url == "https://a.example/search"
    for bad in ("localhost:7860", "ftp://a.example", "http://", "http://a b"):
        monkeypatch.setenv("RETRIEVAL_PUBLIC_URL", bad)
        with pytest.raises(
            InvalidInput, match=r"RETRIEVAL_PUBLIC_URL is .*https://search\.example"
        ):
            sources.load()


def test_how_the_models_run_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.model_options(sources.load()) == {}
    monkeypatch.setenv("RETRIEVAL_DEVICES", "cuda:0, cuda:1")
    monkeypatch.setenv("RETRIEVAL_DTYPE", "bf16")
    monkeypatch.setenv("RETRIEVAL_THREADS", "2")
    monkeypatch.setenv("RETRIEVAL_DETERMINISTIC", "true")
    monkeypatch.setenv("RETRIEVAL_LONG_PASSAGES", "windows")
    monkeypatch.setenv("RETRIEVAL_BUDGET_MS", "80")
    chosen = sources.load(engine="packed")
    options = {
        "devices": ["cuda:0", "cuda:1"],
        "engine": "packed",
        "dtype": "bf16",
        "threads": 2,
        "deterministic": True,
    }
    assert settings.model_options(chosen) == {**options, "long_passages": "windows"}
    assert settings.model_options(chosen, reranker=False) == options
    assert settings.model_options(sources.load(engine="packed", reranker="none")) == options
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
        sources.load(**option)


# --- the file -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "retrieval.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_an_option_goes_before_the_environment_before_the_file_before_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(folder, 'port = 1\nhost = "::1"\ncollection = "c"\n', "own.toml")
    monkeypatch.setenv("RETRIEVAL_PORT", "2")
    monkeypatch.setenv("retrieval_host", "127.0.0.2")
    monkeypatch.setenv("RETRIEVAL_COLLECTION", "")
    loaded = sources.load_with_origins(config=file, port=3)
    chosen = loaded.settings
    assert (chosen.port, chosen.host, chosen.collection, chosen.store) == (
        3,
        "127.0.0.2",
        "c",
        ".retrieval",
    )
    named = ("port", "host", "collection", "store")
    assert [loaded.origins[name] for name in named] == ["option", "environment", "file", "default"]
    assert loaded.file == file
    assert "collection" in chosen.model_fields_set
    assert "store" not in chosen.model_fields_set


def test_which_file_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.load().port == 7860
    write(folder, "port = 1")
    assert sources.load().port == 1
    monkeypatch.setenv("RETRIEVAL_CONFIG", str(write(folder, "port = 2", "two.toml")))
    assert sources.load().port == 2
    assert sources.load(config=write(folder, "port = 3", "three.toml")).port == 3
    monkeypatch.setenv("RETRIEVAL_CONFIG", "nowhere.toml")
    with pytest.raises(InvalidInput, match=r"RETRIEVAL_CONFIG names 'nowhere.toml'"):
        sources.load()
    with pytest.raises(InvalidInput, match=r"--config names '.*', but there is no such file"):
        sources.load(config=folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", r"has 'prot', which is not a setting. Did you mean port"),
        ("[server]\nport = 1", r"has 'server', which is not a setting"),
        ("port = ", r"is not valid TOML"),
        ('port = "lots"', r"port in .*own.toml is 'lots': .*Correct the file"),
        ("cors_origins = 5", r"cors_origins in .*own.toml is 5"),
        ('cors_origins = ["example.org"]', r"'example.org' is not a web origin"),
        ('rate_limit = "many"', r"rate_limit in .* is 'many': 'many' is not a rate"),
        ("api_key = 5", r"api_key in .*own.toml is not shown"),
    ],
)
def test_a_file_that_cannot_be_used(folder: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        sources.load(config=write(folder, text, "own.toml"))


def test_a_secret_in_a_file_that_others_can_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(folder, 'llm_key = "very-secret"')
    file.chmod(0o600)
    assert settings.secret(sources.load().llm_key) == "very-secret"
    assert not caplog.text
    file.chmod(0o640)
    sources.load()
    assert "llm_key" in caplog.text
    assert "chmod 600" in caplog.text
    assert "very-secret" not in caplog.text


@pytest.mark.parametrize(
    "text", ['["https://a.example", "http://b:8080"]', "https://A.example , http://b:8080,"]
)
def test_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RETRIEVAL_CORS_ORIGINS", text)
    assert sources.load().cors_origins == ("https://a.example", "http://b:8080")
    monkeypatch.setenv("RETRIEVAL_INGEST_ROOTS", "/data/a,/data/b")
    assert sources.load().ingest_roots == (Path("/data/a"), Path("/data/b"))


@pytest.mark.parametrize("text", ['{"a": "encoder", "b": "reranker"}', "a=encoder, b = reranker"])
def test_tables_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RETRIEVAL_MODEL_ALIASES", text)
    assert sources.load().model_aliases == {"a": "encoder", "b": "reranker"}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("CORS_ORIGINS", '["a"', r"begins as JSON but is not JSON"),
        ("CORS_ORIGINS", "a,b", r"'a' is not a web origin"),
        ("MODEL_ALIASES", "{a: b}", r"begins as JSON but is not JSON"),
        ("MODEL_ALIASES", "encoder", r"expected .* or name=value"),
        ("RATE_LIMIT", "0/minute", r"is not a rate"),
    ],
)
def test_lists_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    monkeypatch.setenv(f"RETRIEVAL_{name}", text)
    with pytest.raises(InvalidInput, match=rf"variable RETRIEVAL_{name} is .*{told}"):
        sources.load()
