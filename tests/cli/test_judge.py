"""`retrieval judge` on a real terminal (a pty) and with keys from a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import pytest

from retrieval.cli.judge import matching
from retrieval.cli.main import run
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.pool import Pool
from retrieval.evaluation.pool_files import ShownPassage, StoredItem

HOSTILE = (
    "The oak\x1b[2J is\x07 old.\u202e \x9b31m[bold]not markup[/bold]\r\n| a | b |\r\n| c | d |"
)
LONG = "wörter " * 60 + "x" * 100
DOCUMENTS = {"a.md": "Oaks bear acorns.", "b.md": HOSTILE, "c.md": LONG}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Pool.make(tmp_path / "pool", "docs", "0a1b", depth=10) as pool:
        pool.add_queries([("q1", "where is the oak?"), ("q2", "橡树的果实")], "file")
        pool.put_items(
            [
                StoredItem(
                    query, key, f"Title of {key}", (ShownPassage(key, text, ("Trees", "Oak")),),
                    {"hybrid+rerank": rank},
                )
                for query in ("q1", "q2")
                for rank, (key, text) in enumerate(DOCUMENTS.items(), start=1)
            ],
            ["hybrid+rerank"],
        )  # fmt: skip
    return tmp_path / "pool"


class Terminal:
    """A process on a pty, what it has written, and keys for it."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int) -> None:
        self.process = process
        self.handle = handle
        self.shown = ""

    def press(self, keys: str) -> None:
        os.write(self.handle, keys.encode())

    def until(self, words: str, seconds: float = 30) -> str:
        """What it writes until these words come."""
        end = time.monotonic() + seconds
        start = len(self.shown)
        while words not in self.shown[start:]:
            left = end - time.monotonic()
            assert left > 0, f"{words!r} did not come: {self.shown[start:]!r}"
            if select.select([self.handle], [], [], left)[0]:
                try:
                    read = os.read(self.handle, 65536)
                except OSError:  # Linux says so at the end
                    read = b""
                assert read, f"it ended without {words!r}: {self.shown[start:]!r}"
                self.shown += read.decode("utf-8", "replace")
        return self.shown[start:]


@contextmanager
def judging(folder: Path, columns: int = 80) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", "from retrieval.cli.main import main; main()", "judge", str(folder)],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, close_fds=True,
        env={**clean, "TERM": "xterm-256color"}, cwd=Path(__file__).resolve().parents[2],
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0) and None,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def grades(folder: Path) -> dict[str, dict[str, int]]:
    return load_judgements(folder).qrels


def test_keys_undo_and_going_on_after_sigkill(folder: Path) -> None:
    with judging(folder) as terminal:
        first = terminal.until("? help")
        assert "0 of 6 judged, query 1 of 2" in first
        assert "where is the oak?" in first
        terminal.press("2")
        terminal.until("1 of 6 judged, query 1 of 2")
        terminal.press("1")
        terminal.until("2 of 6 judged, query 1 of 2")
        before = grades(folder)
        assert sorted(before["q1"].values()) == [1, 2]
        terminal.process.kill()
        terminal.process.wait()
    with judging(folder) as terminal:
        terminal.until("2 of 6 judged, query 1 of 2")
        terminal.press("u")
        terminal.until("1 of 6 judged")
        assert list(grades(folder)["q1"].values()) == [2]
        terminal.press("0")
        terminal.until("2 of 6 judged")
        assert sorted(grades(folder)["q1"].values()) == [0, 2]
        terminal.press("n")
        terminal.until("query 2 of 2")
        terminal.press("s\x1b[A?")
        terminal.until("Judge what the text says")
        terminal.press("uu")  # the skip, then what was judged before it, in the query before it
        terminal.until("1 of 6 judged, query 1 of 2")
        terminal.press("q")
        end = terminal.until("Measure: retrieval eval")
        assert "1 of 6 documents judged" in end
        assert terminal.process.wait(10) == 0
    assert list(grades(folder)["q1"].values()) == [2]


def test_keys_pressed_ahead_are_not_lost(folder: Path) -> None:
    with judging(folder) as terminal:
        terminal.until("? help")
        terminal.press("012012")
        terminal.until("6 of 6 documents judged")
        assert terminal.process.wait(10) == 0
    assert sorted(grades(folder)["q1"].values()) == [0, 1, 2]


