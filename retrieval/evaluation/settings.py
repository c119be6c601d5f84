"""A search setting: what of indexing and searching can vary, and how each value is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from retrieval.types import BlendChoice, Fusion, Mode, Reading

Dtype: TypeAlias = Literal["auto", "fp32", "bf16", "fp16", "int8"]

NONE = "none"
AUTO = "auto"

OWN = "model"
"""The instruction that the model declares, or that the collection was built with."""


@dataclass(frozen=True, slots=True)
class PassageLength:
    """How documents are split: tokens of a passage and of its overlap.

    max_tokens: None makes each document one passage; "default" is what indexing does that says
    nothing, 256 or what the encoder reads. overlap: None for the default of 32.
    """

    max_tokens: int | Literal["default"] | None = "default"
    overlap: int | None = None

    def __str__(self) -> str:
        if self.max_tokens is None:
            return "whole"
        return "default" if self.max_tokens == "default" else f"{self.max_tokens}/{self.overlap}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to index and to search.

    Attributes:
        encoder: a model's name or folder.
        instruction: put before queries: "model", "none", or a text.
        passages: how documents are split.
        dtype: number format of both models.
        mode: first stage.
        fusion: of hybrid search; None for the default.
        reranker: a model's name or folder, or None.
        candidates: how many passages the reranker reads.
        blend, blend_weight: the final order; the weight is of the reranker's scores in the blend
            "scores", None for the default.
        read: what is read of a candidate; None for the reranker's default.
    """

    encoder: str = AUTO
    instruction: str = OWN
    passages: PassageLength = PassageLength()
    dtype: Dtype = "auto"
    mode: Mode = "hybrid"
    fusion: Fusion | None = None
    reranker: str | None = AUTO
    candidates: int = 50
    blend: BlendChoice = "auto"
    blend_weight: float | None = None
    read: Reading | None = None

    def effect(self) -> Setting:
        """The setting with all that makes no difference to what is found as by default.

        Two settings that have the same effect find the same.
        """
        same = self
        if self.fusion is not None and (self.mode != "hybrid" or self.fusion == Fusion()):
            same = replace(same, fusion=None)
        if self.reranker is None:
            same = replace(same, candidates=50, blend="auto", blend_weight=None, read=None)
        elif self.blend != "scores" and self.blend_weight is not None:
            same = replace(same, blend_weight=None)
        if self.mode == "sparse":
            # BM25 knows no vectors; of the encoder it has only the tokens that passages are cut by.
            same = replace(same, instruction=OWN)
            if self.passages.max_tokens is None:
                same = replace(same, encoder=AUTO)
            if self.reranker is None:
                same = replace(same, dtype="auto")
        return same

    def as_dict(self) -> dict[str, Any]:
        """The dimensions as a grid's file writes them."""
        return {name: one.write(self) for name, one in DIMENSIONS.items()}


@dataclass(frozen=True, slots=True)
class Dimension:
    """Something that varies: `plural` is its list's name, `expected` says what a value may be.

    read: from a value as written to fields of `Setting`; raises ValueError where it is none.
    write: the other way round. indexing: whether another value needs another index.
    """

    plural: str
    expected: str
    read: Callable[[str], Mapping[str, Any]]
    write: Callable[[Setting], str]
    indexing: bool = False


def _choice(name: str, choices: object) -> Callable[[str], Mapping[str, Any]]:
    def read(text: str) -> Mapping[str, Any]:
        if text not in get_args(choices):
            raise ValueError
        return {name: text}

    return read


def _name(name: str, none: bool = False) -> Callable[[str], Mapping[str, Any]]:
    def read(text: str) -> Mapping[str, Any]:
        if not text.strip() or (text == NONE and not none):
            raise ValueError
        return {name: None if text == NONE else text}

    return read


def _instruction(text: str) -> Mapping[str, Any]:
    return {"instruction": text if text.strip() else NONE}


