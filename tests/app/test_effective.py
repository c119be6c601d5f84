from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import report as effective
from app.settings import settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def line(text: str, name: str) -> list[str]:
    [found] = [one for one in text.splitlines() if one.split()[:1] == [name]]
    return found.split(None, 2)


def test_every_setting_its_value_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text('collection = "from-file"\nmodel_aliases = {a = "encoder"}\n')
    monkeypatch.setenv("RETRIEVAL_BATCHING", "off")
    monkeypatch.setenv("RETRIEVAL_API_KEY", "very-secret")
    loaded = settings.load_all(config=file, port=9000, llm_key="also-secret")
    text = effective.as_text(loaded)
    assert line(text, "port") == ["port", "9000", "option"]
    assert line(text, "collection") == ["collection", "from-file", f"file {file}"]
    assert line(text, "batching") == ["batching", "false", "environment RETRIEVAL_BATCHING"]
    assert line(text, "host") == ["host", "127.0.0.1", "default"]
    assert line(text, "timeout_ms") == ["timeout_ms", "-", "default"]
    assert line(text, "model_aliases")[1] == "a=encoder"
    assert line(text, "api_key") == ["api_key", effective.MASK, "environment RETRIEVAL_API_KEY"]
    assert line(text, "llm_key") == ["llm_key", effective.MASK, "option"]
    for name in settings.Settings.model_fields:
        assert line(text, name)
    for shown in (text, effective.as_toml(loaded), repr(effective.rows(loaded))):
        assert "very-secret" not in shown
        assert "also-secret" not in shown
    assert {row.name for row in effective.rows(loaded) if row.secret} == {"api_key", "llm_key"}


def test_what_it_writes_can_be_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "port": 1,
        "title": 'a "quoted" \\ line\nand 😀 \x7f \x01',
        "cors_origins": ("https://a.example", "*"),
        "ingest_roots": (Path("/data"),),
        "keys_file": Path("keys.json"),
        "model_aliases": {"text-embedding-3-small": "encoder", 'odd "name"': "reranker"},
        "batch_window_ms": 1e-7,
        "budget_ms": 1e22,
        "read_only": True,
        "rate_limit": "5/second",
        "llm_key": "very-secret",
    }
    first = settings.load(**options)
    file = tmp_path / "again.toml"
    file.write_text(effective.as_toml(settings.load_all(**options)), encoding="utf-8")
    again = settings.load(config=file)
    assert again.model_dump(exclude={"llm_key"}) == first.model_dump(exclude={"llm_key"})
    assert again.llm_key is None
    # and the defaults
    file.write_text(effective.as_toml(settings.load_all()), encoding="utf-8")
    assert settings.load(config=file) == settings.load(config=file)
    assert settings.load(config=file).model_dump() == settings.Settings().model_dump()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_written_as_toml(text: str) -> None:
    assert tomllib.loads(f"a = {effective._text(text)}") == {"a": text}


def test_a_variable_that_nothing_reads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert effective.notes() == []
    monkeypatch.setenv("RETRIEVAL_KEYFILE", "x")
    monkeypatch.setenv("RETRIEVAL_CONFIG", "")
    text = effective.as_text(settings.load_all())
    assert (
        "RETRIEVAL_KEYFILE is set, and no setting has this name (meant RETRIEVAL_KEYS_FILE?)"
        in text
    )


def test_the_documentation_has_every_setting_with_its_default() -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "operations.md").read_text(encoding="utf-8")
    for name, field in settings.Settings.model_fields.items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.endswith(f"| {field.description} |")
        if field.default not in (None, (), {}):
            shown = str(field.default).lower() if field.default in (True, False) else field.default
            assert str(shown) in row.split("|")[2]
