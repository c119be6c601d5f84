"""Writes the folder that transformers, sentence-transformers and FlagEmbedding load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ModelFault
from retrieval.models.safetensors_file import write_safetensors
from retrieval.models.sentence_files import write_encoder_files
from retrieval.models.sources.packages import PackagedWeights
from retrieval.models.sources.quantized_onnx import read_weights
from retrieval.types import ModelSpec


def write_model(weights: PackagedWeights, source: Path, folder: Path) -> None:
    """Convert quantised weights into an ordinary folder.

    Args:
        weights: what is known of them; its `config` says which parameters there must be.
        source: a folder with the package's files for the model, their sums already checked.
        folder: an empty folder.

    Raises:
        ModelFault: the file holds other parameters than such a model has.
        OSError: the folder cannot be written.
    """
    assert weights.config is not None
    found = read_weights(source / "model.onnx")
    shapes = {name: values.shape for name, values in found.items()}
    if (difference := _difference(shapes, _expected(weights.config))) is not None:
        raise ModelFault(
            f"the quantised weights of {weights.model} in {weights.package.requirement} are not "
            f"laid out as expected: {difference}",
            fix="Take the model from another source; this one has changed.",
        )
    write_safetensors(
        folder / "model.safetensors",
        {name: ("F32", shape) for name, shape in shapes.items()},
        lambda name: np.ascontiguousarray(found[name], dtype="<f4"),
    )
    _write_json(folder / "config.json", dict(weights.config))
    for name in weights.files:
        if name != "model.onnx":
            (folder / name).write_bytes((source / name).read_bytes())
    if weights.query_instruction is not None:
        write_encoder_files(folder, _encoder_spec(weights, weights.config))
    (folder / "README.md").write_text(_readme(weights), "utf-8")


def _expected(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name → shape of the parameters of a BERT; without a pooling layer, where it has no head."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    is_classifier = config["architectures"] == ["BertForSequenceClassification"]
    prefix = "bert." if is_classifier else ""
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.{kind}_embeddings.weight": (config[size], width)
        for kind, size in (
            ("word", "vocab_size"),
            ("position", "max_position_embeddings"),
            ("token_type", "type_vocab_size"),
        )
    }
    linear = {}
    norms = [f"{prefix}embeddings.LayerNorm"]
    for index in range(config["num_hidden_layers"]):
        layer = f"{prefix}encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{part}"] = (width, width)
        linear[f"{layer}.intermediate.dense"] = (inner, width)
        linear[f"{layer}.output.dense"] = (width, inner)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    if is_classifier:
        linear["bert.pooler.dense"] = (width, width)
        linear["classifier"] = (len(config["id2label"]), width)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def _difference(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> str | None:
    """The first parameter that is missing, not expected or of another shape, in words."""
    for name, shape in expected.items():
        if name not in found:
            return f"there is no {name}"
        if found[name] != shape:
            return f"{name} has the shape {found[name]}, expected {shape}"
    unknown = sorted(set(found) - set(expected))
    return f"there is {unknown[0]}, which such a model does not have" if unknown else None


def _encoder_spec(weights: PackagedWeights, config: Mapping[str, Any]) -> ModelSpec:
    """BGE's: CLS, normalised, an instruction before queries."""
    return ModelSpec(
        name=weights.model,
        kind="encoder",
        max_length=config["max_position_embeddings"],
        dimension=config["hidden_size"],
        pooling="cls",
        query_instruction=weights.query_instruction or "",
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _readme(weights: PackagedWeights) -> str:
    licence = "mit" if weights.licence == "MIT" else weights.licence.lower()
    return (
        f"---\nlicense: {licence}\n---\n\n"
        f"# {weights.model}, int8 origin\n\n"
        f"The weights of [{weights.model}](https://huggingface.co/{weights.model}), which is "
        f"licensed under {weights.licence}, as the Python package "
        f"`{weights.package.requirement}` carries them: weights dequantised from a dynamically "
        f"quantised ONNX file (`{weights.folder}/model.onnx`, sha256 "
        f"`{weights.files['model.onnx']}`).\n\n"
        "They are float32 here, and each is the nearest that 8 bits could say of the original, so "
        "results are close to those of the published weights and not the same. LICENSE and NOTICE "
        "are the package's own; NOTICE names the licence of each model.\n"
    )
