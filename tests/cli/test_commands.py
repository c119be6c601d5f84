"""The table of commands says what the commands say, and loads none that is not called."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer

from app.commands.help import HELP
from retrieval.cli import main
from retrieval.cli.commands import COMMANDS, PANELS, Command


def first_sentence(loaded: object) -> str:
    if isinstance(loaded, typer.Typer):
        return str(loaded.info.help or inspect.getdoc(loaded.registered_callback.callback))
    return str(inspect.getdoc(loaded)).partition("\n\n")[0].replace("\n", " ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_table_says_and_does_what_it_says(name: str) -> None:
    command = COMMANDS[name]
    said = first_sentence(command.load())
    assert said.startswith(command.help.rstrip(".")[:40]), said
    assert command.panel in PANELS


def test_the_apps_commands_are_all_said() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    entries = project["project"]["entry-points"]
    assert set(entries[main.PLUGINS]) == set(HELP)
    assert entries[main.PLUGIN_HELP] == {"app": "app.commands.help:HELP"}
    for name, place in entries[main.PLUGINS].items():
        text, panel = HELP[name]
        assert first_sentence(Command(place, text, panel).load()).startswith(text.rstrip(".")[:40])
        assert panel in PANELS


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["--version"]])
def test_what_is_not_called_is_not_loaded(arguments: list[str]) -> None:
    code = (
        "import sys; from retrieval.cli.main import run\n"
        f"code = run({arguments!r})\n"
        "print(sorted(one for one in sys.modules if one in "
        "('torch', 'transformers', 'numpy', 'retrieval.cli.train', 'app.settings.settings')))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = ("[]", "['numpy']") if arguments[0] == "search" else ("[]",)
    assert done.stdout.splitlines()[-1] in allowed


def test_a_command_that_is_misspelt_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["serach", "x"]) == 2
    assert "search" in capsys.readouterr().err


def test_a_plugin_without_help_is_a_command_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = EntryPoint("extra", "retrieval.cli.search:search", main.PLUGINS)
    monkeypatch.setattr(
        main, "entry_points", lambda group: [entry] if group == main.PLUGINS else []
    )
    assert main.run(["--help"]) == 0
    assert "extra" in capsys.readouterr().out
    assert main.run(["extra", "--help"]) == 0
    assert "Answer a question" in capsys.readouterr().out
