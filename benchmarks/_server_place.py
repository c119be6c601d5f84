"""Where `server.py` measures: a Qdrant server, or the tests' double of one in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Place:
    """A server. `double`: it is the tests' own, whose times are those of Python code."""

    url: str
    grpc_port: int
    api_key: str | None
    double: bool


@contextmanager
def place() -> Iterator[Place]:
    """The server of QDRANT_URL (QDRANT_API_KEY, QDRANT_GRPC_PORT), else the double."""
    if url := os.environ.get("QDRANT_URL"):
        port = int(os.environ.get("QDRANT_GRPC_PORT", "6334"))
        yield Place(url, port, os.environ.get("QDRANT_API_KEY"), False)
        return
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            if len(words) != 2:
                raise RuntimeError("the double of a server did not start; see above")
            yield Place(words[0], int(words[1]), None, True)
        finally:
            process.kill()


def serve() -> None:
    """The double, until standard input ends."""
    sys.path.insert(0, str(ROOT / "tests"))
    from doubles.qdrant_grpc import qdrant_server

    with qdrant_server() as server, suppress(KeyboardInterrupt):
        print(server.url, server.grpc_port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve()
