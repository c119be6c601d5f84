"""Writes sentence-transformers' small files, by which a folder says how it is to be run.

Tools that train save weights and tokeniser and leave these out, or fill in their own defaults: mean
pooling, no instruction, a sigmoid behind the logit. With these files a folder says the same to this
library and to sentence-transformers 2 to 6; FlagEmbedding and transformers read none of them and
are not disturbed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval._files import atomic_write
from retrieval.errors import InvalidInput
from retrieval.models.model_folder import read_json
from retrieval.models.score_modules import score_layers
from retrieval.types import ModelSpec

_MODULE = "sentence_transformers.models"
_LOGIT = "torch.nn.modules.linear.Identity"
# sentence-transformers 6 builds a reranker's transformer from these; older ones pass them over.
_CLASSIFIER = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}


def write_encoder_files(folder: Path, spec: ModelSpec) -> None:
    """Write modules.json, pooling, normalisation, prompts and length of an encoder.

    Args:
        folder: holds config.json, tokeniser and weights. What such files there say beside these
            settings is kept: other prompts, other keys.
        spec: pooling, dimension, normalize, both instructions and max_length are written.

    Raises:
        InvalidInput: the spec leaves pooling or dimension open.
        ModelFault: a file that is there already is damaged.
        OSError: the folder cannot be written.

    Example:
        >>> from dataclasses import replace
        >>> write_encoder_files(folder, replace(resolved.spec, query_instruction="query: "))
        >>> resolve(folder, "encoder").spec.query_instruction
        'query: '
    """
    if spec.pooling is None or spec.dimension is None:
        raise InvalidInput(
            f"the files of {spec.name} cannot be written: its pooling is {spec.pooling} and its "
            f"dimension {spec.dimension}",
            fix="Pass pooling='cls' | 'mean' | 'last' (CLI: --pooling), as it was trained.",
        )
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if spec.normalize:
        kinds.append(("2_Normalize", "Normalize"))
    _write_modules(folder, kinds)
    pooling = {
        "word_embedding_dimension": spec.dimension,
        "pooling_mode_cls_token": spec.pooling == "cls",
        "pooling_mode_mean_tokens": spec.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    if spec.pooling == "last":  # versions before 2.3 do not know the key
        pooling["pooling_mode_lasttoken"] = True
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_length(folder, spec, {})
    path = folder / "config_sentence_transformers.json"
    saved = read_json(path) or {}
    prompts = saved.get("prompts") or {}
    ours = {"query": spec.query_instruction, "document": spec.passage_instruction}
    saved |= {
        "model_type": "SentenceTransformer",
        "prompts": {**prompts, **ours},
        "default_prompt_name": saved.get("default_prompt_name"),
        "similarity_fn_name": "cosine" if spec.normalize else "dot",
    }
    # Empty prompts alone declare nothing: sentence-transformers fills them in where nobody spoke.
    saved.pop("no_instruction", None)
    if not any(saved["prompts"].values()):
        saved["no_instruction"] = True
    saved.pop("matryoshka_dimensions", None)
    if spec.matryoshka:
        saved["matryoshka_dimensions"] = list(spec.matryoshka)
    _write_json(path, saved)


def write_reranker_files(folder: Path, spec: ModelSpec) -> None:
    """Write what makes `CrossEncoder` give the raw logit of a reranker, and its length.

    Without them sentence-transformers puts a sigmoid behind the logit; with them its scores are
    those of this library and of `FlagReranker`. A reranker whose scores come from modules of its
    own behind the transformer (ettin-reranker) keeps its modules.json.

    Args:
        folder: holds config.json, tokeniser and weights. config.json gets the activation, too,
            which is where sentence-transformers before 5 looks.
        spec: max_length is written.

    Raises:
        InvalidInput: it is no cross-encoder with a classification head.
        ModelFault: a file that is there already is damaged.
        OSError: the folder cannot be written.
    """
    if spec.score_head != "classification":
        raise InvalidInput(
            f"the files of {spec.name} cannot be written: it scores by {spec.score_head}, and only "
            "cross-encoders with a classification head have such files",
            fix="Use the files that came with it.",
        )
    path = folder / "config_sentence_transformers.json"
    saved = read_json(path) or {}
    if score_layers(folder):
        _write_length(folder, spec, {})
    else:
        _write_modules(folder, [("", "Transformer")])
        _write_length(folder, spec, _CLASSIFIER)
        config = read_json(folder / "config.json") or {}
        declared = config.get("sentence_transformers")
        own = dict(declared) if isinstance(declared, dict) else {}
        if own.get("activation_fn") != _LOGIT:
            config["sentence_transformers"] = {**own, "activation_fn": _LOGIT}
            config.pop("sbert_ce_default_activation_function", None)
            _write_json(folder / "config.json", config)
    saved |= {"model_type": "CrossEncoder", "activation_fn": _LOGIT}
    saved.setdefault("prompts", {})
    saved.setdefault("default_prompt_name", None)
    _write_json(path, saved)


def _write_modules(folder: Path, kinds: list[tuple[str, str]]) -> None:
    modules = [
        {"idx": index, "name": str(index), "path": part, "type": f"{_MODULE}.{kind}"}
        for index, (part, kind) in enumerate(kinds)
    ]
    for part, _ in kinds[1:]:
        (folder / part).mkdir(exist_ok=True)
    _write_json(folder / "modules.json", modules)


def _write_length(folder: Path, spec: ModelSpec, others: dict[str, Any]) -> None:
    path = folder / "sentence_bert_config.json"
    length = {} if spec.max_length is None else {"max_seq_length": spec.max_length}
    _write_json(path, {**(read_json(path) or {}), **others, **length})


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
