"""The frame holds: setup, pins, containers, workflow, and tests that must not be skipped."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def yaml_of(name: str) -> Any:
    return yaml.safe_load(text_of(name))


setup_venv = script("setup_venv")

# --- versions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line for line in text_of("constraints.txt").splitlines() if line[:1] not in ("", "#")]
    pairs = dict(line.split("==") for line in lines)
    assert len(pairs) == len(lines), "a package is pinned twice"
    return {canonicalize_name(name): pinned for name, pinned in pairs.items()}


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads(text_of("pyproject.toml"))["project"]


def test_torch_and_qdrant_edge_are_pinned_as_tested(pins: dict[str, str], project: Any) -> None:
    assert pins["torch"] == "2.13.0"
    assert pins["qdrant-edge-py"] == "0.9.0"
    assert "qdrant-edge-py==0.9.0" in project["dependencies"]


def test_pins_are_plain_versions_that_any_index_can_serve(pins: dict[str, str]) -> None:
    for name, pinned in pins.items():
        assert Version(pinned).local is None, f"{name} is pinned to a local version"
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_every_direct_dependency_is_pinned_to_a_version_it_allows(
    pins: dict[str, str], project: Any
) -> None:
    lines = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name != project["name"]:
            assert name in pins, f"{name} is not pinned"
            assert pins[name] in requirement.specifier, f"{requirement} against {pins[name]}"


def test_what_is_installed_here_is_what_is_pinned(pins: dict[str, str]) -> None:
    differing = {}
    for name, pinned in pins.items():
        try:
            installed = Version(version(name)).public
        except PackageNotFoundError:
            continue
        if installed != pinned:
            differing[name] = (installed, pinned)
    assert not differing, "run scripts/freeze.py, or install with -c constraints.txt"


# --- setup ----------------------------------------------------------------------------------

CUDA_BUILD = [
    "filelock",
    "typing-extensions>=4.10.0",
    'nvidia-cudnn-cu13==9.15.1.9; platform_system == "Linux"',
    'triton==3.6.0; platform_system == "Linux"',
]
CPU_BUILD = ["filelock", "jinja2", 'optree>=0.13.0; extra == "optree"']


def test_the_cpu_build_is_chosen_where_the_default_would_bring_cuda() -> None:
    chosen = setup_venv.torch_arguments(
        pin="2.13.0", system="Linux", gpu=False, requirements=CUDA_BUILD, cpu_index="https://cpu"
    )
    assert chosen == ["--extra-index-url", "https://cpu", "torch==2.13.0+cpu"]


@pytest.mark.parametrize(
    ("system", "gpu", "requirements"),
    [
        ("Linux", False, CPU_BUILD),  # the configured index has CPU builds
        ("Linux", True, CUDA_BUILD),
        ("Darwin", False, CUDA_BUILD),
        ("Windows", False, CPU_BUILD),
    ],
)
def test_the_default_build_is_taken_where_it_is_right(
    system: str, gpu: bool, requirements: list[str]
) -> None:
    assert (
        setup_venv.torch_arguments(pin="2.13.0", system=system, gpu=gpu, requirements=requirements)
        == []
    )


@pytest.mark.parametrize(
    ("requirement", "cuda"),
    [
        ("nvidia-cublas==13.1.0.3; platform_system == 'Linux'", True),
        ("cuda-bindings==13.0.3", True),
        ("triton==3.6.0", True),
        ("numpy", False),
        ('triton==3.6.0; extra == "compile"', False),
        ("cudaless-tool", False),
    ],
)
def test_cuda_is_recognised_by_what_a_build_requires(requirement: str, cuda: bool) -> None:
    assert setup_venv.needs_cuda([requirement]) is cuda


def test_pips_report_and_the_pin_are_read() -> None:
    report = {"version": "1", "install": [{"metadata": {"requires_dist": CUDA_BUILD}}]}
    assert setup_venv.requirements_in(json.dumps(report)) == CUDA_BUILD
    assert setup_venv.requirements_in('{"install": [{"metadata": {}}]}') == []
    for unreadable in ("", "[]", '{"install": []}'):
        with pytest.raises(setup_venv.SetupError, match="report cannot be read"):
            setup_venv.requirements_in(unreadable)
    assert setup_venv.pinned(text_of("constraints.txt"), "torch") == "2.13.0"
    with pytest.raises(setup_venv.SetupError, match="no version of nosuch"):
        setup_venv.pinned("torch==1\n", "nosuch")


def test_a_file_where_the_environment_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(setup_venv.SetupError, match="is no virtual environment"):
        setup_venv.make_venv(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.13.0-cp311.whl (191.8 MB)", "torch-2.13.0-cp311.whl (192 MB)"),
        ("Downloading https://host/a/big.whl (1.2 GB)", "big.whl (1,200 MB)"),
        ("Downloading small-1.0.whl (12.5 kB)", None),
        ("Collecting torch", None),
    ],
)
def test_large_downloads_are_named(line: str, shown: str | None) -> None:
    assert setup_venv.large_download(line) == shown


def test_a_failing_pip_is_shown_with_the_end_of_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(setup_venv.SetupError) as caught:
        setup_venv.pip(
            Path(sys.executable),
            ["install", "--no-index", "--find-links", str(tmp_path), "nosuch-package-at-all"],
            doing="installing a test",
        )
    assert "installing a test failed (exit code 1)" in str(caught.value)
    assert "nosuch-package-at-all" in str(caught.value)


def test_an_old_python_is_told_in_a_sentence_before_anything_else() -> None:
    code = (
        "import sys; sys.version_info = (3, 9, 2); "
        f"exec(compile(open({str(ROOT / 'scripts' / 'setup_venv.py')!r}).read(), 's', 'exec'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "this is Python 3.9, but 3.11 or newer is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_environment_is_made_again_and_a_strange_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("home = /a/python/that/is/gone\n")
    assert not setup_venv.works(setup_venv.venv_python(venv))
    setup_venv.make_venv(venv)
    assert setup_venv.works(setup_venv.venv_python(venv))
    assert "made again" in capsys.readouterr().out
    (venv / "kept").touch()
    setup_venv.make_venv(venv)
    assert (venv / "kept").exists(), "a working one is kept"

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(setup_venv.SetupError, match="is no virtual environment"):
        setup_venv.make_venv(mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_python_that_cannot_make_environments_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_venv.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(setup_venv.SetupError, match=r"apt install python3\.\d+-venv"):
        setup_venv.make_venv(tmp_path / "venv")


# --- make -----------------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@needs_make
def test_make_alone_lists_every_target() -> None:
    listed = make().stdout
    for target in ("setup", "demo", "test", "lint", "bench", "serve", "help"):
        assert re.search(rf"^  make {target} +\w", listed, re.MULTILINE), target


@needs_make
@pytest.mark.parametrize(
    ("target", "command", "stamp"),
    [
        ("demo", "/bin/retrieval demo --port 8000", ".stamp-base"),
        ("serve", "/bin/retrieval serve --port 8000", ".stamp-base"),
        ("test", "/bin/python -m pytest --port 8000", ".stamp-dev"),
        ("lint", "/bin/mypy --strict", ".stamp-dev"),
    ],
)
def test_targets_set_up_once_and_then_run(
    tmp_path: Path, target: str, command: str, stamp: str
) -> None:
    arguments = ["-n", target, f"VENV={tmp_path}", "PYTHON=python3", "ARGS=--port 8000"]
    first = make(*arguments).stdout
    assert "python3 scripts/setup_venv.py" in first
    assert ("setup_venv.py" in first and "--dev" in first) == (stamp == ".stamp-dev")
    assert f"{tmp_path}{command}" in first
    (tmp_path / stamp).touch()
    second = make(*arguments).stdout
    assert "setup_venv" not in second
    assert f"{tmp_path}{command}" in second


@needs_make
def test_a_missing_python_is_named(tmp_path: Path) -> None:
    done = make("demo", f"VENV={tmp_path}", "PYTHON=/nowhere/python3.11")
    assert done.returncode != 0
    assert "There is no /nowhere/python3.11 here" in done.stdout


def test_ci_runs_what_the_readme_says_and_refuses_skips() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    subprocess.run(["bash", "-n", run], check=True)
    lines = run.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert "make lint" in lines
    assert "RETRIEVAL_TEST_REQUIRE=$required make test" in lines


# --- workflow -------------------------------------------------------------------------------


def test_the_workflow_runs_lint_tests_and_contracts_on_a_real_qdrant() -> None:
    workflow = yaml_of(".github/workflows/ci.yml")
    jobs = workflow["jobs"]
    assert {"lint", "test", "contracts"} <= set(jobs)
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    contracts = jobs["contracts"]
    image = yaml_of("docker-compose.yml")["services"]["qdrant"]["image"]
    assert contracts["services"]["qdrant"]["image"] == image.removesuffix("-unprivileged")
    assert contracts["env"]["QDRANT_URL"].endswith(":6333")
    assert "qdrant" in contracts["env"]["RETRIEVAL_TEST_REQUIRE"]
    runs = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert any("make lint" in run for run in runs["lint"])
    assert any("make test" in run for run in runs["test"])
    assert any("tests/contracts" in run for run in runs["contracts"])
    for job in jobs.values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_the_licence_is_apache_2() -> None:
    licence = text_of("LICENSE")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.name
)
def test_every_benchmark_takes_quick_and_json(path: Path) -> None:
    options = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    }
    if {"--quick", "--json"} <= options:
        return
    # or they come from a helper that several scripts share
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert "--quick" in done.stdout
    assert "--json" in done.stdout


# --- tests that must not be skipped ---------------------------------------------------------

SKIPPING = """
import pytest

