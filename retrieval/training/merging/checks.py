"""Whether models can be averaged: the same network, run in the same way, over the same tokens.

Averages of weights mean something only between models that were tuned from the same one. Shapes
may agree by chance; so settings, configuration and tokenisers are compared by what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.errors import InvalidInput
from retrieval.models.model_folder import OWN_ARCHITECTURES, read_folder
from retrieval.models.tokenization.files import load_backend
from retrieval.types import ModelSpec, ResolvedModel

_NO_EFFECT = frozenset(
    {
        "_name_or_path", "architectures", "auto_map", "transformers_version", "dtype",
        "torch_dtype", "use_cache", "gradient_checkpointing", "id2label", "label2id",
        "problem_type", "finetuning_task", "sentence_transformers",
        "sbert_ce_default_activation_function", "initializer_range", "initializer_factor",
        "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward",
        "tokenizer_class", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id",
    }
)  # fmt: skip
"""Keys of config.json that change nothing of what a trained model computes of given token ids."""

_SAME_BASE = "Merge models that were tuned from the same one."

_SETTINGS = ("pooling", "normalize", "dimension", "score_head")
_PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor")
"""Of tokenizer.json: what decides token ids. Truncation, padding and decoding do not."""


def check_same(models: Sequence[ResolvedModel]) -> None:
    """Refuse models that are not the same network, run in the same way.

    Raises:
        InvalidInput: they differ; the message says in what.
        ModelFault, ModelNotFound: files cannot be read.
    """
    first = models[0]
    config, tokens = _config(first.path), _tokenizer(first.path)
    for other in models[1:]:
        for name in _SETTINGS:
            _same(name, getattr(first.spec, name), getattr(other.spec, name), first, other)
        theirs = _config(other.path)
        # what only one of them has, the installed transformers does not know
        for key in ("model_type", *sorted(config.keys() & theirs.keys())):
            _same(f"{key} of config.json", config.get(key), theirs.get(key), first, other)
        _check_tokenizer(tokens, _tokenizer(other.path), first, other)


def setting_notices(models: Sequence[ResolvedModel], chosen: ResolvedModel) -> list[str]:
    """What is taken from one model where instructions or lengths differ, in sentences."""
    notices = []
    for name, what in (
        ("query_instruction", "instruction before queries"),
        ("passage_instruction", "instruction before passages"),
        ("query_suffix", "text behind queries"),
        ("max_length", "length in tokens"),
    ):
        values = {getattr(one.spec, name) for one in models}
        if len(values) > 1:
            shown = ", ".join(f"{getattr(one.spec, name)!r} in {one.spec.name}" for one in models)
            notices.append(f"the {what} differs: {shown}; taken is that of {chosen.spec.name}")
    return notices


def ties_weights(model: ResolvedModel) -> bool:
    """Whether a model says that its output layer is its input layer."""
    return bool(_config(model.path).get("tie_word_embeddings", False))


def _same(
    what: str, mine: object, theirs: object, first: ResolvedModel, other: ResolvedModel
) -> None:
    if mine != theirs:
        raise InvalidInput(
            f"{first.spec.name} and {other.spec.name} cannot be averaged: {what} is {mine!r} in "
            f"the one and {theirs!r} in the other",
            fix=_SAME_BASE,
        )


def _config(folder: Path) -> dict[str, Any]:
    """What config.json means to transformers, its defaults filled in."""
    found = read_folder(folder)
    if found.architecture in OWN_ARCHITECTURES:
        values = dict(found.config)
    else:
        from transformers import AutoConfig

        values = AutoConfig.from_pretrained(str(folder), local_files_only=True).to_dict()
    return {
        key: value
        for key, value in values.items()
        if key not in _NO_EFFECT and "dropout" not in key and not key.endswith("_pdrop")
    }


def _tokenizer(folder: Path) -> dict[str, Any]:
    """What decides the token ids of a text."""
    backend, pad_id, with_types = load_backend(folder, None)
    parsed = json.loads(backend.to_str())
    parts = {name: parsed.get(name) for name in _PARTS}
    return {"vocabulary": backend.get_vocab(), **parts, "pad": pad_id, "type ids": with_types}


def _check_tokenizer(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], first: ResolvedModel, other: ResolvedModel
) -> None:
    for name, value in mine.items():
        if value == theirs[name]:
            continue
        detail = f"the {name.replace('_', ' ')} differs"
        if name == "vocabulary":
            detail = _first_difference(value, theirs[name])
        raise InvalidInput(
            f"{first.spec.name} and {other.spec.name} cannot be averaged: their tokenisers give "
            f"texts other ids ({detail})",
            fix=_SAME_BASE,
        )


def _first_difference(mine: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    if len(mine) != len(theirs):
        return f"{len(mine)} tokens in the one and {len(theirs)} in the other"
    token = next(token for token, place in mine.items() if theirs.get(token) != place)
    return f"{token!r} is {mine[token]} in the one and {theirs.get(token)} in the other"


def merged_spec(models: Sequence[ResolvedModel], chosen: ResolvedModel, name: str) -> ModelSpec:
    """What the merged model takes: instructions and length of one of the models."""
    taken = {
        key: getattr(chosen.spec, key)
        for key in (
            "query_instruction",
            "passage_instruction",
            "query_suffix",
            "query_examples",
            "max_length",
        )
    }
    licence = next((one.spec.licence for one in models if one.spec.licence), "")
    languages = next((one.spec.languages for one in models if one.spec.languages), ())
    return replace(
        models[0].spec, name=name, note="", licence=licence, languages=languages, **taken
    )
