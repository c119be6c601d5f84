"""What identifies a model's weights: one digest over weights, tokeniser and configuration.

Independent of the folder's name, of the machine, and of the keys that saving tools rewrite
(library versions, number formats, paths). Digests of large files are remembered in a small file,
so that opening a collection does not read gigabytes again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write
from retrieval.errors import ModelFault

# The tokeniser's own file holds everything; the older ones count only where it is absent.
_TOKENIZER = "tokenizer.json"
_OLD_TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
# Keys that change with the tool that saved the files and not with what the model computes.
_VOLATILE = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "gradient_checkpointing",
        "special_tokens_map_file",
        "tokenizer_file",
        "_commit_hash",
    }
)
_REMEMBER_BYTES = 1 << 20  # smaller files are read faster than remembered
_REMEMBER_ENTRIES = 256
_SETTLED_SECONDS = 2.0  # a file changed this recently may change again within one clock tick
_FORMAT = "1"


def fingerprint(folder: Path, weights: Sequence[Path], *, cache: Path | None = None) -> str:
    """`sha256:…` over what decides a model's output.

    Args:
        folder: where config.json and the tokeniser are.
        weights: the weight files that will be loaded, shards in order.
        cache: the file that remembers digests; None is `default_cache()`.

    Raises:
        ModelFault: a file cannot be read.
    """
    memory = _Memory(default_cache() if cache is None else cache)
    lines = [f"format {_FORMAT}"]
    try:
        # Shards are numbered by their order: their names differ from tool to tool.
        lines += [f"weights {i} {memory.digest(file)}" for i, file in enumerate(weights)]
        tokenizer = folder / _TOKENIZER
        if tokenizer.is_file():
            lines.append(f"{_TOKENIZER} {memory.digest(tokenizer)}")
        else:
            lines += [
                f"{name} {memory.digest(folder / name)}"
                for name in _OLD_TOKENIZER
                if (folder / name).is_file()
            ]
        lines += [
            f"{name} {_config_digest(folder / name)}"
            for name in ("config.json", "tokenizer_config.json")
            if (folder / name).is_file()
        ]
    except OSError as error:
        raise ModelFault(
            f"the model file {error.filename} cannot be read ({error.strerror})",
            fix="Check the file's permissions and the disk, or fetch the model again.",
        ) from error
    memory.save()
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def default_cache() -> Path | None:
    """Where digests are remembered for this user; None where there is no home folder."""
    try:
        return Path.home() / ".cache" / "two-stage-retrieval" / "fingerprints.json"
    except RuntimeError:
        return None


def _config_digest(path: Path) -> str:
    """Digest of a JSON file's meaning: sorted keys, without the volatile ones at the top."""
    raw = path.read_bytes()
    try:
        parsed = json.loads(raw)
    except ValueError:
        return hashlib.sha256(raw).hexdigest()
    if isinstance(parsed, dict):
        parsed = {key: value for key, value in parsed.items() if key not in _VOLATILE}
    canonical = json.dumps(parsed, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class _Memory:
    """Digests of large files, keyed by path and believed while size, times and inode agree."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._changed = False
        self._entries: dict[str, Any] = {}
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                loaded = json.loads(path.read_text("utf-8"))
                if isinstance(loaded, dict) and loaded.get("format") == _FORMAT:
                    entries = loaded.get("files")
                    self._entries = dict(entries) if isinstance(entries, dict) else {}

    def digest(self, file: Path) -> str:
        real = file.resolve()
        before = real.stat()
        if before.st_size < _REMEMBER_BYTES:
            return _digest(real)
        state = [before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
        known = self._entries.get(str(real))
        if isinstance(known, dict) and known.get("state") == state:
            digest = known.get("sha256")
            if isinstance(digest, str) and len(digest) == 64:
                return digest
        digest = _digest(real)
        after = real.stat()
        settled = time.time() - max(after.st_mtime, after.st_ctime) > _SETTLED_SECONDS
        if settled and (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            self._entries.pop(str(real), None)  # the newest go last, and the oldest are dropped
            self._entries[str(real)] = {"state": state, "sha256": digest}
            self._changed = True
        return digest

    def save(self) -> None:
        """Write what was learned. Never an error: the next run reads the weights again."""
        if self._path is None or not self._changed:
            return
        kept = dict(list(self._entries.items())[-_REMEMBER_ENTRIES:])
        text = json.dumps({"format": _FORMAT, "files": kept}, indent=1)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path, permissions=0o600) as out:
                out.write(text)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
