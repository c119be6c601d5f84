"""Write constraints.txt: exact versions of all that this environment's install is made of.

    .venv/bin/python scripts/freeze.py            rewrites constraints.txt
    .venv/bin/python scripts/freeze.py --check    exits with 1 where it would change

The closure of the project's own requirements with the extras `dev` and `flag` is taken from what
is installed here, without local versions (`+cpu`), so that any index can serve it.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST_PYTHON = "3.11.0"
"""What `requires-python = ">=3.11"` lets in; Debian 12 has 3.11.2."""

HEADER = """\
# What was tested together: pip install -c constraints.txt -e .
# Made by scripts/freeze.py from an environment in which the tests pass (Python {python}):
# the closure of pyproject.toml's dependencies with the extras dev and flag. To raise a version,
# install it there, run the tests, and run the script again.
# No hashes and no local versions: torch's CPU and CUDA builds both satisfy its pin, and
# scripts/setup_venv.py chooses between them.
"""


def direct_requirements() -> list[Requirement]:
    """The project's dependencies and those of its extras; extras that name it are opened."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        written += extra
    requirements = [Requirement(line) for line in written]
    return [r for r in requirements if canonicalize_name(r.name) != project["name"]]


def closure(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Name → version of all that the requirements bring, as installed here."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, needed_by = waiting.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            try:
                installed = distribution(requirement.name)
            except PackageNotFoundError:
                by = f" (needed by {needed_by})" if needed_by else ""
                sys.exit(f"freeze: {requirement.name}{by} is not installed here. Install .[dev].")
            name = installed.metadata["Name"]
            check_python(name, installed.version, installed.metadata.get("Requires-Python"))
            pins[name] = Version(installed.version).public
            for line in installed.requires or []:
                further = Requirement(line)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append((further, name))
    return pins


def check_python(name: str, version: str, requires: str | None) -> None:
    """End with a sentence where a version does not install on the oldest Python promised."""
    if requires and OLDEST_PYTHON not in SpecifierSet(requires):
        sys.exit(
            f"freeze: {name} {version} needs Python {requires}, but this project promises "
            f"{OLDEST_PYTHON}. Install an older version of it here."
        )


def render(pins: dict[str, str]) -> str:
    """The file's text."""
    lines = [f"{name}=={pins[name]}" for name in sorted(pins, key=canonicalize_name)]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return HEADER.format(python=python) + "\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args()
    text = render(closure(direct_requirements()))
    same = CONSTRAINTS.is_file() and CONSTRAINTS.read_text(encoding="utf-8") == text
    if options.check:
        print("constraints.txt is up to date" if same else "constraints.txt would change")
        return 0 if same else 1
    CONSTRAINTS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
