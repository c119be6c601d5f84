"""`python-docs`: the standard library's documentation, from the interpreter's docstrings."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import CorpusError
from retrieval.types import Document

SOURCE_NAME = "python-docs"


def python_docs() -> Iterator[Document]:
    """One document for each public module, class, function, method and property with a docstring.

    The id is the name a user types (`shutil.copytree`, `str.split`), the title that name with its
    parameters, and the metadata are `module`, `kind` and `python` (such as "3.12"). In id order,
    and the same on each run of the same interpreter. What Python calls deprecated at import, test
    packages, codecs and tkinter are left out.

    Raises:
        CorpusError: the interpreter cannot be started a second time to read its documentation.
    """
    script = Path(__file__).with_name("_stdlib_script.py")
    # Isolated and without site-packages: nothing but the standard library can be imported.
    options = ["-I", "-S", "-B", "-X", "utf8", "-W", "ignore"]
    version = ".".join(platform.python_version_tuple()[:2])
    if not sys.executable or not script.is_file():
        raise _failed("there is no interpreter, or not as a file on disk")
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [sys.executable, *options, str(script)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            )
        except OSError as error:
            raise _failed(str(error)) from error
        try:
            assert process.stdout is not None
            for line in process.stdout:
                row = json.loads(line)
                yield Document(
                    id=row["id"],
                    text=row["text"],
                    title=row["title"],
                    metadata={"module": row["module"], "kind": row["kind"], "python": version},
                    source=row["id"],
                )
            if process.wait() != 0:
                errors.seek(0)
                lines = errors.read().decode("utf-8", "replace").strip().splitlines()
                raise _failed(lines[-1] if lines else f"it ended with code {process.returncode}")
        finally:
            # Also when the caller stops half-way or presses Ctrl-C.
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _failed(reason: str) -> CorpusError:
    return CorpusError(
        f"python-docs is read by a second run of {sys.executable or 'the interpreter'}, "
        f"which failed: {reason}",
        fix="Check that this Python starts and has its standard library as files on disk.",
    )
