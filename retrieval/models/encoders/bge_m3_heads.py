"""The three outputs of bge-m3 over one text's hidden states, and how they are compared.

Chen et al. 2024, "M3-Embedding: Multi-Linguality, Multi-Functionality, Multi-Granularity Text
Embeddings Through Self-Knowledge Distillation"; the definitions are those of its authors' own
code (`BGEM3FlagModel`), against which they are tested.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelFault, ModelNotFound
from retrieval.models import hub
from retrieval.types import EncoderInfo, FloatArray, LexicalWeights

SPARSE_FILE = "sparse_linear.pt"
COLBERT_FILE = "colbert_linear.pt"


@dataclass(frozen=True, slots=True)
class M3Heads:
    """bge-m3's two linear layers, float32: hidden states → token weight, → token vector.

    sparse_weight: (hidden,). colbert_weight: (d, hidden), colbert_bias: (d,).
    """

    sparse_weight: FloatArray
    sparse_bias: float
    colbert_weight: FloatArray
    colbert_bias: FloatArray

    def token_weights(self, states: FloatArray) -> FloatArray:
        """(n, hidden) → (n,), not below 0."""
        weights: FloatArray = np.maximum(states @ self.sparse_weight + self.sparse_bias, 0.0)
        return weights

    def token_vectors(self, states: FloatArray) -> FloatArray:
        """(n, hidden) → (n, d), each row L2-normalised."""
        vectors = states @ self.colbert_weight.T + self.colbert_bias
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        normalised: FloatArray = vectors / np.maximum(norms, 1e-12)
        return normalised


class M3Folder:
    """What bge-m3's folder holds beside the transformer; loaded at the first use."""

    def __init__(self, path: Path, info: EncoderInfo) -> None:
        self._path = path
        self._info = info
        self._lock = threading.Lock()
        self._heads: M3Heads | None = None
        self._special_ids: frozenset[int] | None = None

    def heads(self) -> M3Heads:
        """The two linear layers. Raises: as `load_heads`."""
        with self._lock:
            if self._heads is None:
                missing, name = missing_heads(self._path), self._info.model.partition("@")[0]
                # Other tools fetch the model into the hub's cache without these files.
                if missing and self._path.parent.name == "snapshots" and hub.is_hub_id(name):
                    hub.fetch_files(name, "encoder", self._path, missing)
                self._heads = load_heads(self._path, self._info.dimension)
            return self._heads

    def special_ids(self) -> frozenset[int]:
        """The token ids that carry no word."""
        with self._lock:
            if self._special_ids is None:
                from transformers import AutoTokenizer

                words = AutoTokenizer.from_pretrained(str(self._path), local_files_only=True)
                special = ("cls", "eos", "pad", "unk")
                ids = (getattr(words, f"{name}_token_id") for name in special)
                self._special_ids = frozenset(one for one in ids if one is not None)
            return self._special_ids


def missing_heads(folder: Path) -> list[str]:
    """Which of the two files a folder lacks."""
    return [name for name in (SPARSE_FILE, COLBERT_FILE) if not (folder / name).is_file()]


def load_heads(folder: Path, hidden: int) -> M3Heads:
    """Read both layers of a bge-m3 folder.

    Args:
        folder: where the model's weights are.
        hidden: width of its hidden states, which the layers must have.

    Raises:
        ModelNotFound: a file is missing.
        ModelFault: a file cannot be read, or is not of this model.
    """
    missing = missing_heads(folder)
    if missing:
        raise ModelNotFound(
            f"the folder {folder} has no {' and no '.join(missing)}, which hold bge-m3's sparse "
            "and multi-vector outputs",
            fix="Fetch BAAI/bge-m3 again, or copy the files beside its weights; for dense vectors "
            "alone neither is needed.",
        )
    sparse_weight, sparse_bias = _linear(folder / SPARSE_FILE, hidden)
    colbert_weight, colbert_bias = _linear(folder / COLBERT_FILE, hidden)
    if sparse_weight.shape[0] != 1:
        raise ModelFault(
            f"{folder / SPARSE_FILE} gives {sparse_weight.shape[0]} values per token, expected one",
            fix="The file is not bge-m3's sparse layer: fetch the model again.",
        )
    return M3Heads(sparse_weight[0], float(sparse_bias[0]), colbert_weight, colbert_bias)


def lexical_weights(
    ids: NDArray[np.int32], weights: FloatArray, special: frozenset[int]
) -> LexicalWeights:
    """The largest weight of each token; special tokens and weights of 0 are left out.

    Args:
        ids: (n,) token ids of one text, special ones included.
        weights: (n,), not below 0.
        special: ids that carry no word, such as `<s>` and `<unk>`.
    """
    keep = (weights > 0) & ~np.isin(ids, list(special))
    indices, places = np.unique(ids[keep], return_inverse=True)
    values = np.zeros(len(indices), dtype=np.float32)
    np.maximum.at(values, places, weights[keep])
    return LexicalWeights(indices.astype(np.int32), values)


def multi_vector_score(query: FloatArray, passage: FloatArray) -> float:
    """The mean over the query's vectors (q, d) of the best product with one of (p, d)."""
    return float((query @ passage.T).max(axis=1).mean(dtype=np.float64))


def _linear(file: Path, hidden: int) -> tuple[FloatArray, FloatArray]:
    """Weight (out, hidden) and bias (out,) of a saved torch.nn.Linear."""
    import torch

    try:
        # weights_only: a pickle could run code, a state dict cannot.
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        weight = np.array(state["weight"].float().numpy(), order="C")
        bias = np.array(state["bias"].float().numpy(), order="C")
    except Exception as error:  # the one boundary: whatever torch and pickle raise
        raise ModelFault(
            f"the file {file} cannot be read as a linear layer "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]})",
            fix="Fetch the model again; an interrupted download or a git-lfs pointer "
            "looks like this.",
        ) from error
    if weight.ndim != 2 or weight.shape[1] != hidden or bias.shape != weight.shape[:1]:
        raise ModelFault(
            f"{file} has a weight of shape {weight.shape}, expected (…, {hidden}) as its model has",
            fix="The file belongs to another model: fetch this one again.",
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ModelFault(f"{file} holds numbers that are not finite", fix="Fetch the model again.")
    return weight, bias
