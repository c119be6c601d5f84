"""First stages, and how those of a hybrid search are joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["dense", "sparse", "lexical", "hybrid"]
"""First stage: vectors, BM25 terms, the encoder's own term weights (bge-m3), or all fused."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How the legs of a hybrid search are joined.

    Attributes:
        method: "dbsf" brings each leg's scores to one scale and sums them with their weights;
            "rrf" sums weight / (k + rank), see `retrieval.fusion`.
        k: of "rrf": how slowly the worth of a rank falls; at least 1.
        weights: of the dense, the BM25 and, where the collection has it, the lexical leg.
    """

    method: Literal["dbsf", "rrf"] = "dbsf"
    k: int = 20
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


DBSF = Fusion()
"""By scores, all legs alike: what was measured to be best (docs/evaluation.md)."""
