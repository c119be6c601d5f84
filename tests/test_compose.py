"""docker-compose.yml and the Dockerfile: what is promised of every service and every profile.

There is no Docker here. What the containers run (shell and Python) is run for real, with the
image's own parts stood in for; the rest is checked in the parsed YAML, service by service.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from app.settings.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APPS = {"app": None, "embedded": "embedded", "gpu": "gpu", "cluster": "cluster", "serve": "serve"}
NODES = {"qdrant-1", "qdrant-2", "qdrant-3"}
QDRANTS = {"qdrant", *NODES}
# Set for the app in the cluster, and read by `Settings`.
STORAGE_SETTINGS = {
    "RETRIEVAL_SHARDS": "6",
    "RETRIEVAL_REPLICAS": "2",
    "RETRIEVAL_WRITE_CONSISTENCY": "2",
}

every_service = pytest.mark.parametrize("name", sorted(SERVICES))
every_qdrant = pytest.mark.parametrize("name", sorted(QDRANTS))
every_profile = pytest.mark.parametrize("profile", [None, "embedded", "gpu", "cluster", "serve"])


def enabled(profile: str | None) -> set[str]:
    """What `docker compose --profile PROFILE up` starts."""
    return {
        name
        for name, service in SERVICES.items()
        if "profiles" not in service or profile in service["profiles"]
    }


def started_by_name(name: str) -> set[str]:
    """What `docker compose up NAME` starts: the service and all that it waits for."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += SERVICES[one].get("depends_on", {})
    return found


def text_of(command: list[str], folder: Path) -> list[str]:
    """A command as Compose hands it over ($$ is $), with the keys' folder replaced."""
    return [part.replace("$$", "$").replace("/run/key", str(folder)) for part in command]


def mounts(name: str) -> dict[str, str]:
    """Volume → where it is mounted, of one service."""
    pairs = [volume.split(":") for volume in SERVICES[name].get("volumes", [])]
    return {pair[0]: ":".join(pair[1:]) for pair in pairs}


# --- every service --------------------------------------------------------------------------


@every_service
def test_each_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert "privileged" not in service
    assert service.get("network_mode") in (None, "none")


