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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound
from retrieval.models.engines.base import TokenBatch

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer

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

    Raises:
        ModelNotFound: the folder has no tokeniser.
        InvalidInput: `max_length` is below 8 or above what the model has positions for.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        path = Path(path)
        limit = position_limit(path)
        if max_length < 8 or (limit is not None and max_length > limit):
            raise InvalidInput(
                f"max_length={max_length} was given for the model in {path}, "
                + (f"which reads 8 to {limit} tokens" if limit else "expected at least 8 tokens"),
                fix="Choose a max_length in that range, or leave it out for the model's own.",
            )
        self.max_length = max_length
        self._backend, self.pad_id, self._with_types = _load_backend(path)
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
        self._typed = any(
            np.any(np.asarray(kind, dtype=np.int64) != 0) for kind in template.types
        )

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


def check_texts(texts: Sequence[str], what: str = "text") -> None:
    """Raise InvalidInput unless `texts` is a sequence of str, naming the first that is not."""
    if isinstance(texts, str | bytes):
        raise InvalidInput(
            f"a single {type(texts).__name__} was given where a list of {what}s is expected",
            fix=f"Put the {what} into a list.",
        )
    try:
        items = enumerate(texts)
    except TypeError:
        raise InvalidInput(
            f"{type(texts).__name__} was given where a list of {what}s is expected",
            fix="Give a list of str.",
        ) from None
    for index, text in items:
        if not isinstance(text, str):
            raise InvalidInput(
                f"{what} {index} is of type {type(text).__name__}, expected str",
                fix=f"Remove it or turn it into a str before encoding the {what}s.",
            )


def check_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Raise InvalidInput unless `pairs` is a sequence of (str, str)."""
    if isinstance(pairs, str | bytes):
        raise InvalidInput(
            f"a single {type(pairs).__name__} was given where (query, passage) pairs are expected",
            fix="Give a list of (query, passage) tuples.",
        )
    for index, pair in enumerate(pairs):
        if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidInput(
                f"pair {index} is {_describe(pair)}, expected a (query, passage) tuple",
                fix="Give a list of (query, passage) tuples of str.",
            )
        for name, text in zip(("query", "passage"), pair, strict=True):
            if not isinstance(text, str):
                raise InvalidInput(
                    f"the {name} of pair {index} is of type {type(text).__name__}, expected str",
                    fix="Remove the pair or turn both of its texts into str.",
                )


def position_limit(path: Path) -> int | None:
    """The longest input, in tokens, that the model in `path` has positions for; None if unbounded.

    RoBERTa's family counts positions from the padding id on, so 514 positions take 512 tokens.
    """
    config = _read_config(path)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        return positions - int(config.get("pad_token_id") or 0) - 1
    return positions


_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "ibert"}
)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(
            f"{path} has no config.json, so it is not a model folder",
            fix="Give a folder as saved by transformers or sentence-transformers.",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelFault(
            f"{path / 'config.json'} cannot be read: {error}",
            fix="Download or save the model again.",
        ) from error
    if not isinstance(config, dict):
        raise ModelFault(
            f"{path / 'config.json'} holds no JSON object",
            fix="Download or save the model again.",
        )
    return config


def _load_backend(path: Path) -> tuple[BackendTokenizer, int, bool]:
    """The Rust tokeniser without truncation or padding, the padding id, and: type ids used?"""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # noqa: BLE001  the one boundary: whatever transformers raises
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


def _describe(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