def _passages(text: str) -> Mapping[str, Any]:
    if text == "whole":
        return {"passages": PassageLength(None, 0)}
    if text == "default":
        return {"passages": PassageLength()}
    found = re.fullmatch(r"(\d{1,6})(?:/(\d{1,6}))?", text)
    if found is None:
        raise ValueError
    most, overlap = int(found[1]), int(found[2] or 32)
    if most < 8 or (overlap > most // 2 and found[2]):
        raise ValueError
    return {"passages": PassageLength(most, min(overlap, most // 2))}


def _fusion(text: str) -> Mapping[str, Any]:
    found = re.fullmatch(r"(dbsf|rrf)(?::(\d{1,6}))?(?:@([\d.]+(?:/[\d.]+){1,2}))?", text)
    if found is None or (found[1] == "dbsf" and found[2]):
        raise ValueError
    made = Fusion(method="dbsf" if found[1] == "dbsf" else "rrf")
    if found[2]:
        made = replace(made, k=int(found[2]))
    if found[3]:
        dense, bm25, lexical = (*map(float, found[3].split("/")), 1.0)[:3]
        made = replace(made, weights=(dense, bm25, lexical))
    if made.k < 1 or not any(made.weights[:2]):
        raise ValueError
    return {"fusion": made}


def _write_fusion(setting: Setting) -> str:
    fusion = setting.fusion or Fusion()
    text = f"rrf:{fusion.k}" if fusion.method == "rrf" else "dbsf"
    if fusion.weights == Fusion().weights:
        return text
    shown = fusion.weights[:2] if fusion.weights[2] == 1.0 else fusion.weights
    return f"{text}@{'/'.join(f'{weight:g}' for weight in shown)}"


def _candidates(text: str) -> Mapping[str, Any]:
    count = int(text)
    if not 1 <= count <= 10_000:
        raise ValueError
    return {"candidates": count}


def _blend(text: str) -> Mapping[str, Any]:
    blend, colon, weight = text.partition(":")
    if blend not in get_args(BlendChoice) or (colon and blend != "scores"):
        raise ValueError
    number = float(weight) if colon else None
    if number is not None and not 0 < number < float("inf"):
        raise ValueError
    return {"blend": blend, "blend_weight": number}


def _write_blend(setting: Setting) -> str:
    weight = setting.blend_weight
    return setting.blend if weight is None else f"{setting.blend}:{weight:g}"


def _read(text: str) -> Mapping[str, Any]:
    if text == AUTO:
        return {"read": None}
    return _choice("read", Reading)(text)


DIMENSIONS: Mapping[str, Dimension] = {
    "encoder": Dimension(
        "encoders", "a model's name or folder", _name("encoder"), lambda s: s.encoder, indexing=True
    ),
    "instruction": Dimension(
        "instructions", "model, none or a text", _instruction, lambda s: s.instruction
    ),
    "passages": Dimension(
        "passages",
        "whole, default, or tokens and overlap such as 256/32 (the overlap at most half)",
        _passages,
        lambda s: str(s.passages),
        indexing=True,
    ),
    "dtype": Dimension(
        "dtypes", "auto, fp32, bf16, fp16 or int8", _choice("dtype", Dtype), lambda s: s.dtype
    ),
    "mode": Dimension(
        "modes", "dense, sparse, lexical or hybrid", _choice("mode", Mode), lambda s: s.mode
    ),
    "fusion": Dimension(
        "fusions", "dbsf or rrf, with k and weights such as rrf:60@2/1", _fusion, _write_fusion
    ),
    "reranker": Dimension(
        "rerankers",
        "a model's name or folder, or none",
        _name("reranker", none=True),
        lambda s: s.reranker or NONE,
    ),
    "candidates": Dimension(
        "candidates",
        "a whole number from 1 to 10,000",
        _candidates,
        lambda s: str(s.candidates),
    ),
    "blend": Dimension(
        "blends",
        "auto, none, rrf, scores, or scores with the reranker's weight such as scores:0.5",
        _blend,
        _write_blend,
    ),
    "read": Dimension("reads", "auto, full or excerpts", _read, lambda s: s.read or AUTO),
}
"""In the order in which settings vary, the last one fastest."""

assert {one.name for one in fields(Setting)} == {*DIMENSIONS, "blend_weight"}
