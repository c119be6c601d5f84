"""What a sentence-transformers `CrossEncoder` declares behind its transformer.

Three layouts, told apart by modules.json: the transformer alone; a transformer whose pooled state
goes through `Dense` and `LayerNorm` modules down to one score (ettin-reranker); and a language
model of whose last logits `LogitScore` takes one, or the difference of two (Qwen3-Reranker).
Nothing here loads weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound
from retrieval.models.model_folder import read_json, read_modules

ACTIVATIONS = ("Identity", "GELU", "ReLU", "SiLU", "Sigmoid", "Tanh")
"""The activations of torch.nn that a Dense module may name."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_HEAD_FILE = re.compile(r"\d+_(Dense|LayerNorm)/(model\.safetensors|pytorch_model\.bin)")


@dataclass(frozen=True, slots=True)
class ScoreLayer:
    """One module of a head: its kind, its folder, the name of its activation and whether it has a
    bias (of Dense)."""

    kind: Literal["Dense", "LayerNorm"]
    folder: Path
    activation: str = "Identity"
    inputs: int = 0
    outputs: int = 0
    bias: bool = True


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens whose logits make the score: `yes`, less `no` where there is one."""

    yes: int
    no: int | None = None


def score_layers(root: Path) -> tuple[ScoreLayer, ...]:
    """The modules that turn a pooled state into a score, in order; empty where there are none.

    Raises:
        InvalidInput: there are some, and they cannot be run as they are declared.
        ModelFault: one of their files is damaged.
    """
    saved = read_json(root / "config_sentence_transformers.json") or {}
    if saved.get("model_type") != "CrossEncoder":
        return ()
    modules = read_modules(root)
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or "Dense" not in kinds:
        return ()
    other = [kind for kind in kinds[2:] if kind not in ("Dense", "LayerNorm")]
    if other or modules[0][1]:
        what = f"it has the modules {', '.join(other)}" if other else "its transformer lies deeper"
        raise _cannot(root, what)
    layers = tuple(_layer(root, kind, folder) for kind, folder in modules[2:])
    last = layers[-1]
    if last.kind != "Dense" or last.outputs != 1:
        raise _cannot(root, "its last module gives no single score")
    return layers


def answer_tokens(root: Path) -> AnswerTokens | None:
    """What `LogitScore` declares; None where there is no such module.

    Raises:
        ModelFault: its file is damaged or names no token.
    """
    folder = next((path for kind, path in read_modules(root) if kind == "LogitScore"), None)
    if folder is None:
        return None
    config = read_json(root / folder / "config.json") or {}
    yes, no = config.get("true_token_id"), config.get("false_token_id")
    if not isinstance(yes, int) or not (no is None or isinstance(no, int)):
        raise ModelFault(
            f"{root / folder / 'config.json'} names no token for a match (true_token_id={yes!r})",
            fix="Fetch the model again, or save it again with sentence-transformers.",
        )
    return AnswerTokens(yes, no)


def chat_settings(root: Path) -> dict[str, Any] | None:
    """How pairs become chat messages: `format` and the template's own options.

    None where sentence_bert_config.json says nothing of messages: pairs are joined plainly then.
    """
    sentence = read_json(root / "sentence_bert_config.json") or {}
    modalities = sentence.get("modality_config")
    message = modalities.get("message") if isinstance(modalities, dict) else None
    if not isinstance(message, dict):
        return None
    options = (sentence.get("processing_kwargs") or {}).get("chat_template") or {}
    return {"format": message.get("format", "flat"), "options": dict(options)}


def score_files(root: Path) -> list[Path]:
    """The files of a head that decide a score, beside the transformer's own: for fingerprints.

    Raises:
        ModelNotFound: a module's weights are missing.
        InvalidInput, ModelFault: see `score_layers`.
    """
    files = []
    for layer in score_layers(root):
        files += [layer.folder / "config.json", layer_weights(layer)]
    for kind, folder in read_modules(root):
        if kind == "LogitScore":
            files.append(root / folder / "config.json")
    if chat_settings(root) is not None:
        files.append(root / "chat_template.jinja")
    return [file for file in files if file.is_file()]


def layer_weights(layer: ScoreLayer) -> Path:
    """The file that holds a module's weights.

    Raises:
        ModelNotFound: there is none.
    """
    for name in _WEIGHTS:
        if (layer.folder / name).is_file():
            return layer.folder / name
    raise ModelNotFound(
        f"the folder {layer.folder} has no weights: neither {' nor '.join(_WEIGHTS)}",
        fix="Fetch the model again; an interrupted download leaves this behind.",
    )


def is_score_file(name: str) -> bool:
    """Whether a repository's file is one that a head needs, to be fetched with the weights."""
    return name == "chat_template.jinja" or _HEAD_FILE.fullmatch(name) is not None


def _layer(root: Path, kind: str, folder: str) -> ScoreLayer:
    config = read_json(root / folder / "config.json") or {}
    if kind == "LayerNorm":
        size = config.get("dimension")
        if not isinstance(size, int):
            raise _cannot(root, f"{folder}/config.json declares no dimension")
        return ScoreLayer("LayerNorm", root / folder, inputs=size, outputs=size)
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        raise _cannot(root, f"{folder}/config.json declares no in_features and out_features")
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = path.rpartition(".")[2]
    if not path.startswith("torch.nn.") or activation not in ACTIVATIONS:
        raise _cannot(root, f"{folder} has the activation {path}")
    source = config.get("module_input_name", "sentence_embedding")
    if source != "sentence_embedding" or config.get("use_residual"):
        raise _cannot(root, f"{folder} reads {source!r} or adds what it read (use_residual)")
    return ScoreLayer(
        "Dense", root / folder, activation, inputs, outputs, bool(config.get("bias", True))
    )


def _cannot(root: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"the reranker in {root} cannot be run faithfully: {reason}; expected a transformer, a "
        "pooling, and Dense and LayerNorm modules down to one score",
        fix="Choose another, such as cross-encoder/ettin-reranker-150m-v1 or "
        "BAAI/bge-reranker-v2-m3.",
    )
