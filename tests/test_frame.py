"""What surrounds the packages: pins, setup, continuous integration, tests that must not skip."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def load(path: str) -> ModuleType:
    """A file of the repository as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- versions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line for line in text_of("constraints.txt").splitlines() if line[:1] not in ("", "#")]
    pairs = dict(line.split("==") for line in lines)
    assert len(pairs) == len(lines), "a package is pinned twice"
    return {canonicalize_name(name): pinned for name, pinned in pairs.items()}


def test_every_direct_dependency_is_pinned_to_a_version_it_allows(pins: dict[str, str]) -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name != project["name"]:
            assert pins[name] in requirement.specifier, f"{requirement} against {pins[name]}"
    assert f"qdrant-edge-py=={pins['qdrant-edge-py']}" in project["dependencies"]


def test_any_index_can_serve_the_pins(pins: dict[str, str]) -> None:
    assert not [name for name, pinned in pins.items() if Version(pinned).local]
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_installed_versions_are_the_pinned_ones(pins: dict[str, str]) -> None:
    differing = {}
    for name, pinned in pins.items():
        try:
            installed = Version(version(name)).public
        except PackageNotFoundError:
            continue
        if installed != pinned:
            differing[name] = (installed, pinned)
    assert not differing, "run scripts/freeze.py, or install with -c constraints.txt"


def test_a_pin_must_install_on_the_oldest_python_promised() -> None:
    freeze = load("scripts/freeze.py")
    freeze.check_python("package", "1", ">=3.9")
    with pytest.raises(SystemExit, match=r"package 2 needs Python >=3\.11\.5"):
        freeze.check_python("package", "2", ">=3.11.5")


# --- setup ----------------------------------------------------------------------------------

setup_venv = load("scripts/setup_venv.py")
CUDA_BUILD = ["filelock", 'nvidia-cudnn-cu13==9.15.1.9; platform_system == "Linux"']
CPU_BUILD = ["filelock", 'triton==3.6.0; extra == "compile"', "cudaless-tool"]


@pytest.mark.parametrize(
    ("system", "gpu", "requirements", "chosen"),
    [
        ("Linux", False, CUDA_BUILD, ["--extra-index-url", "https://cpu", "torch==2.13.0+cpu"]),
        ("Linux", False, CPU_BUILD, []),  # the configured index has CPU builds
        ("Linux", True, CUDA_BUILD, []),
        ("Darwin", False, CUDA_BUILD, []),
    ],
)
def test_the_cpu_build_of_torch_is_chosen_where_the_default_would_bring_cuda(
    system: str, gpu: bool, requirements: list[str], chosen: list[str]
) -> None:
    arguments = {"system": system, "gpu": gpu, "requirements": requirements}
    assert setup_venv.torch_arguments(pin="2.13.0", cpu_index="https://cpu", **arguments) == chosen


def test_pips_report_and_the_pin_are_read() -> None:
    report = {"version": "1", "install": [{"metadata": {"requires_dist": CUDA_BUILD}}]}
    assert setup_venv.requirements_in(json.dumps(report)) == CUDA_BUILD
    with pytest.raises(setup_venv.SetupError, match="report cannot be read"):
        setup_venv.requirements_in('{"install": []}')
    with pytest.raises(setup_venv.SetupError, match="no version of nosuch"):
        setup_venv.pinned("torch==1\n", "nosuch")
    assert setup_venv.large_download("Downloading https://h/a/big.whl (1.2 GB)") == (
        "big.whl (1,200 MB)"
    )
    assert setup_venv.large_download("Downloading small-1.0.whl (12.5 kB)") is None


def test_an_old_python_is_told_in_a_sentence_before_anything_else() -> None:
    code = (
        "import sys; sys.version_info = (3, 9, 2); "
        f"exec(compile(open({str(ROOT / 'scripts' / 'setup_venv.py')!r}).read(), 's', 'exec'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "this is Python 3.9, but 3.11 or newer is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_an_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(setup_venv.SetupError, match="not a virtual environment"):
            setup_venv.make_venv(place)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


# --- continuous integration -----------------------------------------------------------------


def test_ci_runs_lint_audit_and_tests_and_allows_no_skips() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    subprocess.run(["bash", "-n", run], check=True)
    text = run.read_text(encoding="utf-8")
    for expected in ("set -euo pipefail", "make -j2 lint audit", "RETRIEVAL_TEST_REQUIRE="):
        assert expected in text


def test_the_workflow_tests_on_the_server_that_compose_runs() -> None:
    jobs = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]
    image = yaml.safe_load(text_of("docker-compose.yml"))["services"]["qdrant"]["image"]
    contracts = jobs["contracts"]
    assert contracts["services"]["qdrant"]["image"] == image.removesuffix("-unprivileged")
    assert "qdrant" in contracts["env"]["RETRIEVAL_TEST_REQUIRE"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    used = {step["uses"] for step in steps if "uses" in step}
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)
    commands = " ".join(step.get("run", "") for step in steps)
    for target in ("make lint", "make audit", "make test"):
        assert target in commands


