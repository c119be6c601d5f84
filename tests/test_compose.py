"""Containers: what is promised of every service in docker-compose.yml and of both images.

Docker is not needed: what the containers run (shell and Python) is run here, the rest is read
from the files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from typer.testing import CliRunner

from app.commands.keys import app as keys_commands
from app.settings.report import OTHER_VARIABLES
from app.settings.settings import PREFIX, Settings
from retrieval.index.server.addresses import addresses

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
QDRANTS = [name for name in SERVICES if name.startswith("qdrant")]
APPS = [name for name, service in SERVICES.items() if "build" in service and name != "key"]
IMAGES = ("Dockerfile", "Dockerfile.cuda")

every_service = pytest.mark.parametrize("name", sorted(SERVICES))
every_image = pytest.mark.parametrize("image", IMAGES)


def mounts(name: str) -> dict[str, str]:
    """Volume → where it is mounted, of one service."""
    return dict(volume.split(":", 1) for volume in SERVICES[name].get("volumes", []))


@every_service
def test_each_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged"} & set(service)
    assert all(int(number) > 0 for number in service["user"].split(":")), "root"
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), "other machines reach it"
    assert ("healthcheck" in service) == (name != "key"), "the key's container ends"


@every_service
def test_no_two_services_write_to_one_volume(name: str) -> None:
    for volume, place in mounts(name).items():
        users = [other for other in SERVICES if volume in mounts(other)]
        if volume == "key":
            assert place == ("/key" if name == "key" else "/run/key:ro"), "one writer"
        else:
            assert (users, volume in COMPOSE["volumes"]) == ([name], True)


@pytest.mark.parametrize("profile", [None, "embedded", "gpu", "cluster", "serve"])
def test_a_profile_starts_all_that_its_services_wait_for(profile: str | None) -> None:
    enabled = {
        name
        for name, service in SERVICES.items()
        if "profiles" not in service or profile in service["profiles"]
    }
    assert all(set(SERVICES[name].get("depends_on", {})) <= enabled for name in enabled)
    ports = [port.split(":")[1] for name in enabled for port in SERVICES[name].get("ports", [])]
    assert len(ports) == len(set(ports)), "two services want one port"


@pytest.mark.parametrize("name", APPS)
def test_an_app_has_settings_it_knows_and_keys_where_it_is_public(name: str) -> None:
    app = SERVICES[name]
    environment = app.get("environment", {})
    given = {key for key in environment if key.startswith(PREFIX)}
    assert given <= {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert ("--public" in app["command"]) != ("RETRIEVAL_KEYS_FILE" in environment)
    assert float(app["stop_grace_period"].removesuffix("s")) >= Settings().grace_s + 5
    [port] = app["ports"]
    _, published, inside = port.split(":")
    assert int(inside) == Settings().port
    # What is printed must open outside of the container, where only this port is known.
    assert environment["RETRIEVAL_PUBLIC_URL"] == f"http://localhost:{published}"


@pytest.mark.parametrize("name", QDRANTS)
def test_each_server_is_pinned_fits_the_client_and_reports_to_nobody(name: str) -> None:
    [server] = re.findall(r"^qdrant/qdrant:v(.+)-unprivileged$", SERVICES[name]["image"])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    [client] = re.findall(r"^qdrant-client==(\S+)$", constraints, re.MULTILINE)
    assert Version(server).major == Version(client).major
    assert abs(Version(server).minor - Version(client).minor) <= 1, "the client warns of more"
    assert SERVICES[name]["environment"]["QDRANT__TELEMETRY_DISABLED"] == "true"


def test_the_cluster_is_asked_through_each_of_its_nodes() -> None:
    nodes = [name for name in QDRANTS if "cluster" in SERVICES[name].get("profiles", [])]
    store = SERVICES["cluster"]["environment"]["RETRIEVAL_STORE"]
    assert addresses(store) == tuple(f"http://{node}:6333" for node in nodes)
    assert len(nodes) == 3
    assert set(nodes) < set(SERVICES["cluster"]["depends_on"])


# --- the key: what the containers run ---------------------------------------------------------


def run(
    name: str, folder: Path, *, files: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A service's entrypoint, the keys' folder replaced, before programs that print their input.

    files: the engine's hard limit of open files, where it is to be lower than this machine's.
    """
    shown = (
        '#!/bin/sh\necho "key=$RETRIEVAL_API_KEY$QDRANT__SERVICE__API_KEY"\nprintf "<%s>" "$@"\n'
        'printf "\\nfiles=%s" "$(ulimit -n)"\n'
    )
    for program in ("retrieval", "entrypoint.sh"):
        (folder / program).write_text(shown)
        (folder / program).chmod(0o755)
    service = SERVICES[name]
    command = [*service["entrypoint"], *service.get("command", [])]
    if files is not None:
        limited = f'ulimit -Sn 256 && ulimit -Hn {files} && exec "$@"'
        command = ["bash", "-c", limited, "bash", *command]
    return subprocess.run(
        [
            part.replace("$$", "$")
            .replace("/run/key", str(folder))
            .replace("python", sys.executable)
            for part in command
        ],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "name", [name for name in SERVICES if "key" in mounts(name) and name != "key"]
)
def test_a_key_is_handed_over_in_the_environment_and_nothing_starts_without_it(
    name: str, tmp_path: Path
) -> None:
    assert run(name, tmp_path).returncode != 0
    (tmp_path / "api-key").write_text("a secret of some length")
    started = run(name, tmp_path)
    assert started.stdout.startswith("key=a secret of some length\n")
    assert started.stdout.count("secret") == 1, "a key in argv is seen by every user"


