"""ModelScope's file API and mirrors of the first hub, against doubles on ports of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound
from retrieval.models import hub
from retrieval.models.resolve import resolve
from retrieval.models.sources import modelscope
from retrieval.models.sources.known import is_cached, sources_of

BGE = "BAAI/bge-large-en-v1.5"  # no package carries it
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 1024,
    "max_position_embeddings": 512,
}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    "model.safetensors": bytes(range(256)) * 400,
    "pytorch_model.bin": b"the same again",
    "onnx/model.onnx": b"and again",
}


@dataclass
class Server:
    """A double's state; `tear` ends the first answer with weights in the middle."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    status: int = 200
    tear: bool = False
    ranges: bool = True
    commit: bool = True
    elsewhere: str = ""
    url: str = ""

    def sent(self) -> list[str]:
        """Paths of the files that were asked for, in order."""
        return [path for kind, path, _ in self.requests if kind == "file"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *args: Any) -> None:
        pass

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_file(self, path: str) -> None:
        body = self.state.files.get(path)
        if body is None:
            return self.send(404, b"{}", X_Error_Code="EntryNotFound")
        start = 0
        asked = self.headers.get("Range")
        if asked and self.state.ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        rest, length = body[start:], len(body) - start
        if self.state.tear and len(body) > 1000:
            self.state.tear = False
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        more = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        return self.send(206 if start else 200, rest, Content_Length=str(length), **more)


class _ModelScope(_Handler):
    def do_GET(self) -> None:
        state, url = self.state, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        asked = query.get("FilePath")
        kind = "list" if asked is None else "file"
        state.requests.append((kind, asked or url.path, self.headers.get("Range")))
        if state.status != 200 or query["Revision"] not in ("master", "v2"):
            code = state.status if state.status != 200 else 404
            return self.send(code, b'{"Code": 10010205001, "Success": false}')
        if not url.path.startswith(f"/api/v1/models/{BGE}/repo"):
            return self.send(404, b'{"Code": 10010205001, "Success": false}')
        if asked is not None:
            if state.elsewhere:
                return self.send(302, Location=f"{state.elsewhere}/{asked}")
            return self.send_file(asked)
        listing: list[dict[str, Any]] = [
            {"Path": "onnx", "Name": "onnx", "Type": "tree", "Size": 0}
        ]
        for path, body in FILES.items():
            digest = hashlib.sha256(body).hexdigest()
            name = path.rpartition("/")[2]
            listing.append(
                {"Path": path, "Name": name, "Type": "blob", "Size": len(body), "Sha256": digest}
            )
        answer = {"Code": 200, "Data": {"Files": listing}, "Success": True}
        return self.send(200, json.dumps(answer).encode(), Content_Type="application/json")


class _Storage(_Handler):
    """The other host that files are sent on to."""

    def do_GET(self) -> None:
        self.state.requests.append(("file", self.path[1:], self.headers.get("Range")))
        self.send_file(self.path[1:])


