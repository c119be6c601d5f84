"""`retrieval ui` and `retrieval demo` as a user starts them: a process, its output, its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.commands.serve import demo, ui
from app.server import sockets
from app.server.run import say, stoppable
from retrieval.errors import InvalidInput, PortInUse

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from retrieval.cli.main import main; main()"


@contextmanager
def started(
    *arguments: str, program: str = PROGRAM, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RETRIEVAL_")}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**clean, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str) -> tuple[str, re.Match[str]]:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if match := re.search(pattern, line):
            return said, match
    raise AssertionError(f"ended without saying {pattern!r}; it said:\n{said}")


def test_ui_serves_and_ends_at_ctrl_c(office_store: Path) -> None:
    """SIGTERM is tested under load, in test_service_faults."""
    arguments = ("ui", "--collection", "office", "--port", "0", "--no-browser")
    with started(*arguments, RETRIEVAL_STORE=str(office_store)) as process:
        said, match = read_until(process, r"The page is at (http://127\.0\.0\.1:\d+)")
        assert "Opening the collection 'office'" in said
        assert re.search(r"Models in use: encoder .*MiniLM.*, reranker \S+", said)
        url = match[1]
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.status == 200
        with urllib.request.urlopen(url) as answer:
            assert b"Two-stage retrieval" in answer.read()
        # An open tab holds such a connection; the server must not wait for it to be closed.
        with urllib.request.urlopen(f"{url}/gradio_api/heartbeat/tab") as tab:
            assert tab.readline().startswith(b"data")
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            rest = process.communicate(timeout=20)[1]
        assert process.returncode == 0, rest
        assert rest == "Stopped.\n"
        assert time.monotonic() - began < 10


def test_an_address_that_people_open_is_the_one_that_is_said(office_store: Path) -> None:
    arguments = ("ui", "--collection", "office", "--port", "0", "--no-browser", "--public")
    with started(
        *arguments,
        "--host",
        "0.0.0.0",
        RETRIEVAL_STORE=str(office_store),
        RETRIEVAL_PUBLIC_URL="http://localhost:7861",
    ) as process:
        read_until(process, r"The page is at http://localhost:7861 \(stop with Ctrl-C\)")


SLOW = """
import time
from fastapi import FastAPI
from app.server import sockets
from app.server.run import end_within, say, stoppable
app = FastAPI()
@app.get("/slow")
def slow():
    say("slow request began")
    time.sleep(100)
sock = sockets.reserve_port("127.0.0.1", 0)
ready = lambda: say(f"at {sockets.url_of(sock)}")
with stoppable():
    sockets.serve(app, sock, ready=ready, stopping=lambda: end_within(6), grace_s=3)
"""


def test_a_search_that_takes_long_does_not_hold_the_end_up() -> None:
    with started(program=SLOW) as process:
        _, match = read_until(process, r"at (http://.*)")
        address = match[1].removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            read_until(process, "slow request began")
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=25)[1]
    assert process.returncode == 0, rest
    assert rest == "A search that was still running was abandoned.\n"


def test_the_store_is_free_again_after_the_end(office_store: Path) -> None:
    import retrieval

    with retrieval.open("office", store=office_store, reranker="none") as retriever:
        assert retriever.count() > 0


def invoke(*arguments: str) -> typer.testing.Result:
    app = typer.Typer()
    app.command("ui")(ui)
    app.command("demo")(demo)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", ["ui", "demo"])
def test_a_port_in_use_is_said_before_any_work(command: str, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        result = invoke(command, "--port", port, "--store", str(tmp_path / "store"))
    assert isinstance(result.exception, PortInUse)
    assert f"--port {int(port) + 1}" in str(result.exception)
    assert result.stderr == ""
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["ui", "demo"])
def test_an_open_address_needs_public(command: str, tmp_path: Path) -> None:
    result = invoke(command, "--host", "0.0.0.0", "--port", "0", "--store", str(tmp_path / "store"))
    assert isinstance(result.exception, InvalidInput)
    assert "--public" in str(result.exception)
    assert not (tmp_path / "store").exists()


def test_an_open_address_with_public_comes_with_a_warning(tmp_path: Path) -> None:
    from retrieval.errors import CollectionNotFound

    result = invoke("ui", "--host", "0.0.0.0", "--public", "--port", "0", "--store", str(tmp_path))
    assert "Warning: everyone who can reach 0.0.0.0" in result.stderr
    assert isinstance(result.exception, CollectionNotFound)


def test_an_unknown_collection_is_named(tmp_path: Path) -> None:
    from retrieval.errors import CollectionNotFound

    result = invoke("ui", "--collection", "nowhere", "--port", "0", "--store", str(tmp_path))
    assert isinstance(result.exception, CollectionNotFound)
    assert "nowhere" in str(result.exception)


def test_sigterm_during_the_work_ends_it_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_names_the_defaults_and_every_option() -> None:
    text = invoke("ui", "--help").output
    for name in ("--collection", "--store", "--host", "--port", "--public", "--no-browser"):
        assert name in text
    for name in ("--device", "--devices", "--engine", "--dtype", "--threads", "--budget-ms"):
        assert name in text
    assert sockets.is_loopback("127.0.0.1")


def test_a_missing_standard_error_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is None after `2>&-`; a line to it must not end the service."""
    monkeypatch.setattr("sys.stderr", None)
    say("The page is at …")
