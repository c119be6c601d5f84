"""The folder of a trained or merged model: new in one rename, with the files of its source."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval._files import atomic_write, os_errors, sync_folder
from retrieval.errors import InvalidInput
from retrieval.models.model_folder import read_json, read_modules
from retrieval.models.sentence_files import write_encoder_files, write_reranker_files
from retrieval.models.weight_files import TOKENIZER_FILES
from retrieval.types import ModelSpec, ResolvedModel

_KEPT = (
    *TOKENIZER_FILES, "config.json", "generation_config.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template.jinja",
    "sentence_bert_config.json", "config_sentence_transformers.json", "modules.json",
)  # fmt: skip
"""What a new model takes from a folder; not its weights, card, or the state of a training."""

_NOTICES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
"""Taken from the first model that has one: folders of trained models often have none."""

_CONFIG_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@contextlib.contextmanager
def new_folder(out: Path, *, overwrite: bool, sources: Sequence[Path]) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends; gone after an error.

    Raises:
        InvalidInput: `out` holds files and `overwrite` is False, it is a file, or one of the
            sources lies in it.
        StoreDenied, DiskFull, StoreFault: it cannot be written.
    """
    out = out.absolute()
    check_place(out, overwrite=overwrite, sources=sources)
    with os_errors(f"write the folder {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            draft = Path(scratch) / "new"
            draft.mkdir()
            yield draft
            if out.is_symlink() or out.exists():
                out.rename(Path(scratch) / "old")
            draft.rename(out)
            sync_folder(out.parent)


def check_place(out: Path, *, overwrite: bool, sources: Sequence[Path]) -> None:
    """Refuse, before the work, a folder that must not be written. Raises: as `new_folder`."""
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"{out} is a file, expected a folder", fix="Name a folder; it is made.")
    with os_errors(f"read the folder {out}"):
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise InvalidInput(
                f"the folder {out} is not empty",
                fix="Name another, or replace it with overwrite=True (CLI: --overwrite).",
            )
    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise InvalidInput(
                f"the new model would replace {source}, which it is made from",
                fix="Name another folder.",
            )


def root_of(model: ResolvedModel) -> Path:
    """Where modules.json is: the transformer's folder, or the one above in an old layout."""
    above = model.path.parent
    if not (model.path / "modules.json").is_file():
        inner = [path for kind, path in read_modules(above) if kind == "Transformer"]
        if inner and above / inner[0] == model.path:
            return above
    return model.path


def copy_files(models: Sequence[ResolvedModel], folder: Path) -> None:
    """Copy what the first model's folder holds beside weights; of an old layout, into one folder.

    Raises:
        OSError: a file cannot be read or written.
    """
    source = models[0]
    for name in _NOTICES:
        found = [root_of(one) / name for one in models if (root_of(one) / name).is_file()]
        if found:
            shutil.copyfile(found[0], folder / name)
    root = root_of(source)
    for place in dict.fromkeys((root, source.path)):
        for name in _KEPT:
            if (place / name).is_file():
                shutil.copyfile(place / name, folder / name)
    for kind, part in read_modules(root):
        if kind != "Transformer" and part:
            (folder / part).mkdir(parents=True, exist_ok=True)
            for file in sorted((root / part).glob("*.json")):
                shutil.copyfile(file, folder / part / file.name)


def write_settings(folder: Path, spec: ModelSpec, dtype: str) -> None:
    """Write how the new model is run, and the number type of its weights.

    Raises:
        OSError: a file cannot be written.
    """
    config = read_json(folder / "config.json") or {}
    for key in ("dtype", "torch_dtype"):
        if key in config and dtype in _CONFIG_NAMES:
            config[key] = _CONFIG_NAMES[dtype]
    with atomic_write(folder / "config.json") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    if spec.kind == "encoder":
        write_encoder_files(folder, spec)
    elif spec.score_head == "classification":
        write_reranker_files(folder, spec)
