"""Ask whether what is installed has known vulnerabilities; a finding fails, unless it is listed.

    python scripts/audit.py            packages of this environment, as PyPI's advisories know them
    python scripts/audit.py --require  also fail where the advisories cannot be reached

`audit-exceptions.toml` lists findings that are known and do not matter here, each with its reason
and a date on which to look again; a listed one that is not found any more, or whose date is over,
fails as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXCEPTIONS = ROOT / "audit-exceptions.toml"
SECONDS = 600


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 nothing found, or nothing could be asked; 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--require",
        action="store_true",
        help="fail if the service with the advisories cannot be reached",
    )
    required = parser.parse_args(arguments).require
    try:
        listed = exceptions(EXCEPTIONS.read_text(encoding="utf-8"))
        report, said = ask()
    except ValueError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 1
    if report is None:
        print(
            "audit: NOT DONE. The service with the advisories could not be reached, so nothing is "
            f"known about vulnerabilities of what is installed.\n{said}",
            file=sys.stderr,
        )
        return 1 if required else 0
    problems = judge(report, listed, date.today())
    for line in problems:
        print(f"audit: {line}", file=sys.stderr)
    unknown = [one["name"] for one in report["dependencies"] if "vulns" not in one]
    asked = len(report["dependencies"]) - len(unknown)
    print(f"audit: {asked} packages were asked about, {len(problems)} problems")
    if unknown:
        print(f"audit: nothing is known about {', '.join(unknown)}")
    return 1 if problems else 0


def exceptions(text: str) -> dict[str, date]:
    """Ids that are listed, and until when; ValueError where one has no reason or date."""
    found: dict[str, date] = {}
    for one in tomllib.loads(text).get("exception", []):
        if not str(one.get("reason", "")).strip() or not isinstance(one.get("until"), date):
            raise ValueError(f"{one.get('id')} in {EXCEPTIONS.name} needs a reason and a date")
        found[str(one["id"])] = one["until"]
    return found


def ask() -> tuple[dict[str, Any] | None, str]:
    """The report of pip-audit; None, with the end of what it said, where it got no answer."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {SECONDS} seconds"
    try:
        report: Any = json.loads(done.stdout)
    except ValueError:
        return None, "\n".join(done.stderr.strip().splitlines()[-3:])
    if not isinstance(report, dict) or "dependencies" not in report:
        raise ValueError("pip-audit's report has a form that is not known here")
    # A mirror without advisories answers "no such package" to everything.
    if not any("vulns" in one for one in report["dependencies"]):
        return None, "it knows none of the packages that are installed"
    return report, ""


def judge(report: dict[str, Any], listed: dict[str, date], today: date) -> list[str]:
    """What is wrong, as sentences."""
    problems: list[str] = []
    seen: set[str] = set()
    for one in report["dependencies"]:
        for hole in one.get("vulns", []):
            names = {hole["id"], *hole.get("aliases", [])}
            known = names & listed.keys()
            seen |= known
            if not known:
                mended = ", ".join(hole.get("fix_versions", [])) or "no version yet"
                problems.append(
                    f"{one['name']} {one['version']} has {hole['id']} (fixed in: {mended})"
                )
    for name, until in listed.items():
        if name not in seen:
            problems.append(f"{name} is listed and not found any more; take it off the list")
        elif until < today:
            problems.append(f"{name} was due for a review on {until}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
