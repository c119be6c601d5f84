"""`retrieval judge`: say of each document of a pool whether it is relevant, a key each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.cli.output import write

if TYPE_CHECKING:
    from rich.console import Console

    from retrieval.evaluation.pool import Item, Pool
    from retrieval.evaluation.pool_status import PoolStatus

KEYS = (
    "0 not relevant · 1 relevant · 2 exactly what was asked · u undo · s skip · n next query · "
    "q quit · ? help"
)

HELP = """\
0  not relevant: who asked this would have no use for it.
1  relevant: it answers a part, or leads to the answer.
2  exactly what was asked: the answer is in it.
u  undo: take the last key back, and the one before it, also of an earlier day.
s  skip: leave this one out for now; it comes again when everything else is judged.
n  next query: the rest of this query waits for the next session.
q  quit: everything is saved; the same command goes on here.
Judge what the text says, not what you know beside it. The order is drawn at random."""

_EVERYWHERE = {
    "the", "and", "for", "are", "was", "were", "what", "how", "who", "which", "where", "when",
    "why", "does", "did", "can", "could", "should", "has", "have", "had", "its", "that", "this",
    "with", "from", "not", "you", "your", "our", "they", "there",
}  # fmt: skip
"""Words that mark nothing in a text; those of other languages are marked, which does no harm."""

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]{2,}")


def judge(
    pool: Annotated[Path, typer.Argument(help="The pool's folder, of `retrieval questions`.")],
    status: Annotated[
        bool, typer.Option("--status", help="Print how far it is, and judge nothing.")
    ] = False,
) -> None:
    """Judge what was found for the questions of a pool: one document at a time, a key each.

    Nothing shows which system found a document or where. Each key is saved at once; standard input
    that is no terminal is read as keys.
    """
    from rich.console import Console

    from retrieval.cli.keys import single_keys
    from retrieval.cli.progress import show_notices
    from retrieval.evaluation.pool import Pool

    with Pool(pool, write=not status) as opened:
        show_notices(opened.notices)
        if not status:
            with single_keys() as read_key:
                _Session(opened, Console(highlight=False, soft_wrap=False), read_key).run()
        write(status_as_text(opened.status(), str(pool)))


class _Session:
    """What was pressed so far, and what comes next."""

    def __init__(self, pool: Pool, console: Console, read_key: Callable[[], str]) -> None:
        self._pool = pool
        self._console = console
        self._read_key = read_key
        self._passed: set[str] = set()

    def run(self) -> None:
        """Ask until nothing is left, or until the judge quits."""
        item = self._pool.next_item()
        while item is not None:
            self._show(item)
            again = self._answered(item)
            if isinstance(again, bool):
                if not again:
                    return
                item = self._pool.next_item(passed=self._passed)
            else:
                item = again
        if self._passed:
            self._say("Only queries that you left with n are not judged yet.")

    def _answered(self, item: Item) -> bool | Item:
        """Act on keys until this item is done: False to quit, an item to show that one next."""
        while True:
            key = self._read_key().lower()
            if key in ("", "q"):
                return False
            if key in ("0", "1", "2"):
                self._pool.judge(item, int(key))
                self._say(f"→ {key}")
                return True
            if key == "s":
                self._pool.skip(item)
                self._say("→ skipped")
                return True
            if key == "n":
                self._passed.add(item.query.id)
                return True
            if key == "u":
                undone = self._pool.undo()
                if undone is not None:
                    self._passed.discard(undone.query.id)
                    self._say("→ undone")
                    return undone
                self._say("There is nothing to undo.")
            elif key == "?":
                self._say(HELP)
            else:
                self._say("That is no key here; ? says what each does.")

    def _show(self, item: Item) -> None:
        from rich.text import Text

        from retrieval.cli.render import plain

        pool, out = self._pool, self._console.print
        state = pool.status()
        self._console.rule(style="dim")
        out(
            Text(
                f"{state.judged:,} of {state.items:,} judged, "
                f"query {item.query_number:,} of {len(pool.queries):,}",
                style="dim",
            )
        )
        if item.query.origin == "synthetic":
            out(Text("Written by a language model for this document: is it answered?", "dim"))
        out(Text.assemble("Query: ", (plain(item.query.text), "bold")), overflow="fold")
        out()
        pattern = matching(item.query.text)
        where = plain(item.title or item.key)
        out(Text(where, "underline"), overflow="fold")
        headings: tuple[str, ...] = ()
        for place, passage in enumerate(item.passages):
            if place:
                out(Text("…", "dim"))
            if passage.headings != headings:
                headings = passage.headings
                out(Text(" > ".join(map(plain, headings)), "italic"), overflow="fold")
            # lines of prose are wrapped anew; those of tables and lists stay
            for line in re.sub(r"(?<=\S)\r?\n(?=\w)", " ", passage.text).splitlines():
                text = Text(plain(line))
                if not text:
                    continue
                if pattern is not None:
                    text.highlight_regex(pattern, "bold")
                out(text, overflow="fold")
        out()
        out(Text(KEYS, "dim"))

    def _say(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line))


def matching(query: str) -> re.Pattern[str] | None:
    """What is shown in bold of a text: the query's longer words and their endings, and pairs of
    signs of languages that are written without blanks. None where the query has no word."""
    parts = []
    for run in _CJK.findall(query):
        parts += [re.escape(run[at : at + 2]) for at in range(len(run) - 1)]
    words = re.findall(r"\w+", _CJK.sub(" ", query))
    chosen = [one for one in words if len(one) > 2 and one.lower() not in _EVERYWHERE] or words
    # a word's end may differ by number or case: "trees" also where "tree" is asked for
    parts += [rf"\b{re.escape(word)}\w{{0,2}}\b" for word in chosen]
    return re.compile("|".join(dict.fromkeys(parts)), re.IGNORECASE) if parts else None


def status_as_text(status: PoolStatus, folder: str) -> str:
    """The state of a pool in a few lines, and what to do next."""
    origins = ", ".join(f"{number:,} from {_ORIGINS[name]}" for name, number in
                        status.queries.items())  # fmt: skip
    lines = [
        f"{sum(status.queries.values()):,} queries ({origins}), {status.judged:,} of "
        f"{status.items:,} documents judged" + (f", {status.skipped:,} skipped" if status.skipped
                                                else ""),
    ]  # fmt: skip
    if status.grades:
        grades = ", ".join(f"{number:,} with {grade}" for grade, number in status.grades.items())
        lines.append(f"{status.judged_queries:,} queries can be measured; grades: {grades}")
    if status.synthetic_judged:
        lines.append(
            f"synthetic queries: of {status.synthetic_judged:,} checked, "
            f"{status.synthetic_agreed:,} are answered by their document "
            f"({status.synthetic_agreed / status.synthetic_judged:.0%})"
        )
    lines += [
        f"{name}: {share:.0%} of its top {status.depth} judged"
        for name, share in status.systems.items()
    ]
    lines += [f"warning: {warning}" for warning in status.warnings]
    if status.judged + status.skipped < status.items:
        lines.append(f"Judge: retrieval judge {folder}")
    if status.judged_queries:
        lines.append(f"Measure: retrieval eval {folder} --collection {status.collection}")
    return "\n".join(lines)


_ORIGINS = {"file": "a file", "log": "a log", "synthetic": "a language model"}
