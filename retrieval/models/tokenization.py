"""Text → token ids, the same for encoders, cross-encoders and late interaction.

The tokeniser is the model folder's own fast one. Special tokens are put around the text here, after
truncation, so that a cut text keeps its final `[SEP]` or `</s>`, and so that each text is read
once: its full length is known without a second pass, and truncation can be reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelNotFound
from retrieval.models import cache
from retrieval.models.cache import entry_key, find, keep
from retrieval.models.checks import check_pairs, check_texts
from retrieval.models.engines.base import TokenBatch
from retrieval.models.folder import has_tokenizer, read_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer

__all__ = ["Tokenized", "Tokenizer", "check_pairs", "check_texts"]

SLICE = 512
"""Texts handed to the Rust side at once: Ctrl-C is noticed and memory freed between slices."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of n texts or pairs, flat, special tokens included.

    ids: int32 (total,), row i is `ids[offsets[i]:offsets[i + 1]]`. offsets: int64 (n + 1,).
    type_ids: int8 (total,), or None where all are zero. full_lengths: int64 (n,), tokens before
    truncation, special tokens included. truncated: bool (n,).
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    type_ids: NDArray[np.int8] | None
    full_lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (n,): tokens after truncation, special tokens included."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> NDArray[np.int32]:
        """int32 (length,): the ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens around one text or a pair, learnt from the tokeniser itself.

    before, between, after: ids. types: the type id of before, first, between, second, after.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class Tokenizer:
    """The fast tokeniser of a model folder, cut to `max_length` tokens.

    Args:
        path: a model folder with the tokeniser's files.
        max_length: the longest input in tokens, special tokens included.
        cache_dir: where the tokeniser is kept for a quick start; None for the user's cache folder.

    Raises:
        ModelNotFound: the folder has no tokeniser, or is no model folder.
        InvalidInput: `max_length` is below 8 or above what the model has positions for.
    """

    def __init__(self, path: Path, max_length: int, *, cache_dir: Path | None = None) -> None:
        path = Path(path)
        limit = read_folder(path).position_limit
        if max_length < 8 or (limit is not None and max_length > limit):
            raise InvalidInput(
                f"max_length={max_length} was given for the model in {path}, "
                + (f"which reads 8 to {limit} tokens" if limit else "expected at least 8 tokens"),
                fix="Choose a max_length in that range, or leave it out for the model's own.",
            )
        self.max_length = max_length
        self._backend, self.pad_id, self._with_types = _load_backend(
            path, cache.default_cache_dir() if cache_dir is None else cache_dir
        )
        self._single = self._learn_template("a", None)
        self._pair = self._learn_template("a", "b")
        self._prefix_lengths: dict[str, int] = {}

    @property
    def special_tokens(self) -> int:
        """How many special tokens are put around one text."""
        return self._single.size

    def encode(self, texts: Sequence[str], prefix: str = "") -> Tokenized:
        """Token ids of each text, with `prefix` put before it verbatim.

        Raises:
            InvalidInput: an element is not a str, or the prefix alone fills `max_length`.
        """
        check_texts(texts)
        room = self.max_length - self._single.size
        if prefix and self._prefix_length(prefix) >= room:
            raise InvalidInput(
                f"the instruction {prefix[:60]!r} has {self._prefix_length(prefix)} tokens, "
                f"but max_length={self.max_length} leaves {room} for it and the text together",
                fix="Give a shorter instruction or a larger max_length.",
            )
        builder = _Builder(self._single)
        for ids in self._bare_ids(texts, prefix):
            builder.add(ids[:room], (), full=len(ids) + self._single.size)
        return builder.finish(self.pad_id, with_types=self._with_types)

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> Tokenized:
        """Token ids of (query, passage) pairs, cut so that the query survives.

        The query keeps at most three quarters of `max_length` and always leaves the passage a
        token; then only the passage is cut. This is what FlagReranker does (`only_second`).
        A text that occurs in many pairs is read once.

        Raises:
            InvalidInput: an element is not a pair of str.
        """
        check_pairs(pairs)
        size = self._pair.size
        query_room = min(self.max_length * 3 // 4, self.max_length - size - 1)
        queries, query_of = _unique([query for query, _ in pairs])
        passages, passage_of = _unique([passage for _, passage in pairs])
        query_ids = list(self._bare_ids(queries))
        passage_ids = list(self._bare_ids(passages))
        builder = _Builder(self._pair)
        for query_index, passage_index in zip(query_of, passage_of, strict=True):
            first, second = query_ids[query_index], passage_ids[passage_index]
            kept = first[:query_room]
            room = self.max_length - size - len(kept)
            builder.add(kept, second[:room], full=len(first) + len(second) + size)
        return builder.finish(self.pad_id, with_types=self._with_types)

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of the text's tokens, without special tokens or truncation."""
        check_texts([text])
        encoding = self._backend.encode(_clean(text), add_special_tokens=False)
        return np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def pad(self, indices: NDArray[np.int64], tokenized: Tokenized) -> TokenBatch:
        """The rows `indices` as one batch, padded on the right to the longest of them."""
        lengths = tokenized.lengths[indices]
        columns = np.arange(int(lengths.max()))
        mask = columns[None, :] < lengths[:, None]
        source = (tokenized.offsets[indices][:, None] + columns[None, :])[mask]
        input_ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        input_ids[mask] = tokenized.ids[source]
        type_ids = None
        if tokenized.type_ids is not None:
            type_ids = np.zeros(mask.shape, dtype=np.int64)
            type_ids[mask] = tokenized.type_ids[source]
        return TokenBatch(input_ids, mask.astype(np.int64), type_ids)

    def _bare_ids(self, texts: Sequence[str], prefix: str = "") -> Iterator[list[int]]:
        for start in range(0, len(texts), SLICE):
            batch = [_clean(prefix + text) for text in texts[start : start + SLICE]]
            for encoding in self._backend.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def _prefix_length(self, prefix: str) -> int:
        if prefix not in self._prefix_lengths:
            self._prefix_lengths[prefix] = len(next(self._bare_ids([prefix])))
        return self._prefix_lengths[prefix]

    def _learn_template(self, first: str, second: str | None) -> _Template:
        encoding = self._backend.encode(first, second)
        parts: list[list[int]] = [[], [], [], [], []]
        types: list[list[int]] = [[], [], [], [], []]
        place = 0
        for token, kind, sequence in zip(
            encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
        ):
            if sequence == 0:
                place = 1
            elif sequence == 1:
                place = 3
            elif place in (1, 3):
                place = 4 if second is None else place + 1
            parts[place].append(token)
            types[place].append(kind)
        return _Template(
            before=tuple(parts[0]),
            between=tuple(parts[2]),
            after=tuple(parts[4]),
            types=(
                tuple(types[0]),
                types[1][0] if types[1] else 0,
                tuple(types[2]),
                types[3][0] if types[3] else 0,
                tuple(types[4]),
            ),
        )