def test_ctrl_c_keeps_everything_and_gives_the_terminal_back(folder: Path) -> None:
    with judging(folder) as terminal:
        terminal.until("? help")
        terminal.press("2")
        terminal.until("1 of 6 judged")
        terminal.press("\x03")
        terminal.until("interrupted; what was acknowledged is kept")
        assert terminal.process.wait(10) == 130
        assert termios.tcgetattr(terminal.handle)[3] & termios.ECHO, "what is typed shows again"
    assert list(grades(folder)["q1"].values()) == [2]


@pytest.mark.parametrize("columns", [80, 40])
def test_it_fits_the_terminal_and_nothing_of_a_text_moves_the_cursor(
    columns: int, folder: Path
) -> None:
    with judging(folder, columns) as terminal:
        terminal.until("? help")
        terminal.press("111")
        terminal.until("query 2 of 2")
        terminal.press("q")
        terminal.until("Measure")
        assert terminal.process.wait(10) == 0
    # Colours and bold are ours; anything else would be the text's.
    left = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown).partition("2 queries (")[0]
    assert "\x1b" not in left
    assert not {"\x07", "\x9b", "\u202e"} & set(left)
    assert "[2J is old." in left, "what is left of it is text"
    assert "[bold]not markup[/bold]" in " ".join(left.split())
    assert "| a | b |\r\n| c | d |" in left, "tables keep their lines"
    assert max(map(len, left.split("\r\n"))) <= columns
    assert "\x1b[1mOaks\x1b[0m" in terminal.shown, "words of the query are bold"


def test_a_judge_sees_no_system_and_no_rank(folder: Path) -> None:
    with judging(folder) as terminal:
        terminal.until("? help")
        terminal.press("111111")
        terminal.until("documents judged")
    seen = terminal.shown.partition("documents judged")[0]
    assert not re.search(r"hybrid|rerank|rank|score", seen)


# --- keys from elsewhere -----------------------------------------------------------------------


def judged(
    folder: Path, keys: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(keys))
    capsys.readouterr()
    assert run(["judge", str(folder)]) == 0
    return capsys.readouterr().out


def test_keys_from_a_pipe_with_or_without_line_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = judged(folder, "2\r\n 0 u x\n1", monkeypatch, capsys)
    assert "That is no key here" in shown
    assert "2 of 6 documents judged" in shown
    assert sorted(grades(folder)["q1"].values()) == [1, 2]
    shown = judged(folder, "n n", monkeypatch, capsys)
    assert "Only queries that you left with n are not judged yet." in shown
    shown = judged(folder, "uuuu", monkeypatch, capsys)
    assert "There is nothing to undo." in shown
    assert "0 of 6 documents judged" in shown


def test_status_reads_only_and_warns_of_figures_that_mislead(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(folder, "1", monkeypatch, capsys)
    before = sorted(folder.rglob("*"))
    with Pool(folder):  # while another judges
        assert run(["judge", str(folder), "--status"]) == 0
    shown = capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    assert "hybrid+rerank: 33% of its top 10 judged" in shown
    assert (
        "warning: hybrid+rerank is measured on 33% judged of its top 10; judge on, or its "
        "figures are too low."
    ) in shown
    assert f"Measure: retrieval eval {folder} --collection docs" in shown


def test_a_second_judge_and_a_folder_that_is_no_pool(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Pool(folder):
        assert run(["judge", str(folder)]) == 2
    assert "is being judged or extended by another process" in capsys.readouterr().err
    assert run(["judge", str(tmp_path)]) == 2
    assert "is no pool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "text", "bold"),
    [
        ("where is the oak tree?", "The Oak trees are where they were.", ["Oak", "trees"]),
        ("API keys", "An api key: KEYS.", ["api", "KEYS"]),
        ("is it the one", "The one is here", ["one"]),
        ("who is it", "Who it is", ["Who", "it", "is"]),
        ("橡树的果实", "橡树是一种树，它的果实叫橡子。", ["橡树", "的果"]),
        ("Straße (ß)?", "In der STRASSE: straße", ["straße"]),
    ],
)
def test_words_of_the_query_in_a_text(query: str, text: str, bold: list[str]) -> None:
    pattern = matching(query)
    assert pattern is not None
    found = pattern.findall(text)
    assert found == bold


def test_a_query_without_words() -> None:
    assert matching("?!") is None
