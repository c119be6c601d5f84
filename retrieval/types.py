"""The nouns and protocols of the library. Read this file first.

    INDEX   files ─read→ Document ─split→ Passage ─encode_passages→ vectors ─upsert→ Index
    SEARCH  query ─encode_queries→ Index.search → Candidate ─Reranker.score→ Hit

Everything here is plain data or a `typing.Protocol`; nothing here imports torch, qdrant or gradio.
Arrays are numpy: vectors are float32 and L2-normalised unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qdrant_client.models import Filter

FloatArray: TypeAlias = NDArray[np.float32]
"""float32 array; the docstring that uses it gives the shape."""

Mode: TypeAlias = Literal["dense", "sparse", "hybrid"]
"""First stage: vectors, BM25 terms, or both fused by reciprocal ranks (RRF)."""

Blend: TypeAlias = Literal["none", "rrf"]
"""Final order: the reranker's alone, or the reranker's and the first stage's fused by RRF."""

Where: TypeAlias = "Mapping[str, Any] | Filter"
"""A filter over passages: the mapping language of `retrieval.index.filters`, or a Qdrant filter."""

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called as `progress(done, total)` in units of texts or pairs, from the calling thread."""


# --- corpus ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader yields: one text with an id that is stable from run to run.

    `metadata` holds JSON values only; it can be filtered on with `where=`.
    `source` says where the text came from (a path, a path and line, a Python object's name).
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A slice of a document: the unit that is encoded, stored, found and re-ranked.

    `text == document.text[start:end]`, offsets in characters. `id` is the uuid5 of document id
    and position, so indexing twice writes the same points. `document_hash` and
    `document_passages` (how many passages the document has) let an interrupted run be continued.
    """

    id: str
    document_id: str
    position: int
    text: str
    start: int
    end: int
    title: str = ""
    headings: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    document_hash: str = ""
    document_passages: int = 1

    @property
    def content(self) -> str:
        """What the models read: title, headings and text, joined by a blank (BEIR's convention)."""
        return " ".join(part for part in (self.title, *self.headings, self.text) if part)


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of the input that could not be used, and why. `line` counts from 1."""

    source: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.reason}"


# --- models ---------------------------------------------------------------------------------

Pooling: TypeAlias = Literal["cls", "mean", "last"]
ModelKind: TypeAlias = Literal["encoder", "reranker"]
ScoreHead: TypeAlias = Literal["classification", "yes-logit", "layerwise-yes-logit", "maxsim"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What must be known of a model to run it correctly. `None` means not known.

    Encoders have `dimension`, `pooling`, `normalize` and the two instructions; rerankers have
    `score_head`. Instructions are put before the text verbatim: a trailing blank is part of them.
    `max_length` counts tokens, special tokens included. `matryoshka`: the shorter dimensions that
    the model was trained for (Kusupati et al. 2022), to which its vectors may be cut.
    """

    name: str
    kind: ModelKind
    max_length: int | None = None
    dimension: int | None = None
    pooling: Pooling | None = None
    normalize: bool = True
    query_instruction: str = ""
    passage_instruction: str = ""
    score_head: ScoreHead | None = None
    matryoshka: tuple[int, ...] = ()
    licence: str = ""
    languages: tuple[str, ...] = ()
    architecture: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that lies on this machine: its spec, its folder, and what identifies its weights.

    `fingerprint` is the same on every machine for the same weights and tokeniser
    (`sha256:…` over the files), whatever the folder is called.
    """

    spec: ModelSpec
    path: Path
    fingerprint: str


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What a collection must remember of the encoder that filled it."""

    model: str
    fingerprint: str
    dimension: int
    pooling: str
    normalize: bool
    query_instruction: str
    passage_instruction: str
    max_length: int


@dataclass(frozen=True, slots=True)
class RerankerInfo:
    """Which reranker scored: name, fingerprint, kind, and the blend it works best with."""

    model: str
    fingerprint: str
    kind: Literal["cross-encoder", "late-interaction"]
    max_length: int
    default_blend: Blend = "none"


