"""Collections: the manifest, the `Index` protocol, and first-stage results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

from retrieval.types.documents import Passage
from retrieval.types.models import EncoderInfo, FloatArray, LexicalWeights
from retrieval.types.modes import DBSF, Fusion, Mode
from retrieval.types.tuning import NO_TUNING, Tuning

if TYPE_CHECKING:
    from qdrant_client.models import Filter

Where: TypeAlias = "Mapping[str, Any] | Filter"
"""A filter over passages: the mapping language of `retrieval.index.filters`, or a Qdrant filter."""

FieldKind: TypeAlias = Literal["keyword", "number", "datetime"]
"""What a payload index is for: equality of text, ranges of numbers, ranges of dates."""

Quantization: TypeAlias = Literal["none", "int8", "binary"]


@dataclass(frozen=True, slots=True)
class SplitterInfo:
    """How documents were split. `max_tokens` None: one passage per document."""

    max_tokens: int | None
    overlap_tokens: int
    version: int = 1


@dataclass(frozen=True, slots=True)
class Bm25Info:
    """How BM25 terms were made.

    Attributes:
        language, tokenizer: by which words are told and stemmed.
        avg_len: the document length, in terms, that scores assume.
        version: of the rules; 1 is that of collections which do not say.
        folds: whether letters lose their accents.
    """

    language: str
    tokenizer: Literal["word", "multilingual"]
    avg_len: float
    version: int = 1
    folds: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """What a collection holds of a passage beside its dense vector and BM25 terms, and for whom.

    Attributes:
        lexical: whether the encoder's own term weights (bge-m3) are stored, too.
        token_dimension: of the token vectors that are stored for MaxSim to re-order first-stage
            results by; None stores none.
        tenants: every passage belongs to one tenant, and every call must name it.
    """

    lexical: bool = False
    token_dimension: int | None = None
    tenants: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """How an engine keeps a collection: speed, memory and recall, never what results mean.

    Attributes:
        quantization: of dense vectors, which are searched in short form and re-scored in full.
        oversampling: how many times `limit` vectors are re-scored.
        hnsw_m: links of each point in the graph (Malkov and Yashunin 2018).
        hnsw_ef_construct: search width while the graph is built.
        search_ef: search width of a query; None takes max(256, 2 × limit).
        on_disk: vectors, graph and payloads are read from disk as needed, not held in memory.
        fields: payload fields that have an index, named as in `where`, with their kinds.
        shards, replicas, write_consistency: of a Qdrant server; None takes the server's own.
    """

    quantization: Quantization = "int8"
    oversampling: float = 2.0
    hnsw_m: int = 16
    hnsw_ef_construct: int = 128
    search_ef: int | None = None
    on_disk: bool = False
    fields: Mapping[str, FieldKind] = field(default_factory=dict)
    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What built a collection, and how it is searched. All fields but `created`, `id`,
    `format_version` and `tuning` must agree before anything is written.

    Attributes:
        collection: the name it is searched by, also where several versions of it exist.
        encoder: the model that made the vectors.
        splitter: how documents were split into passages.
        bm25: how BM25 terms were made.
        layout: what is stored of a passage.
        storage: how the engine keeps it.
        created: when it was made, in ISO 8601 and UTC.
        format_version: of payloads, vectors and this manifest.
        id: random hex digits, made anew with every collection and version, so that one that was
            deleted and made again under the same name is told from what it replaced; empty in
            format 2, which knew none. A copy gets its own, a restored backup keeps its.
        tuning: what was decided on the collection's own data; it can be changed at any time.
    """

    collection: str
    encoder: EncoderInfo
    splitter: SplitterInfo
    bm25: Bm25Info
    layout: Layout = Layout()
    storage: Storage = Storage()
    created: str = ""
    format_version: int = 3
    id: str = ""
    tuning: Tuning = NO_TUNING


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """One query as an index reads it; what its mode does not need may be None.

    Attributes:
        vector: float32 (dimension,).
        text: for BM25.
        lexical: the encoder's term weights.
        token_vectors: float32 (tokens, d), for MaxSim over stored token vectors.
    """

    vector: FloatArray | None = None
    text: str | None = None
    lexical: LexicalWeights | None = None
    token_vectors: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A first-stage result. `score` is a cosine, a BM25 score, a fused score or MaxSim, by mode."""

    passage: Passage
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class DocumentState:
    """What an index holds of one document.

    Attributes:
        content_hash: of the document; None while its passages are incomplete or of different
            versions.
        passage_ids: ids of all its passages.
        source: where it was read from.
        agreed: whether all copies of its passages are the same; a document of which they are not
            has no `content_hash`.
    """

    content_hash: str | None
    passage_ids: frozenset[str]
    source: str = ""
    agreed: bool = True


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """How a collection is doing, as its engine sees it.

    Attributes:
        points: stored passages.
        indexed: how many of their dense vectors the approximate index holds.
        segments: parts that the engine keeps the collection in.
        state: "ok", "optimizing" (results are right, some searches slower) or "failed".
        fields: payload paths that have an index.
        disk_bytes: space that the collection takes on its disk; None where the engine does not
            say.
        free_bytes: space that is left on that disk; None where the engine does not say.
        notes: what is wrong, in sentences.
    """

    points: int
    indexed: int
    segments: int
    state: Literal["ok", "optimizing", "failed"]
    fields: tuple[str, ...] = ()
    disk_bytes: int | None = None
    free_bytes: int | None = None
    notes: tuple[str, ...] = ()


class Index(Protocol):
    """A collection of passages in Qdrant: embedded (Edge) or on a server, with one meaning.

    `tenant` must be given to every call where `manifest.layout.tenants`, and to none elsewhere;
    one tenant never sees, counts, replaces or deletes another's passages, whatever their ids.
    """

    @property
    def collection(self) -> str: ...

    @property
    def physical(self) -> str:
        """The version of the collection that this is: `docs@v1`, `docs@v2`."""
        ...

    @property
    def manifest(self) -> Manifest: ...

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: FloatArray,
        *,
        lexical: Sequence[LexicalWeights] | None = None,
        token_vectors: Sequence[FloatArray] | None = None,
        tenant: str | None = None,
    ) -> None:
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
        tenant: str | None = None,
    ) -> list[Candidate]:
        """Best first, ties by passage id. `vector` (dimension,) for dense, `text` for sparse."""
        ...

    def search_batch(
        self,
        queries: Sequence[IndexQuery],
        *,
        mode: Mode,
        limit: int,
        where: Where | None = None,
        fusion: Fusion = DBSF,
        refine: int | None = None,
        exact: bool = False,
        min_score: float | None = None,
        tenant: str | None = None,
    ) -> list[list[Candidate]]:
        """`search` for many queries in one call.

        refine: how many first-stage results MaxSim over stored token vectors re-orders, of which
        the best `limit` stay. exact: compare with every vector instead of the approximate index.
        min_score: what scores lower is left out, before `refine`.
        """
        ...

    def vectors(
        self, passage_ids: Sequence[str], *, tenant: str | None = None
    ) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by passage id; ids that are not stored are left out."""
        ...

    def neighbours(
        self, passages: Sequence[Passage], width: int, *, tenant: str | None = None
    ) -> dict[str, tuple[tuple[Passage, ...], tuple[Passage, ...]]]:
        """By passage id, up to `width` passages of the same document before and after it."""
        ...

    def delete_passages(self, passage_ids: Sequence[str], *, tenant: str | None = None) -> None: ...

    def delete_documents(
        self, document_ids: Sequence[str], *, tenant: str | None = None
    ) -> None: ...

    def clear_leftovers(self, lengths: Mapping[str, int], *, tenant: str | None = None) -> None:
        """Before documents are written that are not stored: delete what copies may have of them.

        lengths: by document id, how many passages it is going to have.
        """
        ...

    def delete_stale(
        self,
        passage_ids: Sequence[str],
        lengths: Mapping[str, int],
        *,
        tenant: str | None = None,
    ) -> None:
        """After documents were written anew: delete passages that they no longer have.

        passage_ids: those that were seen. lengths: by document id, how many passages it has now.
        """
        ...

    def document_states(
        self, document_ids: Sequence[str] | None = None, *, tenant: str | None = None
    ) -> dict[str, DocumentState]:
        """What is stored of these documents, or of all; documents not stored are left out."""
        ...

    def document_passages(
        self, document_ids: Sequence[str], *, tenant: str | None = None
    ) -> dict[str, tuple[Passage, ...]]:
        """All that is stored of these documents, by position; those not stored are left out."""
        ...

    def document_sources(self, *, tenant: str | None = None) -> Iterator[tuple[str, str]]:
        """(document id, source) of every passage, a page at a time; documents repeat."""
        ...

    def passages(self, *, tenant: str | None = None) -> Iterator[Passage]:
        """Every passage, in id order."""
        ...

    def count(self, where: Where | None = None, *, tenant: str | None = None) -> int: ...

    def optimize(self) -> None:
        """Build the approximate index over what has been written so far."""
        ...

    def status(self) -> IndexStatus: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
