"""Fetching from a hub and choosing by it, against a small HTTP server that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models import hub, hub_silence
from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION, MODELS
from retrieval.models.resolve import choose_models, resolve
from retrieval.models.sources.known import is_cached

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BGE = "BAAI/bge-small-en-v1.5"
RERANKER = "BAAI/bge-reranker-base"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "max_position_embeddings": 512,
}
CLASSIFIER = BERT | {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
}


def text(content: Any) -> bytes:
    return json.dumps(content).encode()


def encoder_files(**more: bytes) -> dict[str, bytes]:
    """What an encoder's repository holds, with the duplicates in other formats."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    return {
        "config.json": text(BERT),
        "modules.json": text(modules),
        "1_Pooling/config.json": text({"pooling_mode_cls_token": True}),
        "sentence_bert_config.json": text({"max_seq_length": 512}),
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"the same weights again",
        "onnx/model.onnx": b"and again",
        "openvino/openvino_model.bin": b"and again",
        "tf_model.h5": b"and again",
        **more,
    }


@dataclass
class Hub:
    """A model hub on a port of this machine."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    answers_all: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose contents were sent."""
        marker = f"/resolve/{COMMIT}/"
        return {p.partition(marker)[2] for m, p in self.requests if m == "GET" and marker in p}


