"""The fingerprint follows what a model computes, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from retrieval.errors import ModelFault
from retrieval.models.fingerprint import fingerprint

BIG = 3 << 20  # bytes; large enough for its digest to be remembered


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.safetensors").write_bytes(os.urandom(BIG))
    (made / "tokenizer.json").write_text('{"version": "1.0"}')
    (made / "config.json").write_text(json.dumps({"hidden_size": 4, "_name_or_path": "a"}))
    (made / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    age(made)
    return made


def age(folder: Path) -> None:
    """Let the files look as if written an hour ago, where their own change time allows it."""
    for file in folder.iterdir():
        os.utime(file, (time.time() - 3600, time.time() - 3600))


def mark(folder: Path, cache: Path | None = None) -> str:
    memory = folder.parent / "digests.json" if cache is None else cache
    return fingerprint(folder, [folder / "model.safetensors"], cache=memory)


def test_it_is_a_sha256_and_does_not_depend_on_the_folder(folder, tmp_path):
    first = mark(folder)
    assert len(first) == len("sha256:") + 64
    assert first.startswith("sha256:")
    copy = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(folder, copy)
    assert mark(copy) == first


def test_what_saving_tools_rewrite_does_not_count(folder):
    first = mark(folder)
    config = {"transformers_version": "9", "dtype": "float32", "hidden_size": 4}
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    (folder / "README.md").write_text("new")
    (folder / "vocab.txt").write_text("beside tokenizer.json it is not read")
    assert mark(folder) == first


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"x" * BIG),
        ("tokenizer.json", b'{"version": "2.0"}'),
        ("config.json", b'{"hidden_size": 5}'),
        ("tokenizer_config.json", b'{"do_lower_case": false}'),
    ],
)
def test_every_part_that_matters_counts(folder, name, content):
    first = mark(folder)
    (folder / name).write_bytes(content)
    assert mark(folder) != first


def test_old_tokenizers_count_where_there_is_no_tokenizer_json(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("a")
    first = mark(folder)
    (folder / "vocab.txt").write_text("b")
    assert mark(folder) != first


def test_digests_of_settled_files_are_remembered_and_others_are_not(folder, tmp_path):
    memory = tmp_path / "state" / "digests.json"
    first = mark(folder, memory)
    assert not memory.exists(), "a file changed just now may change again within one clock tick"
    time.sleep(2.2)  # the change time of a file cannot be set, only waited for
    assert mark(folder, memory) == first
    entries = json.loads(memory.read_text())["files"]
    assert list(entries) == [str((folder / "model.safetensors").resolve())]

    # What is remembered is used: a changed memory changes the answer ...
    (entry,) = entries.values()
    entry["sha256"] = "0" * 64
    memory.write_text(json.dumps({"format": "1", "files": entries}))
    assert mark(folder, memory) != first
    # ... until the file changes, even to the same size and modification time.
    stat = (folder / "model.safetensors").stat()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content)
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert mark(folder, memory) == first


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "0"}', '{"format": "1", "files": 3}'])
def test_a_damaged_memory_is_ignored(folder, tmp_path, damage):
    memory = tmp_path / "digests.json"
    first = mark(folder, memory)
    memory.write_text(damage)
    assert mark(folder, memory) == first


def test_a_memory_that_cannot_be_written_is_no_error(folder, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    os.utime(folder / "model.safetensors", (1, 1))
    time.sleep(2.2)
    assert mark(folder, blocked / "digests.json") == mark(folder)
    assert blocked.read_text() == "in the way"


def test_a_file_that_vanished_is_named(folder):
    with pytest.raises(ModelFault, match=r"model\.safetensors cannot be read"):
        fingerprint(folder.parent, [folder.parent / "model.safetensors"], cache=None)
