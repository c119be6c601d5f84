"""Models that compute each text once, however many settings are searched with them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from retrieval.types import (
    Encoder,
    EncoderInfo,
    Encoding,
    FloatArray,
    MultiEncoder,
    ProgressCallback,
    Reranker,
    RerankerInfo,
    Scores,
    TokenCounter,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RememberingEncoder:
    """An encoder that remembers vectors, and whose query instruction can be changed.

    Args:
        inner: loaded with an empty query instruction: this one puts its own before the texts.
        info: what a collection is to remember; its query instruction is used first.
        passages: whether passages' vectors are kept, too, in a temporary file, for another
            collection that has some of the same texts.

    Attributes:
        instruction: put before queries verbatim. `info` stays as it is: collections take their
            own encoder, whatever is tried on it.
        remembers: False computes every query anew, as a search of its own does.
    """

    def __init__(self, inner: Encoder, info: EncoderInfo, *, passages: bool = False) -> None:
        self.info = info
        self.instruction = info.query_instruction
        self.remembers = True
        self._inner = inner
        self._queries: dict[tuple[str, bool, bool], Any] = {}
        self._passages = _VectorFile(info.dimension) if passages else None

    @property
    def token_counter(self) -> TokenCounter:
        """The inner encoder's."""
        return self._inner.token_counter

    def encode_queries(
        self, queries: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> FloatArray:
        """Vectors with this instruction, each text computed once."""
        texts = [f"{self.instruction}{query}" for query in queries]
        if not self.remembers:
            return self._inner.encode_queries(texts)
        missing = [
            text for text in dict.fromkeys(texts) if (text, False, False) not in self._queries
        ]
        if missing:
            vectors = self._inner.encode_queries(missing, progress=progress)
            self._queries.update(
                {(t, False, False): v for t, v in zip(missing, vectors, strict=True)}
            )
        return np.stack([self._queries[text, False, False] for text in texts])

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """As the inner encoder; kept texts are read from the file."""
        if self._passages is None:
            return self._inner.encode_passages(passages, progress=progress)
        missing = self._passages.missing(passages)
        if missing:
            self._passages.add(missing, self._inner.encode_passages(missing, progress=progress))
        return self._passages.get(passages)

    def close(self) -> None:
        """Delete the file; the inner encoder is closed by whoever made it."""
        if self._passages is not None:
            self._passages.close()


class RememberingMultiEncoder(RememberingEncoder):
    """The same of an encoder that gives more than a vector a text."""

    def encode_all(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        """As the inner encoder; queries are remembered, passages are not."""
        inner = cast(MultiEncoder, self._inner)
        asked: dict[str, Any] = {"lexical": lexical, "token_vectors": token_vectors}
        if kind == "passage":
            return inner.encode_all(texts, kind, **asked, progress=progress)
        texts = [f"{self.instruction}{text}" for text in texts]
        if not self.remembers:
            return inner.encode_all(texts, kind, **asked)
        for text in dict.fromkeys(texts):  # one by one: how they are joined is the model's business
            if (text, lexical, token_vectors) not in self._queries:
                found = inner.encode_all([text], kind, **asked)
                self._queries[text, lexical, token_vectors] = found
        parts: list[Encoding] = [self._queries[text, lexical, token_vectors] for text in texts]
        return Encoding(
            vectors=np.concatenate([one.vectors for one in parts]),
            tokens=np.concatenate([one.tokens for one in parts]),
            truncated=np.concatenate([one.truncated for one in parts]),
            lexical=[one.lexical[0] for one in parts if one.lexical] if lexical else None,
            token_vectors=(
                [one.token_vectors[0] for one in parts if one.token_vectors]
                if token_vectors
                else None
            ),
        )


def remembering(inner: Encoder, info: EncoderInfo, *, passages: bool = False) -> RememberingEncoder:
    """A `RememberingEncoder` with as many outputs as the inner encoder."""
    kind = RememberingMultiEncoder if isinstance(inner, MultiEncoder) else RememberingEncoder
    return kind(inner, info, passages=passages)


class RememberingReranker:
    """A reranker that scores each pair of texts once; some 250 bytes a pair are kept.

    Attributes:
        inner: the reranker itself.
        cut: how many pairs it has read only in part.
    """

    def __init__(self, inner: Reranker) -> None:
        self.inner = inner
        self.cut = 0
        self._scores: dict[bytes, tuple[float, bool, tuple[int, int] | None]] = {}

    @property
    def info(self) -> RerankerInfo:
        """The inner reranker's."""
        return self.inner.info

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """The inner reranker's scores; of pairs that were scored before, those."""
        keys = [_key(*pair) for pair in pairs]
        missing = {
            key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._scores
        }
        if missing:
            new = self.inner.score(list(missing.values()), progress=progress)
            self.cut += int(new.truncated.sum())
            for row, key in enumerate(missing):
                span = (
                    None if new.spans is None else (int(new.spans[row, 0]), int(new.spans[row, 1]))
                )
                self._scores[key] = (float(new.values[row]), bool(new.truncated[row]), span)
        found = [self._scores[key] for key in keys]
        spans = [span for _, _, span in found if span is not None]
        return Scores(
            values=np.array([value for value, _, _ in found], dtype=np.float64),
            truncated=np.array([cut for _, cut, _ in found], dtype=np.bool_),
            spans=np.array(spans, dtype=np.int64) if spans else None,
        )

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """As the inner reranker."""
        return self.inner.relevance(scores)


class _VectorFile:
    """Vectors by text in a temporary file; in memory are a hash and a number for each text."""

    def __init__(self, dimension: int) -> None:
        self._row = np.dtype(
            [("vector", "<f4", (dimension,)), ("tokens", "<i8"), ("truncated", "?")]
        )
        self._file = tempfile.TemporaryFile(prefix="retrieval-vectors-")  # noqa: SIM115  (close())
        self._rows: dict[bytes, int] = {}

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that are not here, each once."""
        return [text for text in dict.fromkeys(texts) if _key(text) not in self._rows]

    def add(self, texts: Sequence[str], encoding: Encoding) -> None:
        rows = np.empty(len(texts), dtype=self._row)
        rows["vector"], rows["tokens"] = encoding.vectors, encoding.tokens
        rows["truncated"] = encoding.truncated
        self._file.seek(0, 2)
        self._file.write(rows.tobytes())
        self._file.flush()
        self._rows |= {_key(text): len(self._rows) + at for at, text in enumerate(texts)}

    def get(self, texts: Sequence[str]) -> Encoding:
        every = np.memmap(self._file, dtype=self._row, mode="r", shape=(len(self._rows),))
        found = every[[self._rows[_key(text)] for text in texts]]
        return Encoding(
            vectors=np.array(found["vector"], dtype=np.float32),
            tokens=np.array(found["tokens"]),
            truncated=np.array(found["truncated"]),
        )

    def close(self) -> None:
        self._file.close()


def _key(*texts: str) -> bytes:
    # surrogatepass: lone surrogates are not text, but two different ones are different
    joined = "\0".join((str(len(texts[0])), *texts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).digest()
