"""What a bi-encoder is, settled before anything is loaded: model, pooling, lengths, dimension."""

from __future__ import annotations

import os
from dataclasses import replace

from retrieval._validate import whole_number
from retrieval.errors import InvalidInput, ModelSettingUnknown
from retrieval.models.examples import QueryExamples, examples_text
from retrieval.types import EncoderInfo, ModelSpec, Pooling, ResolvedModel

_HEADS: tuple[Pooling, ...] = ("cls", "mean", "last")


def resolve_encoder(
    model: str | os.PathLike[str] | ResolvedModel,
    device: str,
    *,
    query_instruction: str | None,
    query_suffix: str | None,
    query_examples: QueryExamples | None,
    pooling: Pooling | None,
    max_length: int | None,
) -> ResolvedModel:
    """The model that `BiEncoder` was given, with the settings that replace its own.

    Raises:
        ModelNotFound, ModelSettingUnknown: see `retrieval.models.resolve.resolve`.
        InvalidInput: the model is not an encoder.
    """
    if not isinstance(model, ResolvedModel):
        from retrieval.models.resolve import choose_models, resolve

        if model == "auto":
            model = choose_models("auto", "none", device=device).encoder
        return resolve(
            model,
            "encoder",
            pooling=pooling,
            query_instruction=query_instruction,
            query_suffix=query_suffix,
            query_examples=query_examples,
            max_length=max_length,
        )
    spec = model.spec
    if spec.kind != "encoder":
        raise InvalidInput(
            f"{spec.name} is a {spec.kind}, expected an encoder",
            fix="Choose an encoder, such as BAAI/bge-small-en-v1.5.",
        )
    instruction = spec.query_instruction if query_instruction is None else query_instruction
    suffix = spec.query_suffix if query_suffix is None else query_suffix
    examples = spec.query_examples if query_examples is None else query_examples
    spec = replace(
        spec,
        pooling=pooling or spec.pooling,
        max_length=max_length or spec.max_length,
        query_instruction=instruction,
        query_suffix=suffix,
        query_examples=examples_text(examples, instruction, suffix, spec.name),
    )
    return replace(model, spec=spec)


def encoder_info(resolved: ResolvedModel) -> tuple[EncoderInfo, Pooling]:
    """What a collection must remember of the encoder, and its pooling.

    Raises:
        ModelSettingUnknown: nothing declares its pooling, dimension or maximum length.
        InvalidInput: a pooling that does not exist.
    """
    spec = resolved.spec
    for setting in ("pooling", "dimension", "max_length"):
        if getattr(spec, setting) is None:
            raise ModelSettingUnknown(
                f"nothing declares the {setting} of {spec.name}",
                fix=f"Give {setting}=…, as its authors describe it.",
            )
    assert spec.pooling is not None
    assert spec.dimension is not None
    assert spec.max_length is not None
    if spec.pooling not in _HEADS:
        raise InvalidInput(
            f"pooling={spec.pooling!r} was given", fix="Choose 'cls', 'mean' or 'last'."
        )
    info = EncoderInfo(
        model=spec.name,
        fingerprint=resolved.fingerprint,
        dimension=spec.dimension,
        pooling=spec.pooling,
        normalize=spec.normalize,
        query_instruction=spec.query_instruction,
        passage_instruction=spec.passage_instruction,
        max_length=spec.max_length,
        query_suffix=spec.query_suffix,
        query_examples=spec.query_examples,
    )
    return info, spec.pooling


def check_truncation(spec: ModelSpec, dimension: int, insisted: bool) -> None:
    """Refuse to cut vectors to a dimension that the model was not trained for.

    Raises:
        InvalidInput: it is not such a dimension and the user did not insist, or it is none at all.
    """
    whole_number(dimension, "truncate_dim")
    full = spec.dimension or 0
    if dimension > full:
        raise InvalidInput(
            f"truncate_dim={dimension} was given, but {spec.name} gives vectors of {full} "
            "dimensions",
            fix=f"Give a number below {full}, or leave it out.",
        )
    if dimension not in (full, *spec.matryoshka) and not insisted:
        known = ", ".join(map(str, spec.matryoshka)) or "none"
        raise InvalidInput(
            f"truncate_dim={dimension} was given, but the shorter dimensions for which {spec.name} "
            f"was trained are: {known}",
            fix="Choose one of those or leave it out; or give allow_untrained_truncation=True and "
            "measure what that costs.",
        )