@every_service
def test_each_service_runs_as_somebody_who_is_not_root(name: str) -> None:
    user, group = SERVICES[name]["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0


@every_service
def test_each_service_starts_again_after_a_failure(name: str) -> None:
    assert SERVICES[name]["restart"] == ("on-failure:3" if name == "key" else "unless-stopped")


@every_service
def test_nothing_listens_where_other_machines_reach_it(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@every_service
def test_volumes_are_declared_and_what_is_shared_is_the_key_alone(name: str) -> None:
    for volume, place in mounts(name).items():
        assert volume in COMPOSE["volumes"]
        users = [other for other in SERVICES if volume in mounts(other)]
        if volume == "key":
            assert place == ("/key" if name == "key" else "/run/key:ro"), "one writer"
        else:
            assert users == [name], "two services would write to it"


def test_no_declared_volume_is_left_over() -> None:
    assert set(COMPOSE["volumes"]) == {volume for name in SERVICES for volume in mounts(name)}


@every_service
def test_each_long_lived_service_has_a_health_check(name: str) -> None:
    if name == "key":
        assert "healthcheck" not in SERVICES[name], "it ends"
        return
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


# --- profiles -------------------------------------------------------------------------------


def test_one_command_without_a_profile_starts_the_app_and_one_server() -> None:
    assert enabled(None) == {"app", "qdrant", "key"}
    header = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").split("name:")[0]
    assert "docker compose up --build  " in header
    assert "http://127.0.0.1:7860" in header


@every_profile
def test_what_a_service_waits_for_is_started_with_it(profile: str | None) -> None:
    for name in enabled(profile):
        assert set(SERVICES[name].get("depends_on", {})) <= enabled(profile)


@pytest.mark.parametrize("name", [name for name in APPS if APPS[name]])
def test_an_app_started_by_name_brings_what_it_needs_and_no_other_app(name: str) -> None:
    own = SERVICES[name]["profiles"]
    started = started_by_name(name)
    # Compose enables the profiles of the service that is named, and no other.
    assert all(SERVICES[other].get("profiles", own) == own for other in started)
    assert started & set(APPS) == {name}
    wanted: dict[str, set[str]] = {
        "embedded": set(),
        "gpu": {"qdrant", "key"},
        "serve": {"qdrant", "key"},
    }
    assert started - {name} == wanted.get(name, {"key", *NODES})


@every_profile
def test_no_two_services_of_a_profile_want_the_same_port(profile: str | None) -> None:
    taken = [
        port.rsplit(":", 1)[0]
        for name in enabled(profile)
        for port in SERVICES[name].get("ports", [])
    ]
    assert len(taken) == len(set(taken))


@pytest.mark.parametrize("name", sorted(APPS))
def test_the_header_tells_each_apps_port(name: str) -> None:
    header = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").split("name:")[0]
    [port] = SERVICES[name]["ports"]
    shown = port.split(":")[1]
    pattern = rf"up --build\s.*{shown}" if name == "app" else rf"up --build {name} .*port {shown}"
    assert re.search(pattern, header)


# --- the apps -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(APPS))
def test_each_app_is_built_here_and_serves(name: str) -> None:
    app = SERVICES[name]
    build = app["build"]
    assert (build if isinstance(build, str) else build["context"]) == "."
    assert "0.0.0.0" in app["command"]
    assert ("--public" in app["command"]) != ("RETRIEVAL_KEYS_FILE" in app.get("environment", {}))
    assert "/readyz" in app["healthcheck"]["test"][-1]
    grace = Settings().grace_s + 5
    assert float(app["stop_grace_period"].removesuffix("s")) >= grace, "killed while it answers"
    assert app["ports"][0].endswith(f":{Settings().port}")
    assert "/data" in mounts(name).values(), "models are kept"
    builds = {repr(one["build"]) for one in SERVICES.values() if one["image"] == app["image"]}
    assert len(builds) == 1, "one image, two builds"


@pytest.mark.parametrize(
    ("name", "server"), [("app", "qdrant"), ("gpu", "qdrant"), ("serve", "qdrant")]
)
def test_the_app_searches_on_the_server_once_that_is_healthy(name: str, server: str) -> None:
    app = SERVICES[name]
    assert app["environment"]["RETRIEVAL_STORE"] == f"http://{server}:6333"
    assert app["depends_on"] == {
        "key": {"condition": "service_completed_successfully"},
        server: {"condition": "service_healthy"},
    }


@pytest.mark.parametrize("name", sorted(APPS))
def test_settings_given_to_an_app_are_settings_it_knows(name: str) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    given = {key for key in SERVICES[name].get("environment", {}) if key.startswith(PREFIX)}
    assert given <= known


def test_the_embedded_app_needs_no_server_and_no_key(tmp_path: Path) -> None:
    app = SERVICES["embedded"]
    assert "depends_on" not in app
    assert app["entrypoint"] == ["retrieval"]
    assert "RETRIEVAL_STORE" not in app.get("environment", {}), "the image's own: a folder of /data"
    assert mounts("embedded") == {"retrieval": "/data"}


@pytest.mark.parametrize("name", ["app", "gpu", "cluster", "serve"])
def test_an_app_hands_its_key_over_in_the_environment_alone(name: str, tmp_path: Path) -> None:
    """The entrypoint, run by sh, with a `retrieval` that tells what it was given."""
    told = tmp_path / "retrieval"
    told.write_text('#!/bin/sh\necho "key=$RETRIEVAL_API_KEY"\nprintf "<%s>" "$@"\n')
    told.chmod(0o755)
    (tmp_path / "api-key").write_text("a secret of some length")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = text_of(SERVICES[name]["entrypoint"], tmp_path)
    done = subprocess.run(
        [*command, "ui", "--title", "two words"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "key=a secret of some length\n<ui><--title><two words>"
    (tmp_path / "api-key").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode != 0, "it does not start without the key"
    assert not done.stdout


def test_the_gpu_app_has_a_gpu_and_a_torch_for_it() -> None:
    gpu = SERVICES["gpu"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert gpu["build"] == {"context": ".", "dockerfile": "Dockerfile.cuda"}
    assert gpu["image"] != SERVICES["app"]["image"]
    assert gpu["environment"]["RETRIEVAL_DEVICE"] == "cuda"
    others = [one for name, one in SERVICES.items() if name != "gpu"]
    assert not any("deploy" in one for one in others)


# --- the servers ----------------------------------------------------------------------------


@every_qdrant
def test_each_server_is_pinned_and_reports_to_nobody(name: str) -> None:
    server = SERVICES[name]
    assert re.fullmatch(r"qdrant/qdrant:v\d+\.\d+\.\d+-unprivileged", server["image"])
    assert server["image"] == SERVICES["qdrant"]["image"]
    assert server["environment"]["QDRANT__TELEMETRY_DISABLED"] == "true"
    assert server["depends_on"]["key"] == {"condition": "service_completed_successfully"}
    assert "build" not in server


@every_qdrant
def test_what_a_server_writes_lies_in_volumes(name: str) -> None:
    """Its root is read-only: it writes storage, snapshots and the file that marks a start."""
    places = mounts(name)
    assert places[name] == "/qdrant/storage"
    assert places[f"{name}-snapshots"] == "/qdrant/snapshots"
    assert SERVICES[name]["environment"]["QDRANT_INIT_FILE_PATH"].startswith("/tmp/")


@every_qdrant
def test_a_server_does_not_start_without_a_key(name: str, tmp_path: Path) -> None:
    # The image's own script is stood in for by one that says what it was given.
    (tmp_path / "entrypoint.sh").write_text(
        '#!/bin/sh\necho "started with $QDRANT__SERVICE__API_KEY"\nprintf "<%s>" "$@"\n'
    )
    (tmp_path / "entrypoint.sh").chmod(0o755)
    command = [
        *text_of(SERVICES[name]["entrypoint"], tmp_path),
        *SERVICES[name].get("command", []),
    ]

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )

    assert start().returncode == 1
    (tmp_path / "api-key").write_text("")
    assert start().returncode == 1
    assert "No API key" in start().stdout
    (tmp_path / "api-key").write_text("secret")
    started = start()
    assert started.returncode == 0
    assert "started with secret\n" in started.stdout
    for argument in SERVICES[name].get("command", []):
        assert f"<{argument}>" in started.stdout


@every_qdrant
def test_a_servers_health_check_asks_whether_it_is_ready(name: str, free_port: int) -> None:
    """The check's own shell, against a server that is ready, not ready, or not there."""
    import http.server
    import threading

    answers = iter([200, 503])

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(answers) if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    command = [part.replace("6333", str(free_port)) for part in
               SERVICES[name]["healthcheck"]["test"][1:]]  # fmt: skip
    with http.server.HTTPServer(("127.0.0.1", free_port), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        codes = [subprocess.run(command, capture_output=True).returncode for _ in range(2)]
        server.shutdown()
        thread.join()
    assert [code == 0 for code in codes] == [True, False]
    assert subprocess.run(command, capture_output=True).returncode != 0


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# --- the cluster ----------------------------------------------------------------------------


def test_three_nodes_join_the_first_and_talk_to_each_other_alone() -> None:
    for name in sorted(NODES):
        node = SERVICES[name]
        assert node["profiles"] == ["cluster"]
        assert node["environment"]["QDRANT__CLUSTER__ENABLED"] == "true"
        command = node["command"]
        assert command[command.index("--uri") + 1] == f"http://{name}:6335"
        assert node["expose"] == ["6335"]
        assert not any(port.endswith(":6335") for port in node.get("ports", []))
        if name == "qdrant-1":
            assert "--bootstrap" not in command
        else:
            assert command[command.index("--bootstrap") + 1] == "http://qdrant-1:6335"
            assert node["depends_on"]["qdrant-1"] == {"condition": "service_healthy"}


def test_the_clusters_collections_are_on_two_nodes_before_a_write_is_acknowledged() -> None:
    for name in NODES:
        environment = SERVICES[name]["environment"]
        assert environment["QDRANT__STORAGE__COLLECTION__REPLICATION_FACTOR"] == "2"
        assert environment["QDRANT__STORAGE__COLLECTION__WRITE_CONSISTENCY_FACTOR"] == "2"
    app = SERVICES["cluster"]
    assert app["environment"]["RETRIEVAL_STORE"] == "http://qdrant-1:6333"
    assert {k: app["environment"][k] for k in STORAGE_SETTINGS} == STORAGE_SETTINGS
    assert int(STORAGE_SETTINGS["RETRIEVAL_SHARDS"]) % len(NODES) == 0, "equal work for all nodes"
    for node in NODES:
        assert app["depends_on"][node] == {"condition": "service_healthy"}


def test_one_server_alone_is_asked_for_no_replicas() -> None:
    for name in ("app", "gpu", "serve"):
        assert not set(STORAGE_SETTINGS) & set(SERVICES[name]["environment"])
    assert not any("CLUSTER" in key for key in SERVICES["qdrant"]["environment"])


# --- the key --------------------------------------------------------------------------------


def make_key(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The service `key`, as its container runs it."""
    [script] = SERVICES["key"]["command"]
    assert SERVICES["key"]["entrypoint"] == ["python", "-c"]
    return subprocess.run(
        [sys.executable, "-c", script.replace("$$", "$")],
        env={"KEY_FILE": str(folder / "api-key"), **environment},
        capture_output=True,
        text=True,
    )


def test_a_random_key_is_made_once_and_kept(tmp_path: Path) -> None:
    assert make_key(tmp_path).returncode == 0
    first = (tmp_path / "api-key").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    again = make_key(tmp_path, QDRANT__SERVICE__API_KEY="")
    assert (tmp_path / "api-key").read_text() == first
    assert first not in again.stdout + again.stderr
    other = tmp_path / "other"
    other.mkdir()
    make_key(other)
    assert (other / "api-key").read_text() != first


def test_a_key_of_ones_own_goes_before_it_and_a_short_one_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path)
    own = "0123456789abcdef0123"
    done = make_key(tmp_path, QDRANT__SERVICE__API_KEY=own)
    assert done.returncode == 0
    assert (tmp_path / "api-key").read_text() == own
    assert own not in done.stdout
    assert make_key(tmp_path).returncode == 0
    assert (tmp_path / "api-key").read_text() == own, "kept when qdrant.env is gone"
    short = make_key(tmp_path, QDRANT__SERVICE__API_KEY="1234")
    assert short.returncode == 1
    assert "shorter than 16 characters" in short.stderr
    assert (tmp_path / "api-key").read_text() == own
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o444, "servers are other users"


def test_the_key_comes_from_a_file_that_is_never_committed() -> None:
    key = SERVICES["key"]
    assert key["env_file"] == [{"path": "qdrant.env", "required": False}]
    assert key["network_mode"] == "none"
    assert "qdrant.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    example = (ROOT / "qdrant.env.example").read_text(encoding="utf-8")
    [line] = [line for line in example.splitlines() if line and not line.startswith("#")]
    assert line == "QDRANT__SERVICE__API_KEY=", "an example is nobody's key"
    assert not [name for name, one in SERVICES.items() if "env_file" in one and name != "key"]


# --- images ---------------------------------------------------------------------------------


IMAGES = ("Dockerfile", "Dockerfile.cuda")
every_image = pytest.mark.parametrize("image", IMAGES)


def dockerfile(name: str = "Dockerfile") -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def instructions(name: str) -> list[tuple[str, str]]:
    """The file's instructions and their arguments, continued lines joined, comments left out."""
    lines = [line for line in dockerfile(name).splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(words[0], words[-1]) for words in
            (line.split(None, 1) for line in joined.splitlines() if line.strip())]  # fmt: skip


@every_image
def test_a_dockerfile_is_one(image: str) -> None:
    known = {
        "ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK",
        "ENTRYPOINT", "CMD",
    }  # fmt: skip
    parts = instructions(image)
    assert {name for name, _ in parts} <= known
    stages = [text.split(" AS ") for name, text in parts if name == "FROM"]
    named = {stage[1] for stage in stages if len(stage) == 2}
    for name, text in parts:
        if name == "COPY" and "--from=" in text:
            assert re.findall(r"--from=(\S+)", text)[0] in named
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(text), list), "a shell would not pass signals on"
        if name == "RUN":
            done = subprocess.run(["sh", "-n", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    for base, *_ in stages:
        assert base in named or re.search(r":\S", base), "a base without a version"
        assert not base.endswith(":latest")


@every_image
def test_an_image_runs_without_root_and_says_when_it_is_ready(image: str) -> None:
    parts = instructions(image)
    last_stage = parts[max(i for i, (name, _) in enumerate(parts) if name == "FROM") :]
    names = [name for name, _ in last_stage]
    values = dict(last_stage)
    assert values["USER"] == "retrieval"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "'http://127.0.0.1:7860/readyz'" in values["HEALTHCHECK"]
    assert values["EXPOSE"] == str(Settings().port)
    command = json.loads(values["HEALTHCHECK"].split(" CMD ")[1])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")


@every_image
def test_an_image_holds_no_secrets(image: str) -> None:
    for name, text in instructions(image):
        if name in ("ENV", "ARG"):
            assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*=\S", text, re.IGNORECASE)
        if name in ("COPY", "RUN"):
            assert "keys.json" not in text
            assert ".env" not in text
    settings = re.findall(rf"\b{PREFIX}(\w+)=", dockerfile(image))
    assert {one.lower() for one in settings} <= set(Settings.model_fields)


def test_the_image_for_gpus_has_the_torch_of_pypi() -> None:
    text = dockerfile("Dockerfile.cuda")
    assert "pip install -c constraints.txt \"$(grep '^torch==' constraints.txt)\"" in text
    assert "download.pytorch.org" not in text
    assert "FROM nvidia/cuda:${CUDA}-base" in text


def test_the_service_has_its_keys_and_its_state_where_they_are_kept() -> None:
    environment = SERVICES["serve"]["environment"]
    for name in ("RETRIEVAL_KEYS_FILE", "RETRIEVAL_STATE_DIR"):
        assert environment[name].startswith("/data/")
    assert mounts("serve")["serve"] == "/data"


def test_server_and_client_fit_each_other() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    [pin] = re.findall(r"^qdrant-client==(\S+)$", constraints, re.MULTILINE)
    image = SERVICES["qdrant"]["image"]
    server = Version(image.split(":v")[1].removesuffix("-unprivileged"))
    client = Version(pin)
    assert server.major == client.major
    assert abs(server.minor - client.minor) <= 1, "the client warns of more"


@every_image
def test_the_image_runs_as_the_user_that_compose_names(image: str) -> None:
    text = dockerfile(image)
    [(user, group)] = re.findall(r"useradd --uid (\d+) --gid (\d+)", text)
    assert f"groupadd --gid {group} retrieval" in text
    assert "\nUSER retrieval\n" in text
    assert "HEALTHCHECK" in text
    # Fresh volumes get the owner that the image's folder has.
    assert "install -d -o retrieval -g retrieval /data /key" in text
    for name in [*APPS, "key"]:
        assert SERVICES[name]["user"] == f"{user}:{group}"


@pytest.mark.parametrize(
    ("torch", "arguments"),
    [
        (None, "-c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu "
               "torch==2.13.0+cpu"),
        ("cu126", "-c constraints.txt --extra-index-url https://download.pytorch.org/whl/cu126 "
                  "torch==2.13.0+cu126"),
        ("default", "-c constraints.txt torch==2.13.0"),
    ],
)  # fmt: skip
def test_the_image_has_the_torch_that_is_asked_for(
    tmp_path: Path, torch: str | None, arguments: str
) -> None:
    """The Dockerfile's own shell, with a pip that tells what it was asked for."""
    [default] = re.findall(r"^ARG TORCH=(\S+)$", dockerfile(), re.MULTILINE)
    [command] = re.findall(r"^RUN (torch=.*?[^\\])$", dockerfile(), re.MULTILINE | re.DOTALL)
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH": torch or default},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"install {arguments}\n"


@every_image
def test_what_the_image_copies_is_what_is_sent_to_the_builder(image: str) -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(image), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert {name for line in copied for name in line.split()} == sent
    # what pip needs to build the package lies among them
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"]} <= sent