@dataclass(frozen=True, slots=True)
class Encoding:
    """Passage vectors and what truncation cost.

    vectors: float32 (n, dimension). tokens: int (n,), length of each text in tokens before
    truncation, special tokens included. truncated: bool (n,).
    """

    vectors: FloatArray
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a reranker says of n pairs.

    values: raw scores, float64 (n,). truncated: bool (n,), which pairs were cut to max_length.
    tokens: int64 (n,), length of each pair in tokens before truncation, special tokens included;
    None where the reranker does not count them. spans: int64 (n, 2), character offsets in the
    passage of the window that gave the score; None where passages are read whole.
    """

    values: NDArray[np.float64]
    truncated: NDArray[np.bool_]
    tokens: NDArray[np.int64] | None = None
    spans: NDArray[np.int64] | None = None


class TokenCounter(Protocol):
    """What the splitter needs of an encoder's tokeniser."""

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of the text's tokens, without special tokens or truncation."""
        ...

    @property
    def special_tokens(self) -> int:
        """How many special tokens are put around one text."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A bi-encoder. Instructions are added here and nowhere else."""

    @property
    def info(self) -> EncoderInfo: ...

    @property
    def token_counter(self) -> TokenCounter: ...

    def encode_queries(
        self, queries: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> FloatArray:
        """float32 (n, dimension), with the query instruction put before each text."""
        ...

    def encode_passages(
        self, passages: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> Encoding:
        """Vectors of passages; never carries the query instruction."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """A second stage: scores (query, passage) pairs."""

    @property
    def info(self) -> RerankerInfo: ...

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """Raw scores, higher is better, in the order of `pairs`; queries may differ."""
        ...

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores mapped monotonically to [0, 1]: sigmoid for logits, clipped cosine for MaxSim."""
        ...


# --- index ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SplitterInfo:
    """How documents were split. `max_tokens` None: one passage per document."""

    max_tokens: int | None
    overlap_tokens: int
    version: int = 1


@dataclass(frozen=True, slots=True)
class Bm25Info:
    """How BM25 terms were made. `avg_len` is the document length, in terms, that scores assume."""

    language: str
    tokenizer: Literal["word", "multilingual"]
    avg_len: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """What built a collection. All fields but `created` must agree before anything is written."""

    collection: str
    encoder: EncoderInfo
    splitter: SplitterInfo
    bm25: Bm25Info
    created: str = ""
    format_version: int = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A first-stage result. `score` is a cosine, a BM25 score or an RRF score, by mode."""

    passage: Passage
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class DocumentState:
    """What an index holds of one document.

    `content_hash` is None while the stored passages are incomplete or of different versions.
    `source` is where it was read from.
    """

    content_hash: str | None
    passage_ids: frozenset[str]
    source: str = ""


class Index(Protocol):
    """A collection of passages in Qdrant: embedded (Edge) or on a server, with one meaning."""

    @property
    def collection(self) -> str: ...

    @property
    def manifest(self) -> Manifest: ...

    def upsert(self, passages: Sequence[Passage], vectors: FloatArray) -> None:
        """Write passages with their vectors (n, dimension); durable when it returns."""
        ...

    def search(
        self,
        *,
        mode: Mode,
        limit: int,
        vector: FloatArray | None = None,
        text: str | None = None,
        where: Where | None = None,
    ) -> list[Candidate]:
        """Best first, ties by passage id. `vector` (dimension,) for dense, `text` for sparse."""
        ...

    def delete_passages(self, passage_ids: Sequence[str]) -> None: ...

    def delete_documents(self, document_ids: Sequence[str]) -> None: ...

    def document_states(self) -> dict[str, DocumentState]: ...

    def passages(self) -> Iterator[Passage]:
        """Every passage, in id order."""
        ...

    def count(self, where: Where | None = None) -> int: ...

    def optimize(self) -> None:
        """Build the approximate index over what has been written so far."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


# --- results --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: the passage, its final rank (from 1), and what each stage said of it.

    `score` is what the final order follows: the raw reranker score, the blended RRF score, or
    the first stage's score where nothing was re-ranked. `relevance` is in [0, 1], or None where
    no stage has such a scale (BM25 or RRF scores alone). `best_span`: character offsets in
    `passage.text` of the part that the reranker scored highest, where it read the passage by
    windows.
    """

    passage: Passage
    rank: int
    score: float
    relevance: float | None
    stage1_rank: int
    stage1_score: float
    stage2_rank: int | None = None
    stage2_score: float | None = None
    best_span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per stage."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits in final order, with the candidates in first-stage order and how it all was done.

    `reranked`: how many of the candidates the second stage read; fewer than asked for where a time
    budget ended it.
    """

    query: str
    hits: tuple[Hit, ...]
    candidates: tuple[Candidate, ...]
    mode: Mode
    blend: Blend
    encoder: str
    reranker: str | None
    timings: Timings
    notices: tuple[str, ...] = ()
    reranked: int = 0


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an indexing run is. Totals are None until the source has been read to its end."""

    documents: int
    total_documents: int | None
    passages: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an indexing run did, in documents unless said otherwise."""

    collection: str
    read: int
    new: int
    changed: int
    unchanged: int
    failed: tuple[Problem, ...]
    passages: int
    tokens: int
    truncated_passages: int
    seconds: float
    notices: tuple[str, ...] = ()