@pytest.fixture(autouse=True)
def _no_package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a package index carries stands in for a hub; here only the hub is meant."""
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def server() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            state.requests.append((self.command, path))
            if state.answers_all is not None:
                return self.send(state.answers_all)
            parts = path.removeprefix("/api/models").strip("/").split("/")
            repo, rest = "/".join(parts[:2]), parts[2:]
            if repo in state.gated:
                return self.send(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
            files = state.repos.get(repo)
            if files is None:
                return self.send(404, b"{}", X_Error_Code="RepoNotFound")
            if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                return self.send(404, b"{}", X_Error_Code="RevisionNotFound")
            if not path.startswith("/api/"):
                return self.send_file(files.get("/".join(rest[2:])))
            if rest[:1] == ["tree"]:
                listing = [
                    {"type": "file", "path": name, "size": len(body), "oid": sha(body)}
                    for name, body in files.items()
                ]
                return self.send(200, text(listing), Content_Type="application/json")
            siblings = [{"rfilename": name} for name in files]
            info = {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False}
            return self.send(200, text(info), Content_Type="application/json")

        def send_file(self, body: bytes | None) -> None:
            if body is None:
                return self.send(404, b"{}", X_Error_Code="EntryNotFound")
            return self.send(200, body, ETag=f'"{sha(body)}"', X_Repo_Commit=COMMIT)

    def sha(body: bytes) -> str:
        return hashlib.sha1(body).hexdigest()

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{listener.server_address[1]}"
    yield state
    listener.shutdown()
    listener.server_close()
    thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def absent() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def find(tmp_path: Path, server: Hub):
    def call(name: str, kind: Any = "encoder", **options: Any):
        options = {"endpoint": server.url, "cache_dir": tmp_path / "hub"} | options
        return resolve(name, kind, fingerprint_cache=tmp_path / "digests.json", **options)

    return call


# --- fetching -------------------------------------------------------------------------------


def test_a_known_model_is_fetched_once_in_one_format(server, find, tmp_path):
    server.repos[BGE] = encoder_files()
    found = find("bge-small-en-v1.5")
    assert found.spec == MODELS[BGE]
    assert (found.path / "model.safetensors").read_bytes() == b"weights"
    fetched = server.fetched()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not fetched & {"pytorch_model.bin", "tf_model.h5"}
    assert not any(name.startswith(("onnx/", "openvino/")) for name in fetched)

    server.requests.clear()
    assert find(BGE) == found, "the second time comes from the cache"
    assert find(BGE, download=False) == found
    assert server.requests == []
    assert is_cached(MODELS[BGE], cache_dir=tmp_path / "hub")


def test_bge_m3_comes_with_its_linear_layers_and_their_loss_is_mended(server, find, tmp_path):
    layers = {"sparse_linear.pt": b"sparse", "colbert_linear.pt": b"colbert"}
    config = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "hidden_size": 1024,
        "max_position_embeddings": 8194,
        "pad_token_id": 1,
    }
    more = {"config.json": text(config), "onnx/sparse_linear.pt": b"again"}
    server.repos["BAAI/bge-m3"] = encoder_files(**layers, **more)
    snapshot = find("bge-m3").path
    for name, content in layers.items():
        assert (snapshot / name).read_bytes() == content
    assert not any(name.startswith("onnx/") for name in server.fetched())
    plain = find("bge-m3").fingerprint
    (snapshot / "sparse_linear.pt").unlink()
    (snapshot / "colbert_linear.pt").unlink()
    assert find("bge-m3", download=False).fingerprint == plain, "they are no part of it"
    hub.fetch_files("BAAI/bge-m3", "encoder", snapshot, list(layers), endpoint=server.url)
    for name, content in layers.items():
        assert (snapshot / name).read_bytes() == content
    assert find("bge-m3", download=False).fingerprint == plain


def test_a_head_of_several_modules_comes_with_their_weights(server, find, tmp_path):
    name = "cross-encoder/ettin-reranker-17m-v1"
    kinds = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dense")
    paths = ["", "1_Pooling", "2_Dense", "3_LayerNorm", "4_Dense"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.modules.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    gelu, plain = "torch.nn.modules.activation.GELU", "torch.nn.modules.linear.Identity"
    inner = {"in_features": 256, "out_features": 256, "bias": False, "activation_function": gelu}
    last = {"in_features": 256, "out_features": 1, "activation_function": plain}
    weights = {f"{path}/model.safetensors": path.encode() for path in paths[2:]}
    server.repos[name] = encoder_files(
        **{
            "config.json": text({"architectures": ["ModernBertModel"], "model_type": "modernbert"}),
            "modules.json": text(modules),
            "config_sentence_transformers.json": text({"model_type": "CrossEncoder"}),
            "2_Dense/config.json": text(inner),
            "3_LayerNorm/config.json": text({"dimension": 256}),
            "4_Dense/config.json": text(last | {"module_output_name": "scores"}),
            **weights,
        }
    )
    found = find("ettin-reranker-17m-v1", "reranker")
    assert found.spec == MODELS[name]
    assert weights.keys() <= server.fetched()
    assert is_cached(MODELS[name], cache_dir=tmp_path / "hub")
    (found.path / "4_Dense" / "model.safetensors").unlink()
    assert not is_cached(MODELS[name], cache_dir=tmp_path / "hub"), "the head is a part of it"
    assert find(name, "reranker").fingerprint == found.fingerprint, "and is fetched again"


def test_a_model_outside_the_registry_is_read_from_its_own_files(server, find):
    prompts = {"prompts": {"query": "ask: ", "document": ""}}
    server.repos["some/encoder"] = encoder_files(
        **{"config_sentence_transformers.json": text(prompts)}
    )
    spec = find("some/encoder").spec
    assert (spec.name, spec.pooling, spec.query_instruction) == ("some/encoder", "cls", "ask: ")
    pinned = find(f"some/encoder@{COMMIT}")
    assert pinned.spec.name == f"some/encoder@{COMMIT}"
    assert find(pinned.spec.name) == pinned


def test_sharded_pickled_weights_come_with_all_their_shards(server, find):
    files = encoder_files()
    del files["model.safetensors"], files["pytorch_model.bin"]
    shards = {"pytorch_model-1-of-2.bin": b"1", "pytorch_model-2-of-2.bin": b"2"}
    index = {"weight_map": {str(i): name for i, name in enumerate(shards)}}
    server.repos["some/encoder"] = {
        **files,
        **shards,
        "pytorch_model.bin.index.json": text(index),
    }
    found = find("some/encoder")
    assert {p.name for p in found.path.glob("*-of-2.bin")} == set(shards)


def test_what_cannot_be_run_is_refused_before_the_weights_are_fetched(server, find):
    server.repos["some/code"] = encoder_files(
        **{"config.json": text(BERT | {"auto_map": {"AutoModel": "m.M"}})}
    )
    with pytest.raises(InvalidInput, match="never run"):
        find("some/code")
    server.repos["some/raw"] = {"config.json": text(BERT), "model.safetensors": b"w"}
    with pytest.raises(ModelSettingUnknown, match="declares no pooling"):
        find("some/raw")
    server.repos["some/classifier"] = {"config.json": text(CLASSIFIER), "model.safetensors": b"w"}
    with pytest.raises(InvalidInput, match="is a classifier"):
        find("some/classifier")
    assert "model.safetensors" not in server.fetched()


def test_an_interrupted_download_is_completed(server, find, tmp_path):
    server.repos[BGE] = encoder_files()
    weights = find(BGE).path / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    assert not is_cached(MODELS[BGE], cache_dir=tmp_path / "hub")
    with pytest.raises(ModelNotFound, match="download=False"):
        find(BGE, download=False)
    assert (find(BGE).path / "model.safetensors").read_bytes() == b"weights"


def test_settings_that_another_tool_left_out_are_fetched(server, find, tmp_path):
    server.repos["some/encoder"] = encoder_files()
    snapshot = find("some/encoder").path
    (snapshot / "modules.json").unlink()
    shutil.rmtree(snapshot / "1_Pooling")
    with pytest.raises(ModelSettingUnknown, match="pooling"):
        find("some/encoder", download=False)
    assert find("some/encoder").spec.pooling == "cls"


def test_answers_of_the_hub_become_clear_errors(server, find, absent):
    with pytest.raises(ModelNotFound, match=r"has no such model.*Did you mean BAAI/bge-m3"):
        find("BAAI/bge-m4")
    server.repos[BGE] = encoder_files()
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        find(BGE, revision="v9")
    server.gated.add("some/gated")
    with pytest.raises(ModelNotFound, match=r"gated.*hf auth login"):
        find("some/gated")
    server.repos["some/empty"] = {k: v for k, v in encoder_files().items() if "model" not in k}
    server.repos["some/empty"]["modules.json"] = encoder_files()["modules.json"]
    with pytest.raises(ModelNotFound, match="no PyTorch weights"):
        find("some/empty")
    with pytest.raises(ModelNotFound, match=r"fetching it from .* failed"):
        find("other/model", endpoint=absent)


def test_files_that_are_not_the_known_model_are_refused(server, find):
    server.repos[BGE] = encoder_files(**{"config.json": text(BERT | {"hidden_size": 768})})
    with pytest.raises(ModelFault, match=r"are not those of BAAI/bge-small-en-v1\.5"):
        find(BGE)


# --- whether a hub answers ------------------------------------------------------------------


def test_answers(server, silent, absent):
    server.repos[BGE] = encoder_files()
    assert hub.answers(BGE, 5, server.url)
    assert not hub.answers("BAAI/no-such", 5, server.url)
    assert not hub.answers(BGE, 5, absent)
    assert not hub.answers(BGE, 0, server.url)
    started = time.monotonic()
    assert not hub.answers(BGE, 0.5, silent)
    assert time.monotonic() - started < 2


def test_a_login_page_is_no_hub(server):
    server.answers_all = 200
    assert not hub.answers(BGE, 5, server.url)
    assert server.requests


def test_a_name_lookup_that_stalls_does_not_hold_the_deadline(monkeypatch):
    def stall(*args: Any, **kwargs: Any) -> Any:
        time.sleep(3)
        raise socket.gaierror("stalled")

    monkeypatch.setattr(socket, "getaddrinfo", stall)
    started = time.monotonic()
    assert not hub.answers(BGE, 0.5, "http://hub.invalid")
    assert time.monotonic() - started < 2


def test_offline_mode_is_respected(server, monkeypatch, tmp_path):
    server.repos[BGE] = encoder_files()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.answers(BGE, 5, server.url)
    with pytest.raises(ModelNotFound, match=r"not on this machine"):
        resolve(BGE, "encoder", endpoint=server.url, cache_dir=tmp_path)
    assert server.requests == []


# --- choosing -------------------------------------------------------------------------------


@pytest.fixture
def choose(tmp_path: Path):
    """`choose_models` with an empty cache; `hub=True` stands for a hub that answers."""

    def call(*names: str, device: str = "cpu", hub: bool = False):
        return choose_models(
            *names, device=device, cache_dir=tmp_path / "hub", probe=lambda repo, seconds: hub
        )

    return call


GPU_PAIR = ("BAAI/bge-base-en-v1.5", "BAAI/bge-reranker-v2-m3")
OPTIONS = "--encoder, --reranker, `retrieval models`"


@pytest.mark.parametrize(
    ("names", "device", "hub", "chosen", "words"),
    [
        ((), "cpu", True, (BGE, RERANKER), f"{BGE}, {RERANKER}, downloaded, {OPTIONS}"),
        ((), "cuda:0", True, GPU_PAIR, "downloaded"),
        ((), "cpu", False, ("starter", "starter"), f"starter, {BGE}, no model hub, {OPTIONS}"),
        (("starter", "auto"), "cpu", True, ("starter", "starter"), ""),
        (("starter", "auto"), "cpu", False, ("starter", "starter"), "int8 origin"),
        ((MINILM, "auto"), "cpu", True, (MINILM, RERANKER), ""),
        ((MINILM, "auto"), "cpu", False, (MINILM, "starter"), "int8 origin, downloaded"),
        (("some/encoder", "auto"), "cpu", True, ("some/encoder", RERANKER), ""),
        (("BAAI/bge-m3",), "cpu", True, ("BAAI/bge-m3", "BAAI/bge-reranker-v2-m3"), ""),
        (
            ("some/encoder", "auto"),
            "cpu",
            False,
            ("some/encoder", None),
            "No re-ranking, --reranker",
        ),
        (
            ("BAAI/bge-small-zh-v1.5", "auto"),
            "cpu",
            False,
            ("BAAI/bge-small-zh-v1.5", None),
            "No re-ranking",
        ),
        (("auto", "none"), "cpu", True, (BGE, None), ""),
        (("auto", "none"), "cpu", False, ("starter", None), ""),
        (("auto", "some/reranker"), "cpu", False, ("starter", "some/reranker"), ""),
    ],
)
def test_what_is_chosen(choose, names, device, hub, chosen, words):
    choice = choose(*names, device=device, hub=hub)
    assert (choice.encoder, choice.reranker) == chosen
    for word in filter(None, words.split(", ")):
        assert word in choice.notices[0]
    if not names:
        assert len(choice.notices) == 1
    assert names[1:] != ("some/reranker",) or RERANKER not in choice.notices[0]
    if hub and choice.encoder == BGE:
        assert MODELS[choice.encoder].query_instruction == BGE_ENGLISH_INSTRUCTION


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("none", "auto"), "there must be an encoder"),
        (("", "auto"), "there must be an encoder"),
        (("auto", " "), "the reranker is ' '"),
    ],
)
def test_names_of_which_nothing_can_be_chosen(choose, names, words):
    with pytest.raises(InvalidInput, match=words):
        choose(*names)


def test_cached_weights_need_no_hub(server, find, tmp_path):
    server.repos[BGE] = encoder_files()
    server.repos[RERANKER] = {
        "config.json": text(CLASSIFIER),
        "tokenizer.json": b"{}",
        "model.safetensors": b"w",
    }
    find(BGE)

    def choose(**options: Any):
        return choose_models(
            device="cpu", timeout_s=0.5, cache_dir=tmp_path / "hub", **options
        )  # fmt: skip

    half = choose(probe=lambda repo, seconds: False)
    assert (half.encoder, half.reranker) == ("starter", "starter")
    assert f"of {BGE}" not in half.notices[0], "only what is missing is named"
    find(RERANKER, "reranker")

    def never(repo: str, seconds: float) -> bool:
        raise AssertionError("nothing is missing, so nothing is asked")

    both = choose(probe=never)
    assert (both.encoder, both.reranker) == (BGE, RERANKER)
    assert "downloaded" not in both.notices[0]


def test_the_real_probe_asks_the_given_hub_and_keeps_the_deadline(server, silent, tmp_path):
    options: dict[str, Any] = {"device": "cpu", "cache_dir": tmp_path}
    server.repos[BGE] = encoder_files()
    assert choose_models(endpoint=server.url, **options).encoder == BGE
    assert [method for method, _ in server.requests] == ["HEAD"]
    started = time.monotonic()
    assert choose_models(endpoint=silent, timeout_s=0.5, **options).encoder == "starter"
    assert time.monotonic() - started < 2


def test_a_hub_that_is_silent_is_asked_once_a_day(server, silent, tmp_path, monkeypatch):
    memory = tmp_path / "memory" / "hub.json"
    monkeypatch.setattr(hub_silence, "place", lambda: memory)
    options: dict[str, Any] = {"device": "cpu", "cache_dir": tmp_path / "hub", "timeout_s": 0.5}
    first = choose_models(endpoint=silent, **options)
    assert "no model hub answered within 0.5 s" in first.notices[0]
    assert list(json.loads(memory.read_text())) == [f"{silent} {BGE}"]
    asked: list[str] = []
    monkeypatch.setattr(hub, "answers", lambda repo, *_: bool(asked.append(repo)))
    assert choose_models(endpoint=silent, **options).encoder == "starter"
    assert asked == []
    hours = 23 * 3600
    key = f"{silent} {BGE}"
    memory.write_text(json.dumps({key: time.time() - hours, f"{server.url} {BGE}": "damaged"}))
    again = choose_models(endpoint=silent, **options)
    assert "no model hub answered 23 hours ago (it is asked again after a day" in again.notices[0]
    memory.write_text(json.dumps({key: time.time() - 2 * hours}))
    choose_models(endpoint=silent, **options)
    assert asked == [BGE], "after a day it is asked"
    monkeypatch.undo()
    monkeypatch.setattr(hub_silence, "place", lambda: memory)
    server.repos[BGE] = encoder_files()
    memory.write_text(json.dumps({f"{server.url} {BGE}": time.time()}))
    assert choose_models(endpoint=server.url, **options).encoder == "starter"
    resolve(BGE, "encoder", endpoint=server.url, cache_dir=tmp_path / "hub")
    assert json.loads(memory.read_text()) == {}, "a model that is named is asked for, and came"
    memory.write_text("[1]")
    assert choose_models("auto", "none", endpoint=server.url, **options).encoder == BGE


def test_the_starters_encoder_takes_its_reranker_without_asking(tmp_path):
    def never(repo: str, seconds: float) -> bool:
        raise AssertionError("no hub is asked")

    for name in ("starter", "BAAI/bge-small-en-v1.5@int8-origin"):
        found = choose_models(name, "auto", device="cpu", cache_dir=tmp_path, probe=never)
        assert (found.encoder, found.reranker) == (name, "starter")


def test_what_is_named_is_kept_and_nothing_is_asked(tmp_path):
    def never(repo: str, seconds: float) -> bool:
        raise AssertionError("nothing is automatic, so nothing is asked")

    options: dict[str, Any] = {"device": "cpu", "cache_dir": tmp_path, "probe": never}
    named = choose_models("some/encoder", "some/reranker", **options)
    assert (named.encoder, named.reranker, named.notices) == ("some/encoder", "some/reranker", ())
    assert choose_models("some/encoder", "none", **options).reranker is None
