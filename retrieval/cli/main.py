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
from typing import Annotated

import typer

from retrieval import __version__
from retrieval.cli import (
    adapt,
    cases,
    collections,
    compare,
    documents,
    drift,
    evaluation,
    index,
    judge,
    maintenance,
    merge,
    mine,
    models,
    mteb,
    search,
    train,
    tuning,
)
from retrieval.cli.output import ReaderGone, complain
from retrieval.errors import RetrievalError, UserError

app = typer.Typer(
    name="retrieval",
    help="Two-stage retrieval: index documents, search them, measure both stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # options in parts; in "rich" mode, [docs] would be a style
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"retrieval {__version__}")
        raise typer.Exit


index.add_to(app)
search.add_to(app)


evaluation.add_to(app)
cases.add_to(app)
judge.add_to(app)
compare.add_to(app)
models.add_to(app)
mteb.add_to(app)
collections.add_to(app)
documents.add_to(app)
maintenance.add_to(app)
tuning.add_to(app)
merge.add_to(app)
mine.add_to(app)
drift.add_to(app)
train.add_to(app)
adapt.add_to(app)


def _add_plugins(arguments: Sequence[str]) -> None:
    """Commands of other packages (the app's `serve` and others) come through entry points.

    They are not loaded for a command that is here already, which starts sooner without them.
    """
    here = {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
    here |= {
        str(one.typer_instance.info.name) for one in app.registered_groups if one.typer_instance
    }
    if here.intersection(arguments[:1]):
        return
    for entry in sorted(entry_points(group="retrieval.commands"), key=lambda e: e.name):
        command = entry.load()
        if isinstance(command, typer.Typer):  # a command with its own commands
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


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
        _add_plugins(args)
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
