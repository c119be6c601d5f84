"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from retrieval.types import IngestProgress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def indexing_bar(what: str) -> Iterator[Callable[[IngestProgress], None]]:
    """A callback for `ingest(progress=…)`; the bar goes away when the block ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _indexing_lines(what)
        return
    columns = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with _bar(console, *columns, TextColumn("{task.fields[left]}")) as bar:
        task = bar.add_task(f"Indexing {escape(what)}", total=None, rate="", left="", start=True)

        def show(event: IngestProgress) -> None:
            bar.update(
                task,
                completed=event.documents,
                total=event.total_documents,
                rate=_rate(event),
                left=_left(event),
            )

        yield show


@contextmanager
def points_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A callback for what goes through a collection's points, called as (done, total)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with _bar(console) as bar:
        task = bar.add_task(escape(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def evaluation_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callback for `evaluate(progress=…)`, called as (what, done, total)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    with _bar(console, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield show


@contextmanager
def rate_bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for long work, called as (what, done, total); it shows so many `unit` a second."""
    console = Console(stderr=True)
    began: dict[str, tuple[float, int]] = {}
    last = time.monotonic()

    def rate(what: str, done: int) -> str:
        # what an earlier run has done does not count
        start, before = began.setdefault(what, (time.monotonic(), done))
        seconds = time.monotonic() - start
        return f"{_short((done - before) / seconds)} {unit}/s" if done > before else ""

    if not console.is_terminal:

        def line(what: str, done: int, total: int) -> None:
            nonlocal last
            shown, now = rate(what, done), time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES:
                last = now
                say(f"{what}: {done:,} of {total:,}" + (f", {shown}" if shown else ""))

        yield line
        return
    columns = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with _bar(console, *columns) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total, rate="")
            bar.update(tasks[what], completed=done, total=total, rate=rate(what, done))

        yield show


@dataclass(frozen=True, slots=True)
class ComparisonBar:
    """Callbacks of a comparison: for `ingest(progress=…)`, for searches as (what, done, total),
    and for lines that stay."""

    index: Callable[[IngestProgress], None]
    search: Callable[[str, int, int], None]
    say: Callable[[str], None]


@contextmanager
def comparison_bar(what: str) -> Iterator[ComparisonBar]:
    """One bar for whatever a comparison is doing; the lines stand above it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ComparisonBar(_indexing_lines(what), lambda what, done, total: None, say)
        return
    with _bar(console, TimeElapsedColumn()) as bar:
        task = bar.add_task(escape(what), total=None)

        def show(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=escape(what), completed=done, total=total)

        yield ComparisonBar(
            lambda event: show(f"Indexing {what}", event.documents, event.total_documents),
            show,
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )


def show_notices(notices: Sequence[str], *, label: str = "note", most: int = 10) -> None:
    """Print at most `most` notices to standard error, and how many more there are."""
    for notice in notices[:most]:
        say(f"{label}: {notice}")
    if len(notices) > most:
        say(f"{label}: … and {len(notices) - most:,} more")


def say(line: str) -> None:
    """A line on standard error, where there is one: work never fails because it cannot be
    written."""
    if sys.stderr is not None:  # None where the process was started without (`2>&-`)
        with suppress(OSError):  # its reader has gone (`2>&1 | head`)
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def _bar(console: Console, *more: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *more,
        console=console,
        transient=True,
    )


def _rate(event: IngestProgress) -> str:
    if event.passages_per_second <= 0:
        return f"{event.passages:,} passages" if event.passages else "reading"
    return f"{event.passages:,} passages · {_short(event.passages_per_second)}/s"


def _short(rate: float) -> str:
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def _left(event: IngestProgress) -> str:
    """How long it will go on, as coarse as the estimate is."""
    seconds = event.remaining_seconds
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min left"
    hours = seconds / 3600
    return f"{hours:.0f} h left" if hours >= 10 else f"{hours:.1f} h left"


def _indexing_lines(what: str) -> Callable[[IngestProgress], None]:
    last = time.monotonic()

    def show(event: IngestProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        total = "" if event.total_documents is None else f" of {event.total_documents:,}"
        left = f", {_left(event)}" if event.remaining_seconds else ""
        say(f"indexing {what}: {event.documents:,}{total} documents, {_rate(event)}{left}")

    return show