@pytest.mark.parametrize("name", QDRANTS)
@pytest.mark.parametrize("hard", [4096, 12_000])
def test_a_server_starts_with_as_many_files_as_the_engine_allows(
    name: str, hard: int, tmp_path: Path
) -> None:
    assert "ulimits" not in SERVICES[name], "an engine with a lower limit refuses the container"
    (tmp_path / "api-key").write_text("a secret of some length")
    started = run(name, tmp_path, files=hard)
    assert started.stdout.endswith(f"\nfiles={hard}"), started.stderr
    assert ("Only 4096 files may be open at once here" in started.stdout) == (hard == 4096)


def test_the_service_without_keys_says_the_line_that_makes_one(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("a secret of some length")
    keys = tmp_path / "keys.json"
    without = run("serve", tmp_path, RETRIEVAL_KEYS_FILE=str(keys))
    assert (without.returncode, without.stdout) == (1, "")
    [line] = re.findall(r"^ +docker compose run --rm (\S+ .*)$", without.stderr, re.MULTILINE)
    # The line runs: a service of the file, and arguments that its program takes.
    name, *arguments = line.split()
    file = f"{mounts(name)['serve']}/keys.json"
    assert SERVICES[name]["environment"]["RETRIEVAL_KEYS_FILE"] == file, "where `serve` looks"
    assert arguments.pop(0) == "keys"
    made = CliRunner().invoke(keys_commands, [*arguments, "--keys-file", str(keys)])
    assert made.exit_code == 0, made.output
    assert line in (ROOT / "docker-compose.yml").read_text().split("\nname:")[0]
    assert run("serve", tmp_path, RETRIEVAL_KEYS_FILE=str(keys)).stdout.startswith("key=a secret")


def test_a_random_key_is_made_once_and_one_of_ones_own_goes_before_it(tmp_path: Path) -> None:
    def make(own: str = "") -> tuple[str, subprocess.CompletedProcess[str]]:
        own_key = {"QDRANT__SERVICE__API_KEY": own} if own else {}
        done = run("key", tmp_path, KEY_FILE=str(tmp_path / "api-key"), **own_key)
        return (tmp_path / "api-key").read_text(), done

    first, _ = make()
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    again, done = make()
    assert again == first
    assert first not in done.stdout + done.stderr
    short, done = make("1234")
    assert (short, done.returncode) == (first, 1)
    assert "shorter than 16 characters" in done.stderr
    assert make("0123456789abcdef0123")[0] == "0123456789abcdef0123"
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o444, "servers are other users"


def test_the_key_comes_from_a_file_that_is_never_committed() -> None:
    assert SERVICES["key"]["env_file"] == [{"path": "qdrant.env", "required": False}]
    assert SERVICES["key"]["network_mode"] == "none"
    assert "qdrant.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    example = (ROOT / "qdrant.env.example").read_text(encoding="utf-8")
    assert re.search(r"^QDRANT__SERVICE__API_KEY=$", example, re.MULTILINE), "nobody's key"


# --- images ---------------------------------------------------------------------------------


def dockerfile(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@every_image
def test_an_image_runs_without_root_and_holds_no_secrets(image: str) -> None:
    text = dockerfile(image)
    [(user, group)] = re.findall(r"useradd --uid (\d+) --gid (\d+)", text)
    last = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    assert re.search(r"^USER retrieval\n(?!.*^(RUN|COPY) )", last, re.MULTILINE | re.DOTALL)
    for name in [*APPS, "key"]:
        assert SERVICES[name]["user"] == f"{user}:{group}"
    assert not re.search(r"^(ENV|ARG) .*(KEY|TOKEN|SECRET|PASSWORD)\w*=\S", text, re.MULTILINE)
    settings = re.findall(rf"\b{PREFIX}(\w+)=", text)
    assert {one.lower() for one in settings} <= {*Settings.model_fields, *OTHER_VARIABLES}
    [check] = re.findall(r"^ +CMD (\[.*/readyz.*\])$", text, re.MULTILINE)
    compile(json.loads(check)[2], "healthcheck", "exec")
    assert not re.search(r"^FROM \S+:latest", text, re.MULTILINE)


WHEELS = "--retries 2 --extra-index-url https://download.pytorch.org/whl"


@pytest.mark.parametrize(
    ("torch", "reachable", "asked", "code"),
    [
        ("cu126", True, [f"{WHEELS}/cu126 torch==2.13.0+cu126"], 0),
        ("cu126", False, [f"{WHEELS}/cu126 torch==2.13.0+cu126"], 1),
        ("cpu", True, [f"{WHEELS}/cpu torch==2.13.0+cpu"], 0),
        ("cpu", False, [f"{WHEELS}/cpu torch==2.13.0+cpu", "torch==2.13.0"], 0),
        ("default", True, ["torch==2.13.0"], 0),
    ],
)
def test_the_image_has_the_torch_that_is_asked_for_or_the_default_for_a_cpu(
    tmp_path: Path, torch: str, reachable: bool, asked: list[str], code: int
) -> None:
    """The Dockerfile's own shell, with a pip that prints what it was asked for."""
    [command] = re.findall(r"^RUN (torch=.*?[^\\])$", dockerfile("Dockerfile"), re.M | re.DOTALL)
    fails = "" if reachable else 'case "$*" in *pytorch.org*) exit 1;; esac\n'
    (tmp_path / "pip").write_text(f'#!/bin/sh\necho "$@"\n{fails}')
    (tmp_path / "pip").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH": torch}
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"install -c constraints.txt {one}" for one in asked]
    assert done.returncode == code
    assert ("NOTICE: the CPU build of torch" in done.stderr) == (len(asked) == 2)


@every_image
def test_all_that_the_image_copies_is_sent_to_the_builder(image: str) -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(image), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert {name for line in copied for name in line.split()} == sent


def test_the_documentation_has_the_owner_of_every_volume() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \| (`/.+?`).* \| (\d+:\d+) \|$", text, re.MULTILINE)
    documented = {
        (volume, place.strip("`"), owner)
        for volumes, place, owner in rows
        for volume in re.findall(r"`([\w-]+)`", volumes)
    }
    mounted = {
        (volume, place, service["user"])
        for name, service in SERVICES.items()
        for volume, place in mounts(name).items()
        if not place.endswith(":ro")
    }
    assert documented == mounted
    assert {volume for volume, _, _ in documented} == set(COMPOSE["volumes"])
