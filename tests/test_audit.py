"""scripts/audit.py: what fails, what does not, and what is said; pip-audit's answer is given."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from datetime import date
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def audit(tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_script", ROOT / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.EXCEPTIONS = tmp_path / "exceptions.toml"  # type: ignore[attr-defined]
    module.EXCEPTIONS.write_text("")
    return module


def answering(audit: ModuleType, patch: pytest.MonkeyPatch, stdout: str, stderr: str = "") -> None:
    def run(*_: object, **__: object) -> Any:
        return SimpleNamespace(stdout=stdout, stderr=stderr, returncode=1)

    patch.setattr(audit.subprocess, "run", run)


HOLE = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"]}


def report(*holes: dict[str, Any]) -> str:
    return json.dumps(
        {
            "dependencies": [
                {"name": "good", "version": "1.0", "vulns": []},
                {"name": "bad", "version": "1.0", "vulns": list(holes)},
                {"name": "ours", "skip_reason": "not found"},
            ]
        }
    )


def exception(name: str = "CVE-2026-1", until: str = "2999-01-01") -> str:
    return f'[[exception]]\nid = "{name}"\nreason = "not reached"\nuntil = {until}\n'


@pytest.mark.parametrize(
    ("listed", "holes", "told", "code"),
    [
        ("", (), "2 packages were asked about, 0 problems", 0),
        ("", (HOLE,), "bad 1.0 has PYSEC-2026-1 (mended in: 2.0)", 1),
        (exception(), (HOLE,), "0 problems", 0),
        (exception("PYSEC-2026-1"), (HOLE,), "0 problems", 0),
        (exception("CVE-2026-2"), (HOLE,), "CVE-2026-2 is listed and not found any more", 1),
        (exception(until="2020-01-01"), (HOLE,), "to be looked at again on 2020-01-01", 1),
        ('[[exception]]\nid = "CVE-2026-1"\n', (HOLE,), "needs a reason and a date", 1),
    ],
)
def test_findings_fail_unless_they_are_listed(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    listed: str,
    holes: tuple[dict[str, Any], ...],
    told: str,
    code: int,
) -> None:
    audit.EXCEPTIONS.write_text(listed)
    answering(audit, monkeypatch, report(*holes))
    assert audit.main([]) == code
    said = capsys.readouterr()
    assert told in said.out + said.err


@pytest.mark.parametrize(
    "answer",
    ["", "no JSON", json.dumps({"dependencies": [{"name": "a", "skip_reason": "not on PyPI"}]})],
)
def test_no_answer_is_said_and_is_no_all_clear(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
) -> None:
    """A mirror without advisories says of every package that it does not know it."""
    answering(audit, monkeypatch, answer, "ConnectionError: no route")
    assert audit.main([]) == 0
    said = capsys.readouterr()
    assert "NOT DONE" in said.err
    assert "0 problems" not in said.out
    assert audit.main(["--require"]) == 1


def test_no_answer_in_time(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("pip-audit", 1)

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main([]) == 0
    assert audit.main(["--require"]) == 1


def test_an_unknown_report_is_no_all_clear(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(audit, monkeypatch, "[]")
    assert audit.main([]) == 1


def test_the_projects_own_list_can_be_read(audit: ModuleType) -> None:
    listed = audit.exceptions((ROOT / "audit-exceptions.toml").read_text(encoding="utf-8"))
    assert all(until > date(2026, 1, 1) for until in listed.values())


def test_ci_asks() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "make audit" in workflow
    assert "make audit" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "scripts/audit.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
