"""Uploaded files are read by processes with limits; real workers, which really fail."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.batching.deadline import Cancelled
from app.jobs.uploads import WORKER, ParseLimits, read_uploads, safe_name, safe_suffix
from retrieval import Document
from retrieval.types import Problem

ROWS = b'{"id": "r1", "text": "first"}\n{"text": "x"}\n'
LIMITS = ParseLimits(seconds=20, memory_mb=1024)
ROOT = Path(__file__).resolve().parents[2]


def read(
    files: Sequence[tuple[str, Path]],
    limits: ParseLimits = LIMITS,
    *,
    cancelled: threading.Event | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    documents = list(
        read_uploads(files, limits, on_problem=problems.append, cancelled=cancelled, worker=worker)
    )
    return documents, problems


def stored(folder: Path, number: int, suffix: str, content: bytes) -> Path:
    path = folder / f"{number:04}{suffix}"
    path.write_bytes(content)
    return path


def worker_that(folder: Path, body: str) -> list[str]:
    """A worker whose reader is `body`; the rest of it is the real one."""
    script = folder / "worker.py"
    script.write_text(
        "import os, signal, subprocess, sys, time\n"
        "from app.jobs.parse_worker import main\n"
        "from retrieval import Document\n"
        "def read(path, *, on_problem):\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
        + "sys.exit(main(read))\n"
    )
    return [sys.executable, str(script)]


def test_files_of_several_kinds_under_their_clients_names(tmp_path: Path) -> None:
    files = [
        ("../../etc/Handbook.md", stored(tmp_path, 1, ".md", b"# Rules\n\nBe kind.")),
        ("rows.jsonl", stored(tmp_path, 2, ".jsonl", ROWS)),
        ("C:\\docs\\plain.txt", stored(tmp_path, 3, ".txt", "grüße".encode())),
    ]  # fmt: skip
    documents, problems = read(files)
    assert problems == []
    assert [d.id for d in documents] == ["Handbook.md", "r1", "rows.jsonl#2", "plain.txt"]
    assert [d.source for d in documents] == [
        "Handbook.md",
        "rows.jsonl:1",
        "rows.jsonl:2",
        "plain.txt",
    ]
    assert documents[0].title == "Rules"
    assert documents[0].metadata["path"] == "Handbook.md"
    assert documents[3].text == "grüße"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "upload"),
        ("", "upload"),
        ("a\\b\\c.pdf", "c.pdf"),
        ("x\0y\r\n.md", "xy.md"),
        ("\u202etxt.exe", "txt.exe"),
        ("caf\u0065\u0301.txt", "café.txt"),
        ("\udcff.txt", "?.txt"),
        ("n" * 400 + ".docx", "n" * 195 + ".docx"),
    ],
)
def test_names_are_made_safe(given: str, name: str) -> None:
    assert safe_name(given) == name


@pytest.mark.parametrize(
    ("given", "suffix"),
    [("a.PDF", ".pdf"), ("a.tar/../x", ""), ("a.b c", ""), ("none", ""), ("a." + "x" * 50, "")],
)
def test_suffixes_are_plain(given: str, suffix: str) -> None:
    assert safe_suffix(given) == suffix


def test_what_cannot_be_read_is_a_problem_of_its_file_alone(tmp_path: Path) -> None:
    files = [
        ("broken.pdf", stored(tmp_path, 1, ".pdf", b"%PDF-1.7 no pdf at all")),
        ("tool.exe", stored(tmp_path, 2, ".exe", b"MZ")),
        ("empty.txt", stored(tmp_path, 3, ".txt", b"")),
        ("good.txt", stored(tmp_path, 4, ".txt", b"good")),
        ("good.txt", stored(tmp_path, 5, ".txt", b"the same name")),
    ]
    documents, problems = read(files)
    assert [d.id for d in documents] == ["good.txt"]
    assert [p.source for p in problems] == ["broken.pdf", "tool.exe", "empty.txt", "good.txt"]
    assert "'.exe'" in problems[1].reason
    assert "0002" not in problems[1].reason
    assert "more than once" in problems[3].reason


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = tmp_path / "0001.txt"
    link.symlink_to(secret)
    documents, problems = read([("a.txt", link)])
    assert documents == []
    assert problems == [Problem("a.txt", "is not a regular file")]


def test_memory_is_limited_with_the_real_reader(tmp_path: Path) -> None:
    content = b"word " * (45 * 1024 * 1024)
    files = [
        ("large.txt", stored(tmp_path, 1, ".txt", content)),
        ("small.txt", stored(tmp_path, 2, ".txt", b"small")),
    ]
    documents, problems = read(files, ParseLimits(seconds=60, memory_mb=300))
    assert [d.id for d in documents] == ["small.txt"], problems
    (problem,) = problems
    assert problem.source == "large.txt"
    assert "300 MB" in problem.reason


def test_a_zip_bomb_is_stopped(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as part:
            part.write(b"<a>" * 10)
            for _ in range(400):
                part.write(b"<w>" * 350_000)
    assert len(packed.getvalue()) < 2_000_000
    began = time.monotonic()
    documents, problems = read(
        [("bomb.docx", stored(tmp_path, 1, ".docx", packed.getvalue()))],
        ParseLimits(seconds=20, memory_mb=256),
    )
    assert documents == []
    assert [p.source for p in problems] == ["bomb.docx"]
    assert time.monotonic() - began < 25


def test_a_worker_that_sleeps_is_killed_with_what_it_started(tmp_path: Path) -> None:
    worker = worker_that(
        tmp_path,
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "yield Document('before', 'text')\n"
        "time.sleep(600)",
    )
    began = time.monotonic()
    files = [("slow.txt", stored(tmp_path, 1, ".txt", b"x"))]
    documents, problems = read(files, ParseLimits(seconds=2, memory_mb=1024), worker=worker)
    assert 2 <= time.monotonic() - began < 12
    assert [d.id for d in documents] == ["before"]
    assert problems == [
        Problem(
            "slow.txt",
            "takes longer than 2 s to be parsed; split it; 1 documents read before that are kept",
        )
    ]
    for pid in (tmp_path / "pids").read_text().split():
        assert ended(int(pid))


def ended(pid: int) -> bool:
    """Whether a process runs no more (what nobody waited for yet counts as ended)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("while True: pass\nyield", "takes longer than 1 s"),
        ("os.kill(os.getpid(), signal.SIGSEGV)\nyield", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)\nyield", "SIGKILL"),
        ("raise RuntimeError('broken')\nyield", "exit code 1"),
        ("os._exit(0)\nyield", "exit code 0"),
        ("x = [bytes(10**7) for _ in range(1000)]\nyield", "1,024 MB of memory"),
        ("print('noise'); os.write(1, b'noise')\nyield Document(1, 2)", "not a document"),
        (
            "for i in range(100): yield Document(str(i), 'x' * 1_000_000)",
            "gives more than 3 MB of text",
        ),
    ],
)
def test_workers_that_fail(tmp_path: Path, body: str, reason: str) -> None:
    worker = worker_that(tmp_path, body)
    seconds = 1 if "1 s" in reason else 30
    _, problems = read(
        [("bad.txt", stored(tmp_path, 1, ".txt", b"x"))],
        ParseLimits(seconds=seconds, memory_mb=1024, output_mb=3),
        worker=worker,
    )
    (problem,) = problems
    assert problem.source == "bad.txt"
    assert reason in problem.reason