class _Mirror(_Handler):
    """A mirror of the first hub: its API, its headers, its files on another host."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.state
        state.requests.append((self.command, self.path, None))
        path = urlsplit(self.path).path
        if path.startswith(f"/api/models/{BGE}"):
            if "/tree/" in path:
                rows: Any = [
                    {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
                    for name, body in FILES.items()
                ]
            else:
                siblings = [{"rfilename": name} for name in FILES]
                rows = {"id": BGE, "sha": COMMIT, "siblings": siblings, "private": False}
            return self.send(200, json.dumps(rows).encode(), Content_Type="application/json")
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in FILES:
            return self.send(404, b"{}", X_Error_Code="EntryNotFound")
        headers = {
            "X_Linked_ETag": f'"{hashlib.sha256(FILES[name]).hexdigest()}"',
            "X_Linked_Size": str(len(FILES[name])),
            "Location": f"{state.elsewhere}/{name}",
        }
        if state.commit:
            headers["X_Repo_Commit"] = COMMIT
        return self.send(302, **headers)


@contextmanager
def serving(kind: type[_Handler]) -> Iterator[Server]:
    state = Server()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (kind,), {"state": state}))
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{listener.server_address[1]}"
    try:
        yield state
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture
def scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(_ModelScope) as state:
        monkeypatch.setenv("RETRIEVAL_HUB", "modelscope")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", state.url)
        monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(tmp_path / "weights"))
        yield state


@pytest.fixture
def find(tmp_path: Path):
    def call(name: str = BGE, **options: Any):
        own = {"cache_dir": tmp_path / "hub", "fingerprint_cache": tmp_path / "digests.json"}
        return resolve(name, "encoder", **own, **options)

    return call


# --- ModelScope -----------------------------------------------------------------------------


def test_a_model_is_fetched_once_in_one_format(scope, find, tmp_path):
    found = find("bge-large-en-v1.5")
    assert found.spec.name == BGE
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert set(scope.sent()) == {
        "config.json", "1_Pooling/config.json", "tokenizer.json", "model.safetensors",
    }  # fmt: skip
    scope.requests.clear()
    assert find() == find(download=False) == found
    assert scope.requests == []
    assert is_cached(found.spec, cache_dir=tmp_path / "hub")
    [source] = sources_of(found.spec, cache_dir=tmp_path / "hub")
    assert (source.detail, source.folder) == (scope.url, found.path)


def test_a_revision_has_a_folder_of_its_own_and_a_wrong_one_is_told(scope, find):
    found = find(f"{BGE}@v2")
    assert (found.spec.name, found.path.name) == (f"{BGE}@v2", "v2")
    with pytest.raises(ModelNotFound, match="no such model or revision"):
        find(f"{BGE}@v3")


def test_files_on_another_host(scope, find):
    with serving(_Storage) as storage:
        scope.elsewhere = storage.url
        assert (find().path / "tokenizer.json").read_bytes() == FILES["tokenizer.json"]
        assert "model.safetensors" in storage.sent()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_torn_download_goes_on_where_it_ended(scope, find, ranges):
    scope.tear, scope.ranges = True, ranges
    found = find()
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    asked = [r for _, path, r in scope.requests if path == "model.safetensors"]
    assert asked[0] is None
    assert asked[1] is not None
    assert int(asked[1].removeprefix("bytes=").rstrip("-")) > 0
    assert not list(found.path.rglob(".*.part"))


def test_another_file_than_the_listing_says_is_refused(scope, find):
    scope.files["model.safetensors"] = b"\0" * len(FILES["model.safetensors"])
    with pytest.raises(ModelFault, match="its listing says"):
        find()
    with pytest.raises(ModelNotFound, match="download=False"):
        find(download=False)
    scope.files["model.safetensors"] = FILES["model.safetensors"]
    assert find(), "and the next run begins it anew"


@pytest.mark.parametrize(
    ("status", "said"), [(404, "no such model"), (403, "status 403"), (500, "status 500")]
)
def test_what_it_answers_is_told(scope, find, status, said):
    scope.status = status
    with pytest.raises(ModelNotFound, match=said) as caught:
        find()
    assert "RETRIEVAL_HUB" in caught.value.fix


def test_it_is_asked_whether_it_answers(scope, find, monkeypatch):
    assert hub.answers(BGE, 5.0)
    assert not hub.answers("BAAI/no-such-model", 5.0)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert not hub.answers(BGE, 5.0)
    with pytest.raises(ModelNotFound, match="does not answer"):
        find()


def test_offline_mode_asks_nothing(scope, find, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="offline mode is on"):
        find()
    assert scope.requests == []


def test_another_hub_is_not_known(scope, find, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_HUB", "elsewhere")
    with pytest.raises((ModelNotFound, InvalidInput), match="expected huggingface or modelscope"):
        find()


def test_a_listing_cannot_write_outside_of_the_folder(scope, tmp_path):
    outside = modelscope.RemoteFile("../../../outside", 1, "0" * 64)
    with pytest.raises(ModelNotFound, match="outside of its folder"):
        modelscope.fetch(BGE, [outside])


# --- mirrors of the first hub ---------------------------------------------------------------

ASK = f"""
import json, sys
from retrieval.models import hub
from retrieval.models.resolve import resolve
print(json.dumps(hub.answers({BGE!r}, 10.0)))
print(resolve({BGE!r}, "encoder").path)
"""


def asked_by_a_process(mirror: Server, home: Path) -> subprocess.CompletedProcess[str]:
    """HF_ENDPOINT is read when huggingface_hub is imported, so it takes a process of its own."""
    environment = {**os.environ, "HF_ENDPOINT": mirror.url, "HF_HOME": str(home / "hf")}
    environment |= {"HOME": str(home), "RETRIEVAL_WEIGHTS": str(home / "weights")}
    environment.pop("RETRIEVAL_HUB", None)
    environment["HF_HUB_DISABLE_XET"] = "1"
    return subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_mirror_that_sends_files_on_to_another_host(tmp_path):
    with ExitStack() as stack:
        mirror = stack.enter_context(serving(_Mirror))
        storage = stack.enter_context(serving(_Storage))
        mirror.elsewhere = storage.url
        done = asked_by_a_process(mirror, tmp_path)
        assert done.returncode == 0, done.stderr
        answer, folder = done.stdout.split()
        assert answer == "true"
        assert (Path(folder) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        assert "pytorch_model.bin" not in storage.sent()


def test_a_mirror_that_names_no_commit_counts_as_no_answer(tmp_path):
    with ExitStack() as stack:
        mirror = stack.enter_context(serving(_Mirror))
        storage = stack.enter_context(serving(_Storage))
        mirror.elsewhere, mirror.commit = storage.url, False
        done = asked_by_a_process(mirror, tmp_path)
        assert done.stdout.split()[0] == "false"
        assert done.returncode != 0
        assert "ModelNotFound" in done.stderr
        assert mirror.url in done.stderr.splitlines()[-1]