class _Builder:
    """Puts truncated ids between special tokens and lays the rows out flat."""

    def __init__(self, template: _Template) -> None:
        self._template = template
        self._rows: list[NDArray[np.int32]] = []
        self._types: list[NDArray[np.int8]] = []
        self._full: list[int] = []
        self._typed = any(np.any(np.asarray(kind, dtype=np.int64) != 0) for kind in template.types)

    def add(self, first: Sequence[int], second: Sequence[int], *, full: int) -> None:
        t = self._template
        row = [*t.before, *first, *t.between, *second, *t.after]
        self._rows.append(np.asarray(row, dtype=np.int32))
        self._full.append(full)
        if self._typed:
            before, of_first, between, of_second, after = t.types
            kinds = [*before, *[of_first] * len(first), *between]
            kinds += [*[of_second] * len(second), *after]
            self._types.append(np.asarray(kinds, dtype=np.int8))

    def finish(self, pad_id: int, *, with_types: bool) -> Tokenized:
        # A tokeniser without special tokens makes nothing of an empty text, but a model needs a
        # position to look at: one padding token gives such texts one stable vector.
        for i, row in enumerate(self._rows):
            if not len(row):
                self._rows[i] = np.asarray([pad_id], dtype=np.int32)
                if self._typed:
                    self._types[i] = np.zeros(1, dtype=np.int8)
        lengths = np.asarray([len(row) for row in self._rows], dtype=np.int64)
        full = np.maximum(np.asarray(self._full, dtype=np.int64), lengths)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        empty_ids: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        types: NDArray[np.int8] | None = None
        if self._typed and with_types:
            types = np.concatenate(self._types) if self._types else np.zeros(0, dtype=np.int8)
        return Tokenized(
            ids=np.concatenate(self._rows) if self._rows else empty_ids,
            offsets=offsets,
            type_ids=types,
            full_lengths=full,
            truncated=full > lengths,
        )


def _load_backend(path: Path, cache_dir: Path | None) -> tuple[BackendTokenizer, int, bool]:
    """The Rust tokeniser without truncation or padding, the padding id, and: type ids used?

    transformers decides what the tokeniser is, as it does for everyone who uses the model; what it
    decided is kept, for importing it takes seconds.
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
            f"({type(error).__name__}: {_first_line(error)})",
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


def _clean(text: str) -> str:
    """`text` with lone surrogates, which are not text, as U+FFFD: length and offsets stay."""
    if text.isascii():
        return text
    return _SURROGATE.sub("\ufffd", text)


def _unique(texts: list[str]) -> tuple[list[str], list[int]]:
    places: dict[str, int] = {}
    indices = [places.setdefault(text, len(places)) for text in texts]
    return list(places), indices


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
