"""The data types and protocols of the library. Read this first.

    INDEX   files ─read→ Document ─split→ Passage ─encode_passages→ vectors ─upsert→ Index
    SEARCH  query ─encode_queries→ Index.search → Candidate ─Reranker.score→ Hit

documents.py, models.py, index.py and results.py follow that line; tuning.py is what was measured of
a collection. Everything here is plain data or
a `typing.Protocol`; nothing here imports torch, qdrant or gradio. Arrays are numpy: vectors are
float32 and L2-normalised unless a docstring says otherwise.
"""

from __future__ import annotations

from retrieval.types.documents import Document, Passage, Problem
from retrieval.types.index import (
    Bm25Info,
    Candidate,
    DocumentState,
    FieldKind,
    Index,
    IndexQuery,
    IndexStatus,
    Layout,
    Manifest,
    Quantization,
    SplitterInfo,
    Storage,
    Where,
)
from retrieval.types.models import (
    Blend,
    BlendChoice,
    Encoder,
    EncoderInfo,
    Encoding,
    FloatArray,
    LexicalWeights,
    ModelKind,
    ModelSpec,
    MultiEncoder,
    Pooling,
    ProgressCallback,
    Reading,
    Reranker,
    RerankerInfo,
    ResolvedModel,
    ScoreHead,
    Scores,
    TokenCounter,
)
from retrieval.types.modes import Fusion, Mode
from retrieval.types.results import Hit, IngestProgress, IngestReport, SearchResult, Timings
from retrieval.types.tuning import (
    Calibration,
    Distribution,
    Pipeline,
    Reference,
    RelevanceScale,
    SearchDefaults,
    Signal,
    Tuning,
)

__all__ = [
    "Blend",
    "BlendChoice",
    "Bm25Info",
    "Calibration",
    "Candidate",
    "Distribution",
    "Document",
    "DocumentState",
    "Encoder",
    "EncoderInfo",
    "Encoding",
    "FieldKind",
    "FloatArray",
    "Fusion",
    "Hit",
    "Index",
    "IndexQuery",
    "IndexStatus",
    "IngestProgress",
    "IngestReport",
    "Layout",
    "LexicalWeights",
    "Manifest",
    "Mode",
    "ModelKind",
    "ModelSpec",
    "MultiEncoder",
    "Passage",
    "Pipeline",
    "Pooling",
    "Problem",
    "ProgressCallback",
    "Quantization",
    "Reading",
    "Reference",
    "RelevanceScale",
    "Reranker",
    "RerankerInfo",
    "ResolvedModel",
    "ScoreHead",
    "Scores",
    "SearchDefaults",
    "SearchResult",
    "Signal",
    "SplitterInfo",
    "Storage",
    "Timings",
    "TokenCounter",
    "Tuning",
    "Where",
]
