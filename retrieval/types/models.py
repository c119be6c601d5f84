"""Models: specs, the two protocols, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:  # the command line's help reads types, and must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

FloatArray: TypeAlias = "NDArray[np.float32]"
"""float32 array; the docstring that uses it gives the shape."""

Blend: TypeAlias = Literal["none", "rrf", "scores"]
"""Final order: the reranker's alone, or joined with the first stage's: ranks fused by RRF, or
scores brought to one scale and summed (see `retrieval.search.hits.reranked_hits`)."""

BlendChoice: TypeAlias = Literal["auto", "none", "rrf", "scores"]
"""What can be asked for; "auto" is what was measured to be best for the reranker and the mode."""

Reading: TypeAlias = Literal["full", "excerpts"]
"""What the second stage reads of a candidate: all of it, or the part that fits the query best."""

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called as `progress(done, total)` in units of texts or pairs, from the calling thread."""

Pooling: TypeAlias = Literal["cls", "mean", "last"]
ModelKind: TypeAlias = Literal["encoder", "reranker"]
ScoreHead: TypeAlias = Literal[
    "classification",
    "yes-logit",
    "layerwise-yes-logit",
    "chat-logit",
    "chat-classification",
    "maxsim",
]
"""How a reranker's files become one number; docs/models.md says what each of them is."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What must be known of a model to run it correctly. `None` means not known.

    Encoders have `dimension`, `pooling`, `normalize` and the two instructions; rerankers have
    `score_head`. Instructions are put before the text verbatim: a trailing blank is part of them.
    `query_suffix` is put behind a query, and `query_examples` before its instruction, likewise.
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
    query_suffix: str = ""
    query_examples: str = ""
    score_head: ScoreHead | None = None
    matryoshka: tuple[int, ...] = ()
    licence: str = ""
    languages: tuple[str, ...] = ()
    architecture: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is on this machine: its spec, its folder, and what identifies its weights.

    `fingerprint` is the same on every machine for the same weights and tokeniser
    (`sha256:…` over the files), whatever the folder is called.
    """

    spec: ModelSpec
    path: Path
    fingerprint: str


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What a collection must remember of the encoder that filled it.

    `max_length` is that of a passage; a query's examples come on top of it.
    """

    model: str
    fingerprint: str
    dimension: int
    pooling: str
    normalize: bool
    query_instruction: str
    passage_instruction: str
    max_length: int
    query_suffix: str = ""
    query_examples: str = ""

    def query_text(self, query: str) -> str:
        """What `max_length` is counted of: the query, with what stands before and behind it."""
        return f"{self.query_instruction}{query}{self.query_suffix}"


@dataclass(frozen=True, slots=True)
class RerankerInfo:
    """Which reranker scored: name, fingerprint, kind, and how a search uses it that says nothing.

    default_blend, default_read: how both stages' orders are joined, and what is read of a
    candidate. default_tokens: how many it reads for a query, as far as this machine was measured;
    None for no limit.
    """

    model: str
    fingerprint: str
    kind: Literal["cross-encoder", "late-interaction"]
    max_length: int
    default_blend: Blend = "none"
    default_read: Reading = "full"
    default_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class LexicalWeights:
    """How much each token of a text matters: a sparse vector over the vocabulary.

    indices: int32 (m,), token ids, ascending, each once. values: float32 (m,), all above 0.
    """

    indices: NDArray[np.int32]
    values: FloatArray

    def __len__(self) -> int:
        return len(self.indices)

    def as_dict(self) -> dict[int, float]:
        """Token id → weight."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def dot(self, other: LexicalWeights) -> float:
        """The sum, over the tokens both have, of the products of their weights."""
        import numpy as np

        _, mine, its = np.intersect1d(
            self.indices, other.indices, assume_unique=True, return_indices=True
        )
        return float(np.dot(self.values[mine].astype(np.float64), other.values[its]))


@dataclass(frozen=True, slots=True)
class Encoding:
    """Vectors of n texts and what truncation cost.

    vectors: float32 (n, dimension). tokens: int (n,), length of each text in tokens before
    truncation, special tokens included. truncated: bool (n,). lexical: n term weights, where they
    were asked for. token_vectors: n arrays float32 (tokens, d), rows L2-normalised, likewise.
    """

    vectors: FloatArray
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    lexical: Sequence[LexicalWeights] | None = None
    token_vectors: Sequence[FloatArray] | None = None


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
class MultiEncoder(Encoder, Protocol):
    """An encoder that gives more than one dense vector a text (bge-m3, late interaction)."""

    def encode_all(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],
        *,
        lexical: bool = False,
        token_vectors: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Encoding:
        """Dense vectors and what else is asked for, with the instruction of that kind.

        Raises:
            InvalidInput: the model has no such output; the message names one that has.
        """
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
