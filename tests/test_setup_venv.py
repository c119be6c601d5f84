"""Setup against package indexes of this test's own: which build of torch a real pip installs."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_frame import load

setup_venv = load("scripts/setup_venv.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has pip alone."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    return Path(setup_venv.venv_python(venv))


@pytest.fixture(autouse=True)
def no_torch(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed yet, and pip asks no index of this machine's configuration."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(setup_venv, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(setup_venv.platform, "system", lambda: "Linux")
    subprocess.run(
        [python, "-m", "pip", "uninstall", "-y", "torch", "nvidia-runtime"],
        check=True,
        capture_output=True,
    )


def put_wheel(root: Path, name: str, version: str, *requires: str) -> None:
    """An empty package in a simple index."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        info = f"{stem}.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\n" + "\n".join(metadata) + "\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    names = [file.name for file in folder.glob("*.whl")]
    page = "".join(f'<a href="{name.replace("+", "%2B")}">{name}</a>' for name in names)
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{page}</body></html>")


@contextmanager
def indexes(root: Path, *, refused: str = "") -> Iterator[tuple[str, list[str]]]:
    """The folders of `root` over HTTP, paths with `refused` in them 403; the URL and what came."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if refused and refused in self.path:
                self.send_error(403, "blocked by the proxy")
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def version_of(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("refused", "installed", "cuda"),
    [
        ("", "2.13.0+cpu", ""),
        ("/cpu/", "2.13.0", "1.0"),  # the whole index
        ("cpu-py3-none-any.whl", "2.13.0", "1.0"),  # the files, which lie on another host
    ],
)
def test_the_default_torch_is_taken_with_a_notice_where_the_cpu_build_cannot_be_fetched(
    tmp_path: Path,
    python: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: str,
    installed: str,
    cuda: str,
) -> None:
    put_wheel(tmp_path / "simple", "torch", "2.13.0", "nvidia-runtime")
    put_wheel(tmp_path / "simple", "nvidia-runtime", "1.0")
    put_wheel(tmp_path / "cpu", "torch", "2.13.0+cpu")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    with indexes(tmp_path, refused=refused) as (url, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        setup_venv.install_torch(python, tmp_path / "constraints.txt", f"{url}/cpu")
    assert (version_of(python, "torch"), version_of(python, "nvidia-runtime")) == (installed, cuda)
    said = capsys.readouterr().out
    assert ("NOTICE: the default build of torch 2.13.0" in said) == bool(refused)
    assert ("TORCH_CPU_INDEX" in said) == bool(refused)


def test_the_index_of_cpu_builds_is_not_asked_where_the_default_build_is_small(
    tmp_path: Path,
    python: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_wheel(tmp_path / "simple", "torch", "2.13.0")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    with indexes(tmp_path) as (url, asked):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        setup_venv.install_torch(python, tmp_path / "constraints.txt", f"{url}/cpu")
    assert not [path for path in asked if path.startswith("/cpu")]
    assert "is a CPU build: good" in capsys.readouterr().out


def test_a_full_disk_is_no_reason_to_fetch_what_is_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def full(python: Path, arguments: list[str], *, doing: str) -> None:
        calls.append(arguments)
        raise setup_venv.SetupError("ERROR: [Errno 28] No space left on device")

    monkeypatch.setattr(setup_venv, "pip", full)
    monkeypatch.setattr(setup_venv, "installed_torch", lambda python: None)
    monkeypatch.setattr(setup_venv, "offered_torch_requirements", lambda *_: ["nvidia-cudnn-cu13"])
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    with pytest.raises(setup_venv.SetupError, match="No space left"):
        setup_venv.install_torch(Path("python"), tmp_path / "constraints.txt", "https://cpu")
    assert len(calls) == 1
