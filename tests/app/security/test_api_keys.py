from __future__ import annotations

import hashlib
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.commands.keys import app as commands
from app.errors import Unauthorized
from app.security import api_keys
from app.security.api_keys import KeyRing
from app.security.key_file import read_keys
from app.types import Caller
from retrieval.errors import InvalidInput


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_found_again_and_stands_nowhere(file: Path) -> None:
    token, key = api_keys.create(
        file, "bot", write=False, collections=["a", "b"], tenant="t", rate="5/second"
    )
    assert token.startswith("tsr_")
    assert len(token) == 4 + 43, "256 bits in base64"
    found = KeyRing.load(file).find(token)
    assert found == key
    assert found.caller == Caller("bot", False, ("a", "b"), "t")
    assert token not in file.read_text()
    assert hashlib.sha256(token.encode()).hexdigest() in file.read_text()
    assert token not in repr(key)


def test_only_its_owner_can_read_the_file(file: Path) -> None:
    for name in ("one", "two"):
        api_keys.create(file, name)
        assert file.stat().st_mode & 0o777 == 0o600
    api_keys.revoke(file, "one")
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in file.parent.iterdir()) == [".keys.json.lock", "keys.json"]


@pytest.mark.parametrize("wrong", ["", "tsr_", "x" * 10_000, "tsr_" + "a" * 43, "\udcff", "é"])
def test_an_unknown_key_is_refused(file: Path, wrong: str) -> None:
    api_keys.create(file, "bot")
    with pytest.raises(Unauthorized) as refused:
        KeyRing.load(file).find(wrong)
    assert refused.value.reason == "unknown"


def test_a_digest_is_no_key(file: Path) -> None:
    _, key = api_keys.create(file, "bot")
    with pytest.raises(Unauthorized):
        KeyRing.load(file).find(key.sha256)


def test_a_key_that_is_over_is_refused(file: Path) -> None:
    token, key = api_keys.create(file, "brief", expires="2h")
    assert KeyRing.load(file).find(token) == key
    made = datetime.fromisoformat(key.created)
    assert not key.expired(made + timedelta(hours=1, minutes=59))
    assert key.expired(made + timedelta(hours=2))
    data = json.loads(file.read_text())
    data["keys"][0]["expires"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    file.write_text(json.dumps(data))
    with pytest.raises(Unauthorized, match="'brief' expired on"):
        KeyRing.load(file).find(token)


def test_a_running_service_follows_the_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = api_keys.create(file, "first")
    ring = KeyRing.load(file)
    second, _ = api_keys.create(file, "second")
    assert ring.find(second).id == "second"
    api_keys.revoke(file, "first")
    with pytest.raises(Unauthorized):
        ring.find(first)
    before = file.read_text()
    file.write_text("{ half an ed")
    assert ring.find(second).id == "second", "half an edit locks nobody out"
    assert "the keys stay as they were" in caplog.text
    file.unlink()
    assert ring.find(second).id == "second"
    file.write_text(before.replace("second", "renamed"))
    assert ring.find(second).id == "renamed"
    api_keys.revoke(file, "renamed")
    assert len(ring._keys) == 1
    with pytest.raises(Unauthorized):
        ring.find(second)


def test_two_who_make_keys_at_once_lose_none(file: Path) -> None:
    def make(start: int) -> None:
        for number in range(start, start + 5):
            api_keys.create(file, f"key-{number}")

    threads = [threading.Thread(target=make, args=(start,)) for start in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(file)) == 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "cannot be named ''"),
        ({"name": "../x"}, "cannot be named"),
        ({"name": "a b"}, "cannot be named"),
        ({"name": "x" * 65}, "cannot be named"),
        ({"rate": "fast"}, "'fast' is not a rate"),
        ({"rate": "0/minute"}, "is not a rate"),
        ({"expires": "soon"}, "'soon' is not a length"),
        ({"expires": "0d"}, "is not a length"),
        ({"collections": [""]}, "name is empty"),
        ({"tenant": " "}, "tenant is empty"),
        ({"name": "taken"}, "already.*revoke it first"),
    ],
)
def test_what_cannot_be_made(file: Path, options: dict[str, Any], says: str) -> None:
    api_keys.create(file, "taken")
    before = file.read_text()
    with pytest.raises(InvalidInput, match=says):
        api_keys.create(file, **{"name": "new", **options})
    assert file.read_text() == before


ENTRY: dict[str, Any] = {"id": "a", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "content",
    [
        "",
        [],
        {},
        {"version": 2, "keys": []},
        *(
            {"version": 1, "keys": [entry]}
            for entry in (
                {},
                {"id": "a", "sha256": "short"},
                {**ENTRY, "admin": True},
                {**ENTRY, "write": "no"},
                {**ENTRY, "collections": "ab"},
                {**ENTRY, "rate": "x"},
                {**ENTRY, "expires": "2030-01-01"},
                {**ENTRY, "expires": "soon"},
                {**ENTRY, "tenant": 5},
            )
        ),
    ],
)
def test_what_is_not_a_file_of_keys(file: Path, content: Any) -> None:
    """Half-understood rights would be wrong rights."""
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text)
    with pytest.raises(InvalidInput, match="is not a file of keys"):
        KeyRing.load(file)
    with pytest.raises(InvalidInput):
        api_keys.create(file, "new")
    assert file.read_text() == text


def test_a_missing_file_says_how_to_make_one(file: Path) -> None:
    with pytest.raises(InvalidInput, match=r"retrieval keys create NAME --keys-file"):
        KeyRing.load(file)
    with pytest.raises(InvalidInput):
        api_keys.revoke(file, "x")


def test_a_file_that_others_can_change_is_told(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api_keys.create(file, "bot")
    KeyRing.load(file)
    assert not caplog.text
    file.chmod(0o664)
    with caplog.at_level(logging.WARNING):
        KeyRing.load(file)
    assert "chmod 600" in caplog.text


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"cannot be written.*--keys-file"):
        api_keys.create(tmp_path / "file" / "keys.json", "bot")


# --- the commands ---------------------------------------------------------------------------


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(commands, list(arguments), env=environment)


def test_the_commands(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ("--keys-file", str(file))
    made = run("create", "bot", "--read-only", "--collections", "a, b", "--expires", "90d", *place)
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    assert KeyRing.load(file).find(token).caller == Caller("bot", False, ("a", "b"))
    assert token not in made.stderr
    assert str(file) in made.stderr
    assert run("create", "full", "--rate", "9/minute", "--tenant", "t", *place).exit_code == 0
    shown = run("list", *place).stdout.splitlines()
    assert [line.split()[:6] for line in shown[1:]] == [
        ["bot", "read-only", "a,b", "-", "-", read_keys(file)[0].created],
        ["full", "read-write", "all", "t", "9/minute", read_keys(file)[1].created],
    ]
    assert token not in "".join(shown)
    # the place may also come from the settings
    monkeypatch.setenv("RETRIEVAL_KEYS_FILE", str(file))
    assert run("revoke", "bot").exit_code == 0
    assert [key.id for key in read_keys(file)] == ["full"]
    assert isinstance(run("revoke", "bot").exception, InvalidInput)


def test_without_a_place_the_current_folder_is_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRIEVAL_KEYS_FILE", raising=False)
    assert run("create", "bot").exit_code == 0
    assert [key.id for key in read_keys(tmp_path / "retrieval-keys.json")] == ["bot"]
