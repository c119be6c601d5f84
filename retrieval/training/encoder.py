"""A bi-encoder, ready to be trained: contrastive, distilled, guided, Matryoshka."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.errors import InvalidInput, MissingExtra
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.encoders.settings import encoder_info
from retrieval.models.resolve import resolve
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.training import objectives
from retrieval.training.batches import Rows
from retrieval.training.collators import EncoderCollator, GuideVectors, Template
from retrieval.training.dev_set import DevSet
from retrieval.training.encoder_objective import EncoderObjective
from retrieval.training.examples import TrainingExample
from retrieval.training.groups import Texts
from retrieval.training.micro_batches import compute
from retrieval.training.settings import EncoderTraining
from retrieval.training.trainable import Trainable, quietly
from retrieval.types import FloatArray, ResolvedModel

_POOLING = {"cls": "cls", "mean": "mean", "last": "lasttoken"}


def prepare_encoder(
    settings: EncoderTraining,
    examples: Sequence[TrainingExample],
    dev: Sequence[TrainingExample],
    device: str,
) -> Trainable:
    """Load the encoder to start from, with its data and its loss.

    Args:
        settings: of the run.
        examples: what is trained on.
        dev: what it is measured on; may be empty.
        device: torch's name of it.

    Raises:
        ModelNotFound, ModelSettingUnknown, InvalidInput: the model to start from, or a guide.
        MissingExtra: sentence-transformers is not installed.
    """
    base = _base(settings)
    model = _load(base, device)
    spec = base.spec
    query = Template(
        _tokenizer(base, settings.query_max_len),
        spec.query_instruction,
        spec.query_suffix,
        spec.query_examples,
    )
    passage = Template(_tokenizer(base, settings.passage_max_len), spec.passage_instruction)
    texts = Texts(examples)
    collator = EncoderCollator(
        texts,
        settings.train_group_size,
        settings.seed,
        query,
        passage,
        _guide(settings.guide, texts, device),
    )
    _check_dimensions(settings.mrl_dims, base)
    objective = EncoderObjective(
        temperature=settings.temperature,
        in_batch=settings.in_batch_negatives,
        cross_device=settings.negatives_cross_device,
        distillation=settings.knowledge_distillation,
        dimensions=settings.mrl_dims,
        guide_margin=settings.guide_margin,
    )
    evaluate = None
    if dev:
        evaluate = _evaluator(
            model, DevSet(dev, examples), query, passage, settings.micro_batch_tokens
        )
    tuned = replace(spec, matryoshka=tuple(sorted(settings.mrl_dims, reverse=True)))
    return Trainable(
        model=model,
        base=replace(base, spec=tuned),
        collate=collator,
        output=sentence_vectors,
        objective=objective,
        evaluate=evaluate,
    )


def sentence_vectors(answer: dict[str, Tensor]) -> Tensor:
    """float32 (rows, d) of a SentenceTransformer's answer."""
    return answer["sentence_embedding"].float()


def _base(settings: EncoderTraining) -> ResolvedModel:
    """The model to start from, with the instructions and lengths of the run in its spec."""
    lengths = [one for one in (settings.query_max_len, settings.passage_max_len) if one]
    found = resolve(
        settings.model,
        "encoder",
        query_instruction=settings.query_instruction_for_retrieval,
        passage_instruction=settings.passage_instruction_for_retrieval,
    )
    encoder_info(found)
    most = found.spec.max_length
    if most is not None and any(one > most for one in lengths):
        raise InvalidInput(
            f"a length of {max(lengths)} tokens was given, and {found.spec.name} reads {most}",
            fix="Give shorter query_max_len and passage_max_len, or leave them out.",
        )
    return found


def _tokenizer(base: ResolvedModel, length: int | None) -> Tokenizer:
    most = length or base.spec.max_length
    assert most is not None  # `encoder_info` looked
    return Tokenizer(base.path, most)


def _load(base: ResolvedModel, device: str) -> Any:
    """The SentenceTransformer that our spec describes: pooling, normalisation, prompts."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import (
            Normalize,
            Pooling,
            Transformer,
        )
    except ImportError as error:
        raise MissingExtra(
            "sentence-transformers", extra="train", purpose="training an encoder"
        ) from error
    spec = base.spec
    assert spec.pooling is not None
    with quietly():
        network = Transformer(str(base.path), model_kwargs={"dtype": torch.float32})
        network.max_seq_length = spec.max_length
        modules: list[nn.Module] = [network, Pooling(spec.dimension, _POOLING[spec.pooling])]
        if spec.normalize:
            modules.append(Normalize())
        return SentenceTransformer(
            modules=modules,
            device=device,
            prompts={"query": spec.query_instruction, "document": spec.passage_instruction},
        )


def _guide(name: str | None, texts: Texts, device: str) -> GuideVectors | None:
    """A guide's vectors of the whole training set, computed once."""
    if name is None:
        return None
    passages = sorted(
        {key for keys in texts.answers.values() for key in keys.tolist()}
        | {texts.key(text) for one in texts.examples for text in one.negatives}
    )
    queries = sorted(texts.answers)
    with BiEncoder(name, device=device) as encoder:
        as_queries = encoder.encode_queries([texts.texts[key] for key in queries])
        as_passages = encoder.encode_passages([texts.texts[key] for key in passages]).vectors
    return GuideVectors(
        dict(zip(queries, as_queries, strict=True)), dict(zip(passages, as_passages, strict=True))
    )


def _check_dimensions(dimensions: Sequence[int], base: ResolvedModel) -> None:
    full = base.spec.dimension or 0
    bad = [one for one in dimensions if not 0 < one <= full]
    if bad:
        raise InvalidInput(
            f"mrl_dims has {bad[0]}, and {base.spec.name} gives vectors of {full} dimensions",
            fix=f"Give dimensions from 1 to {full}.",
        )


def _evaluator(
    model: Any, dev: DevSet, query: Template, passage: Template, tokens: int
) -> Callable[[], float]:
    """nDCG@10 of the dev queries among the dev set's passages."""
    passages = Rows(((passage.tokenizer, passage.encode(dev.passages)),))
    queries = [query.encode([one.query], one.prompt) for one in dev.examples]
    asked = Rows(tuple((query.tokenizer, one) for one in queries))

    def vectors(inputs: Rows) -> FloatArray:
        with torch.no_grad():
            found = compute(model, inputs, sentence_vectors, tokens, model.device)
            return np.asarray(objectives.unit(found).cpu().numpy(), dtype=np.float32)

    return lambda: dev.of_vectors(vectors(asked), vectors(passages))
