"""Make `.venv` with everything in it, from a Python that has nothing but its standard library.

    python3 scripts/setup_venv.py          what `make demo` needs
    python3 scripts/setup_venv.py --dev    what `make test` and `make lint` need, too

On a Linux machine without an NVIDIA GPU the CPU build of torch is installed: the default one there
comes with gigabytes of CUDA libraries, and is taken only where the CPU build cannot be fetched. Run
again, it changes what differs from constraints.txt. The starter models' weights are fetched, too.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - to say so in a sentence, not in a SyntaxError
    sys.exit(
        "setup: this is Python %d.%d, but 3.11 or newer is needed. Install one (Debian, Ubuntu: "  # noqa: UP031
        "apt install python3 python3-venv) and name it: make PYTHON=python3.12 demo"
        % sys.version_info[:2]
    )

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SHOWN_MEGABYTES = 5.0
TAIL_LINES = 25

CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton)\b", re.IGNORECASE)
DOWNLOADING = re.compile(r"Downloading (?:\S*/)?(\S+?)(?:\.metadata)? \(([\d.]+) ([kMG]?)B\)")


class SetupError(Exception):
    """What went wrong and what to do, as sentences."""


def needs_cuda(requirements: Iterable[str]) -> bool:
    """Whether a torch build's requirements (`Requires-Dist`) bring CUDA libraries."""
    return any(
        CUDA_PACKAGE.match(requirement) and "extra ==" not in requirement
        for requirement in requirements
    )


def torch_arguments(
    *, pin: str, system: str, gpu: bool, requirements: Iterable[str], cpu_index: str = CPU_INDEX
) -> list[str]:
    """Arguments for pip that get the CPU build of torch, or none where the default is right.

    Args:
        pin: the version in constraints.txt.
        system: `platform.system()`.
        gpu: whether there is an NVIDIA GPU.
        requirements: of the build that pip's configured indexes offer.
        cpu_index: where the CPU builds are.
    """
    if system != "Linux" or gpu or not needs_cuda(requirements):
        return []
    return ["--extra-index-url", cpu_index, f"torch=={pin}+cpu"]


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver shows in any of its usual places."""
    return shutil.which("nvidia-smi") is not None or any(
        Path(path).exists() for path in ("/dev/nvidia0", "/proc/driver/nvidia")
    )


def pinned(constraints: str, package: str) -> str:
    """The version that a constraints file pins a package to."""
    for line in constraints.splitlines():
        name, sign, version = line.partition("==")
        if sign and name.strip() == package:
            return version.split(";")[0].strip()
    raise SetupError(f"constraints.txt pins no version of {package}. Add a line {package}==….")


def requirements_in(report: str) -> list[str]:
    """Requirements of the one package in the JSON that `pip install --report -` prints."""
    try:
        return list(json.loads(report)["install"][0]["metadata"].get("requires_dist", []))
    except (ValueError, LookupError, TypeError) as error:
        raise SetupError(f"pip's report cannot be read ({error}): {report[:200]!r}.") from error


def large_download(line: str) -> str | None:
    """`torch-2.13.0-….whl (190.2 MB)` where a line of pip's says that, and it is large."""
    match = DOWNLOADING.search(line)
    if match is None:
        return None
    name, size, unit = match[1], float(match[2]), match[3]
    megabytes = size * {"": 1e-6, "k": 1e-3, "M": 1.0, "G": 1e3}[unit]
    return f"{name} ({megabytes:,.0f} MB)" if megabytes >= SHOWN_MEGABYTES else None


def say(text: str) -> None:
    """A line on standard output, at once."""
    print(f"setup: {text}", flush=True)


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    windows = os.name == "nt"
    return venv / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")


def works(python: Path) -> bool:
    """Whether the environment's Python runs, is new enough and has pip."""
    code = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def make_venv(venv: Path) -> None:
    """Create the environment; one that does not work is replaced."""
    if works(venv_python(venv)):
        return
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"this Python ({sys.executable}) cannot make virtual environments: its venv module is "
            f"not complete. On Debian and Ubuntu: apt install python{version}-venv (or "
            "python3-venv); elsewhere install Python with ensurepip."
        )
    if venv.exists():
        empty = venv.is_dir() and not any(venv.iterdir())
        if not (venv / "pyvenv.cfg").is_file() and not empty:
            raise SetupError(f"{venv} exists, but is not a virtual environment. Move it away.")
        say(f"{venv.name} does not work any more and is made again.")
    else:
        say(f"making {venv.name} with Python {platform.python_version()} …")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SetupError(
            f"{venv} could not be made. Python said:\n{(done.stdout + done.stderr).strip()}"
        )


def pip(python: Path, arguments: Sequence[str], *, doing: str) -> None:
    """Run pip, name large downloads while they run, and show the end of its words if it fails."""
    command = [str(python), "-m", "pip", *arguments]
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=pip_environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            large = large_download(line)
            if large is not None:
                say(f"  downloading {large} …")
    if process.returncode != 0:
        raise SetupError(
            f"{doing} failed (exit code {process.returncode}).\n"
            f"The command was: {' '.join(command)}\nThe end of what pip said:\n"
            + "\n".join(f"  {line}" for line in tail)
            + "\nCorrect what it names (often: no network, or a full disk) and run the same again."
        )


