"""`retrieval …`: index, search, eval, test, info, models, and what the app adds (ui, demo).

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a fault of
the machine or of this program, 2 something the caller can correct, 3 a case of `retrieval test`
failed, `retrieval drift --check` wants new labels or `retrieval train gate` does not pass, 130
interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from retrieval import __version__
from retrieval.cli.commands import COMMANDS, PANELS, Command
from retrieval.cli.output import ReaderGone, complain
from retrieval.errors import RetrievalError, UserError

PLUGINS, PLUGIN_HELP = "retrieval.commands", "retrieval.command_help"
"""Groups of entry points: commands of other packages (the app's `serve` and others), and what they
do, as mappings of name → (help, heading), so that the help loads none of them."""


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line for these arguments: all commands by name, and of them loaded those that
    the arguments may mean.

    Args:
        arguments: what follows `retrieval`; the first that is no option names the command.
    """
    app = typer.Typer(
        name="retrieval",
        help="Two-stage retrieval: index documents, search them, measure both stages.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # options in parts; in "rich" mode, [docs] would be a style
    )
    app.callback(invoke_without_command=True)(_root)
    named = next((one for one in arguments if not one.startswith("-")), None)
    if named is not None and named in COMMANDS:
        _add(app, named, COMMANDS[named], COMMANDS[named].load())
        return app
    commands = {**COMMANDS, **_plugins()}
    for name, command in sorted(commands.items(), key=lambda item: PANELS.index(item[1].panel)):
        _add(app, name, command, command.load() if name == named else _unloaded)
    return app


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"retrieval {__version__}")
        raise typer.Exit


def _add(app: typer.Typer, name: str, command: Command, loaded: Any) -> None:
    if isinstance(loaded, typer.Typer):  # a command with its own commands
        app.add_typer(loaded, name=name, rich_help_panel=command.panel)
    elif loaded is _unloaded:
        app.command(name, help=command.help, rich_help_panel=command.panel)(loaded)
    else:
        app.command(name, rich_help_panel=command.panel)(loaded)


def _unloaded() -> None:
    """What stands for a command in the help."""


def _plugins() -> dict[str, Command]:
    """Commands of other packages."""
    said: dict[str, tuple[str, str]] = {}
    for entry in entry_points(group=PLUGIN_HELP):
        said |= entry.load()
    found = {}
    for entry in sorted(entry_points(group=PLUGINS), key=lambda one: one.name):
        text, panel = said.get(entry.name, ("", PANELS[-1]))
        found[entry.name] = Command(entry.value, text, panel if panel in PANELS else PANELS[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; no traceback unless --debug asks."""
    code = run(arguments)
    _let_go_of_streams()
    sys.exit(code)


def _let_go_of_streams() -> None:
    """Drop what could not be written: left in a buffer, it would fail the interpreter's exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed by whoever started the program
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:])
    args = [a for a in (sys.argv[1:] if arguments is None else arguments) if a != "--debug"]
    try:
        app = build(args)
        result = app(args=list(args), prog_name="retrieval", standalone_mode=False, obj=list(args))
        if result == 130:  # Typer has caught the KeyboardInterrupt and says nothing
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except RetrievalError as error:
        if debug:
            complain(traceback.format_exc().rstrip())
        complain(f"retrieval: {error}")
        return error.exit_code
    except typer.Abort:
        complain("retrieval: interrupted")
        return 130
    except typer.TyperException as error:  # an option or argument that cannot be used
        message = error.format_message()
        if not message.startswith("Usage:"):  # the help, where no command was given
            message = f"retrieval: {message} (see `retrieval --help`)"
        complain(message)
        return UserError.exit_code
    except KeyboardInterrupt:
        complain("retrieval: interrupted; what was acknowledged is kept")
        return 130
    except ReaderGone:  # not an error of ours
        return 0
    except Exception as error:  # noqa: BLE001  (reported; --debug shows where it came from)
        if debug:
            complain(traceback.format_exc().rstrip())
        complain(
            f"retrieval: unexpected {type(error).__name__}: {error}. This is a fault in the "
            "program; run again with --debug for the traceback and report it."
        )
        return 1