def test_runs():
    pass

def test_library():
    pytest.importorskip("FlagEmbedding_that_is_not_there")

@pytest.mark.browser
def test_page():
    pytest.skip("nothing to see with")

@pytest.fixture
def data():
    pytest.skip("the data folder ../shared/data is absent")

def test_data(data):
    pass

def test_elsewhere():
    pytest.skip("no model hub answers")

@pytest.mark.xfail(reason="openvino is known to differ", strict=True)
def test_expected_to_fail():
    assert False
"""


def run_pytest(folder: Path, required: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "conftest.py", folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = browser: drives a browser\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={**os.environ, "RETRIEVAL_TEST_REQUIRE": required},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("required", "closing"),
    [
        ("", "1 passed, 4 skipped, 1 xfailed"),
        ("flag", "1 failed, 1 passed, 3 skipped, 1 xfailed"),
        (
            "browser, flag,openvino,shared_data,qdrant",
            "2 failed, 1 passed, 1 skipped, 1 xfailed, 1 error",
        ),
    ],
)
def test_a_promised_part_cannot_be_skipped(tmp_path: Path, required: str, closing: str) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    done = run_pytest(tmp_path, required)
    assert closing in done.stdout
    assert done.returncode == (1 if "failed," in closing else 0)


def test_a_module_that_skips_itself_cannot_either(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(
        "import pytest\npytest.skip('QDRANT_URL is not set', allow_module_level=True)\n"
    )
    assert run_pytest(tmp_path, "browser").returncode == 5  # nothing ran
    done = run_pytest(tmp_path, "qdrant")
    assert done.returncode == 2
    assert "promises 'qdrant', but this was skipped" in done.stdout


def test_a_misspelt_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text("def test_runs(): pass\n")
    done = run_pytest(tmp_path, "browsr")
    assert done.returncode == 4
    assert "names 'browsr'; there are: browser" in done.stderr


def test_a_pin_must_install_on_the_oldest_python_promised() -> None:
    freeze = script("freeze")
    freeze.check_python("package", "1", ">=3.9")
    freeze.check_python("package", "1", None)
    with pytest.raises(SystemExit, match=r"package 2 needs Python >=3\.11\.5"):
        freeze.check_python("package", "2", ">=3.11.5")


@pytest.mark.parametrize(
    ("reason", "markers", "part"),
    [
        ("the data folder ../shared/data is absent", set(), "shared_data"),
        ("whatever it says", {"shared_data"}, "shared_data"),
        ("no model hub answers from here", {"hub", "shared_data"}, None),
        ("there is no CUDA device here", {"gpu", "shared_data"}, None),
        ("could not import 'nncf'", set(), "int8"),
    ],
)
def test_a_hub_or_a_gpu_is_nobodys_promise(
    reason: str, markers: set[str], part: str | None
) -> None:
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    assert conftest.promised_part(["int8", "shared_data"], reason, markers) == part