def pip_reason(said: str) -> str:
    """What pip said first of an error or a warning, or nothing."""
    lines = (line.strip() for line in said.splitlines())
    reason = next((line for line in lines if line.startswith(("WARNING:", "ERROR:"))), None)
    return "" if reason is None else f"pip said: {reason}"


def pip_environment() -> dict[str, str]:
    """The environment for pip: never a question, never a notice of a newer pip."""
    return {
        **os.environ,
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_USER": "0",
    }


def installed_torch(python: Path) -> str | None:
    """The version of torch in the environment, without its local part, or None."""
    code = "from importlib.metadata import version; print(version('torch'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip().partition("+")[0] if done.returncode == 0 else None


def offered_torch_requirements(python: Path, pin: str) -> list[str]:
    """What the build of torch needs that pip would install here; only metadata is fetched."""
    what = ["--dry-run", "--no-deps", "--ignore-installed", "--report", "-", "--quiet"]
    done = subprocess.run(
        [str(python), "-m", "pip", "install", *what, f"torch=={pin}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=pip_environment(),
    )
    if done.returncode != 0:
        raise SetupError(
            f"pip found no torch {pin} for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}. It said:\n{done.stderr.strip()}\n"
            "Check the network; Python 3.11, 3.12 and 3.13 are tested."
        )
    return requirements_in(done.stdout)


def install_torch(python: Path, constraints: Path, cpu_index: str) -> None:
    """Install torch first where its default build would be the wrong one."""
    pin = pinned(constraints.read_text(encoding="utf-8"), "torch")
    if platform.system() != "Linux" or installed_torch(python) == pin:
        return
    if has_nvidia_gpu():
        say("there is an NVIDIA GPU: torch's default build, with CUDA, is installed.")
        return
    requirements = offered_torch_requirements(python, pin)
    arguments = torch_arguments(
        pin=pin, system="Linux", gpu=False, requirements=requirements, cpu_index=cpu_index
    )
    if not arguments:
        say(f"no NVIDIA GPU, and the torch {pin} that pip offers is a CPU build: good.")
        return
    say(f"no NVIDIA GPU: the CPU build of torch {pin} is installed from {cpu_index} …")
    install = ["install", "-c", str(constraints)]
    doing = f"installing the CPU build of torch from {cpu_index}"
    try:
        pip(python, [*install, "--retries", "2", *arguments], doing=doing)
    except SetupError as error:
        if "No space left" in str(error):
            raise  # the default build is larger still
        say(f"it cannot be had from there. {pip_reason(str(error))}")
        say(
            f"NOTICE: the default build of torch {pin} is installed instead. It works without a "
            "GPU, but brings CUDA's libraries: gigabytes to download instead of some 200 MB. "
            "If you have a mirror of the CPU builds, stop (Ctrl-C) and set TORCH_CPU_INDEX to it."
        )
        pip(python, [*install, f"torch=={pin}"], doing="installing the default build of torch")


def set_up(venv: Path, *, dev: bool, cpu_index: str) -> None:
    """All steps; the stamps that make looks at are written last."""
    started = time.monotonic()
    constraints = ROOT / "constraints.txt"
    make_venv(venv)
    python = venv_python(venv)
    say("bringing pip up to date …")
    pip(python, ["install", "--upgrade", "pip"], doing="bringing pip up to date")
    install_torch(python, constraints, cpu_index)
    target = f"{ROOT}[dev]" if dev else str(ROOT)
    what = "two-stage-retrieval with the tools for tests" if dev else "two-stage-retrieval"
    say(f"installing {what} and what it needs; the first time takes some minutes …")
    pip(python, ["install", "-c", str(constraints), "-e", target], doing=f"installing {what}")
    fetch_weights(python)
    (venv / ".stamp-base").touch()
    if dev:
        (venv / ".stamp-dev").touch()
    say(f"done in {time.monotonic() - started:.0f} s.")


def fetch_weights(python: Path) -> None:
    """Fetch the weights of `starter`, which all first steps take. Without them setup is done, too.

    A model hub or a folder may be what is used here; whoever needs `starter` then reads why not.
    """
    say("fetching the weights of the starter models (73 MB, the first time) …")
    done = subprocess.run(
        [str(python), "-m", "retrieval.cli", "models", "get", "starter"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=pip_environment(),
    )
    for line in done.stdout.splitlines():
        say(f"  {line}")
    if done.returncode != 0:
        say(f"NOTICE: they were not fetched, and will be asked for again. {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and linters need")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv")
    parser.add_argument(
        "--cpu-index",
        default=os.environ.get("TORCH_CPU_INDEX", CPU_INDEX),
        help="package index with the CPU builds of torch (or $TORCH_CPU_INDEX)",
    )
    options = parser.parse_args(arguments)
    try:
        set_up(options.venv.absolute(), dev=options.dev, cpu_index=options.cpu_index)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run the same again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
