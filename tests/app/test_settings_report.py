from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.commands.options import settings_of
from app.settings import report, settings, sources
from app.settings.declaration import declared, setting
from retrieval.cli.options import with_options
from retrieval.errors import InvalidInput


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
    loaded = sources.load_with_origins(config=file, port=9000, llm_key="also-secret")
    text = report.as_text(loaded)
    assert line(text, "port") == ["port", "9000", "option"]
    assert line(text, "collection") == ["collection", "from-file", f"file {file}"]
    assert line(text, "batching") == ["batching", "false", "environment RETRIEVAL_BATCHING"]
    assert line(text, "host") == ["host", "127.0.0.1", "default"]
    assert line(text, "timeout_ms") == ["timeout_ms", "-", "default"]
    assert line(text, "model_aliases")[1] == "a=encoder"
    assert line(text, "api_key") == ["api_key", report.MASK, "environment RETRIEVAL_API_KEY"]
    assert line(text, "llm_key") == ["llm_key", report.MASK, "option"]
    for name in settings.Settings.model_fields:
        assert line(text, name)
    for shown in (text, report.as_toml(loaded), repr(report.rows(loaded))):
        assert "very-secret" not in shown
        assert "also-secret" not in shown
    assert {row.setting.name for row in report.rows(loaded) if row.setting.secret} == {
        "api_key",
        "llm_key",
    }


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
    first = sources.load(**options)
    file = tmp_path / "again.toml"
    file.write_text(report.as_toml(sources.load_with_origins(**options)), encoding="utf-8")
    again = sources.load(config=file)
    assert again.model_dump(exclude={"llm_key"}) == first.model_dump(exclude={"llm_key"})
    assert again.llm_key is None
    # and the defaults
    file.write_text(report.as_toml(sources.load_with_origins()), encoding="utf-8")
    assert sources.load(config=file).model_dump() == settings.Settings().model_dump()


def test_a_variable_that_nothing_reads_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "note:" not in report.as_text(sources.load_with_origins())
    monkeypatch.setenv("RETRIEVAL_KEYFILE", "x")
    monkeypatch.setenv("RETRIEVAL_CONFIG", "")
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", "weights")  # the library's own
    text = report.as_text(sources.load_with_origins())
    assert (
        "RETRIEVAL_KEYFILE is set, and no setting has this name (meant RETRIEVAL_KEYS_FILE?)"
        in text
    )
    assert "RETRIEVAL_WEIGHTS" not in text


def documented() -> str:
    """The tables of docs/operations.md, as the declaration gives them."""
    text = ""
    section = None
    for one in declared(settings.Settings):
        if one.section != section:
            section = one.section
            text += (
                f"\n#### {section}\n\n| setting | default | what | option of |\n|---|---|---|---|\n"
            )
        default = f"`{one.default}`" if one.default else "–"
        text += f"| `{one.name}` | {default} | {one.text} | {', '.join(one.commands) or '–'} |\n"
    return text


def test_the_documentation_has_every_setting_as_it_is_declared() -> None:
    file = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
    assert documented() in file.read_text("utf-8"), f"expected in {file.name}:\n{documented()}"


def test_a_setting_that_is_declared_appears_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class More(settings.Settings):
        added_limit: int = setting(5, "number of added things", "Load", "serve mcp", ge=1)

    monkeypatch.setattr(settings, "Settings", More)
    app = typer.Typer()
    seen: dict[str, object] = {}

    def command(*, options: dict[str, Any]) -> None:
        seen.update(options)

    for name in ("serve", "ui"):
        app.command(name)(with_options(options=settings_of(name))(command))
    runner = CliRunner()
    assert runner.invoke(app, ["serve", "--added-limit", "7"]).exit_code == 0
    assert seen == {"added_limit": 7}
    assert "Number of added things. [5]" in runner.invoke(app, ["serve", "--help"]).output
    assert runner.invoke(app, ["ui", "--added-limit", "7"]).exit_code == 2

    assert sources.load(added_limit=7).model_dump()["added_limit"] == 7
    with pytest.raises(InvalidInput, match=r"--added-limit is 0: .* \(number of added things\)"):
        sources.load(added_limit=0)
    (tmp_path / "retrieval.toml").write_text("added_limit = 8")
    loaded = sources.load_with_origins()
    assert line(report.as_text(loaded), "added_limit")[1:] == ["8", "file retrieval.toml"]
    assert "added_limit = 8" in report.as_toml(loaded)
    monkeypatch.setenv("RETRIEVAL_ADDED_LIMIT", "9")
    shown = line(report.as_text(sources.load_with_origins()), "added_limit")
    assert shown[1:] == ["9", "environment RETRIEVAL_ADDED_LIMIT"]


def test_settings_are_options_of_commands_that_exist() -> None:
    commands = {command for one in declared(settings.Settings) for command in one.commands}
    assert commands == {"serve", "ui", "demo", "mcp"}