# --- the audit ------------------------------------------------------------------------------

HOLE = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"]}


def report(*holes: dict[str, Any]) -> str:
    bad = {"name": "bad", "version": "1.0", "vulns": list(holes)}
    return json.dumps({"dependencies": [bad, {"name": "ours", "skip_reason": "not found"}]})


def exception(name: str = "CVE-2026-1", until: str = "2999-01-01") -> str:
    return f'[[exception]]\nid = "{name}"\nreason = "not reached"\nuntil = {until}\n'


@pytest.mark.parametrize(
    ("listed", "answer", "said", "code"),
    [
        ("", report(), "1 packages were asked about, 0 problems", 0),
        ("", report(HOLE), "bad 1.0 has PYSEC-2026-1 (fixed in: 2.0)", 1),
        (exception(), report(HOLE), "0 problems", 0),
        (exception("CVE-2026-2"), report(HOLE), "CVE-2026-2 is listed and not found any more", 1),
        (exception(until="2020-01-01"), report(HOLE), "due for a review on 2020-01-01", 1),
        ('[[exception]]\nid = "CVE-2026-1"\n', report(HOLE), "needs a reason and a date", 1),
        ("", "[]", "", 1),
        ("", "no JSON", "NOT DONE", 0),
    ],
)
def test_findings_fail_unless_they_are_listed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    listed: str,
    answer: str,
    said: str,
    code: int,
) -> None:
    audit = load("scripts/audit.py")
    audit.EXCEPTIONS = tmp_path / "exceptions.toml"  # type: ignore[attr-defined]
    audit.EXCEPTIONS.write_text(listed)
    done = SimpleNamespace(stdout=answer, stderr="ConnectionError: no route", returncode=1)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.main([]) == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    if said == "NOT DONE":
        assert audit.main(["--require"]) == 1


def test_the_projects_own_exceptions_can_be_read() -> None:
    listed = load("scripts/audit.py").exceptions(text_of("audit-exceptions.toml"))
    assert all(until > date(2026, 1, 1) for until in listed.values())


# --- tests that must not be skipped ---------------------------------------------------------

root_conftest = load("conftest.py")


@pytest.mark.parametrize(
    ("reason", "markers", "part"),
    [
        ("the data folder ../shared/data is absent", set(), "shared_data"),
        ("whatever it says", {"shared_data"}, "shared_data"),
        ("no model hub answers from here", {"hub", "shared_data"}, None),
        ("there is no CUDA device here", {"gpu", "shared_data"}, None),
        ("could not import 'nncf'", set(), "int8"),
        ("could not import 'ray'", set(), None),
    ],
)
@pytest.mark.parametrize("phase", ["call", "collect"])
def test_a_promised_part_cannot_be_skipped(
    monkeypatch: pytest.MonkeyPatch, phase: str, reason: str, markers: set[str], part: str | None
) -> None:
    monkeypatch.setenv("RETRIEVAL_TEST_REQUIRE", "int8, shared_data")
    skip = ("test_x.py", 1, f"Skipped: {reason}")
    made: pytest.TestReport | pytest.CollectReport
    if phase == "call":
        place = ("test_x.py", 1, "test_x")
        made = pytest.TestReport("test_x", place, {}, "skipped", skip, when="call")
    else:
        made = pytest.CollectReport("test_x.py", "skipped", skip, [])
    root_conftest._refuse_skip(made, markers)
    assert made.outcome == ("failed" if part else "skipped")
    if part:
        assert made.longrepr == (
            f"RETRIEVAL_TEST_REQUIRE promises {part!r}, but this was skipped: Skipped: {reason}"
        )


def test_an_expected_failure_is_not_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_TEST_REQUIRE", "openvino")
    place = ("test_x.py", 1, "test_x")
    made = pytest.TestReport("test_x", place, {}, "skipped", "openvino is not installed", "call")
    made.wasxfail = "known to differ"
    root_conftest._refuse_skip(made, set())
    assert made.outcome == "skipped"


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="names 'browsr'; there are: browser"):
        root_conftest.required_parts("flag,browsr")