def test_the_environment_holds_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_API_KEY", "secret")
    worker = worker_that(tmp_path, "yield Document('env', ' '.join(sorted(os.environ)))")
    documents, problems = read([("e.txt", stored(tmp_path, 1, ".txt", b"x"))], worker=worker)
    assert problems == []
    assert "RETRIEVAL" not in documents[0].text
    assert "PYTHONPATH" in documents[0].text


def test_cancelling_kills_the_worker(tmp_path: Path) -> None:
    worker = worker_that(
        tmp_path,
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "yield Document('one', 'text')\ntime.sleep(600)",
    )
    cancelled = threading.Event()
    files = [("a.txt", stored(tmp_path, 1, ".txt", b"x"))]
    reading = read_uploads(
        files, LIMITS, on_problem=lambda _: None, cancelled=cancelled, worker=worker
    )
    assert next(reading).id == "one"
    cancelled.set()
    with pytest.raises(Cancelled):
        next(reading)
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_reader_that_is_left_kills_its_worker(tmp_path: Path) -> None:
    worker = worker_that(tmp_path, "yield Document(str(os.getpid()), 'text')\ntime.sleep(600)")
    files = [("a.txt", stored(tmp_path, 1, ".txt", b"x"))]
    reading = read_uploads(files, LIMITS, on_problem=lambda _: None, worker=worker)
    pid = int(next(reading).id)
    os.kill(pid, signal.SIGCONT)  # it is there
    reading.close()
    assert ended(pid)
