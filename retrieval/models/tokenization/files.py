"""From a model folder's files to its fast tokeniser, and the fingerprint that identifies it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import ModelNotFound, first_line
from retrieval.models.cache_dir import entry_key, find, keep
from retrieval.models.weight_files import has_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer


def load_backend(path: Path, cache_dir: Path | None) -> tuple[BackendTokenizer, int, bool]:
    """The Rust tokeniser without truncation or padding, the padding id, and: type ids used?

    transformers decides what the tokeniser is, as it does for everyone who uses the model; what it
    decided is kept, for importing it takes seconds.

    Args:
        path: a model folder.
        cache_dir: where it is kept; None keeps nothing.

    Raises:
        ModelNotFound: the folder has no tokeniser that can be used.
    """
    entry = None
    if cache_dir is not None:
        files = [file for file in path.iterdir() if file.suffix in {".json", ".txt", ".model"}]
        entry = cache_dir / f"tokenizer-{entry_key(files, 1, version('transformers'))}"
    kept = find(entry)
    if kept is None:
        backend, pad_id, with_types = _resolve_backend(path)
        text = backend.to_str()
        settings = json.dumps({"pad_id": pad_id, "with_types": with_types})

        def write(folder: Path) -> None:
            (folder / "tokenizer.json").write_text(text, "utf-8")
            (folder / "settings.json").write_text(settings, "utf-8")

        keep(entry, write, size=len(text))
        return backend, pad_id, with_types
    from tokenizers import Tokenizer as Backend

    settings = json.loads((kept / "settings.json").read_text("utf-8"))
    backend = Backend.from_file(str(kept / "tokenizer.json"))
    return backend, int(settings["pad_id"]), bool(settings["with_types"])


def _resolve_backend(path: Path) -> tuple[BackendTokenizer, int, bool]:
    # transformers would make up a tokeniser of five tokens where there is none.
    if not has_tokenizer(path):
        raise ModelNotFound(
            f"the model folder {path} has no tokeniser (tokenizer.json or a vocabulary)",
            fix="Save the tokeniser beside the model, or fetch the model again.",
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # the one boundary: whatever transformers raises
        raise ModelNotFound(
            f"the model folder {path} has no tokeniser that can be read "
            f"({type(error).__name__}: {first_line(error)})",
            fix="Give a folder that holds tokenizer.json beside config.json.",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelNotFound(
            f"the model folder {path} has only a slow tokeniser ({type(tokenizer).__name__})",
            fix="Give a folder that holds a fast tokeniser, tokenizer.json.",
        )
    # Some tokenizer.json files, all-MiniLM-L6-v2's among them, come with both switched on.
    backend.no_truncation()
    backend.no_padding()
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        pad_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    return backend, int(pad_id), "token_type_ids" in tokenizer.model_input_names
