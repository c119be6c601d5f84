"""How much of each model goes into the average: given, equal, or from its loss on examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import number
from retrieval.errors import InvalidInput
from retrieval.training.examples import TrainingExample
from retrieval.types import Encoder, Reranker

TEMPERATURE = 5.0
"""Of the softmax over losses: LM-Cocktail's own default."""

_SCALE = 1 / 0.05
"""What cosines are multiplied by in the loss of an encoder, as LM-Cocktail does it."""

_BLOCK = 64
"""Examples whose passages are each other's negatives."""

_SUM = 1e-6


@dataclass(frozen=True, slots=True)
class MergeWeights:
    """A share for each model, and how it came about.

    Attributes:
        values: in the order of the models; their sum is 1.
        found: "given", "equal", "loss" or "sweep".
        losses: of each model on the examples; None where they were not asked.
        examples: how many examples the losses are of.
        temperature: of the softmax over losses.
        rule: by which a sweep chose.
    """

    values: tuple[float, ...]
    found: str
    losses: tuple[float, ...] | None = None
    examples: int = 0
    temperature: float | None = None
    rule: str = ""

    def told(self) -> str:
        """How the weights were found, as a clause."""
        if self.losses is None:
            told = {"equal": "equal", "sweep": "found by a sweep"}.get(self.found, "as given")
            return f"{told}: {self.rule}" if self.rule else told
        return (
            f"softmax(-loss / {self.temperature:g}) of each model's loss on "
            f"{self.examples} examples"
        )


def given_weights(
    values: Sequence[float], count: int, *, normalize: bool = False, extrapolate: bool = False
) -> MergeWeights:
    """Weights that a caller gave.

    Args:
        values: one for each model.
        count: how many models there are.
        normalize: divide by their sum, where it is not 1.
        extrapolate: let weights be negative or greater than 1: the result lies beyond the models.

    Raises:
        InvalidInput: other than one for each, not finite, negative, or of another sum than 1.
    """
    if len(values) != count:
        raise InvalidInput(
            f"{len(values)} weights were given for {count} models",
            fix="Give one weight for each model, in their order, such as --weights 0.5,0.5.",
        )
    for value in values:
        number(value, "a weight", fix="Give one number for each model, such as 0.5,0.5.")
    if not extrapolate and min(values) < 0:
        raise InvalidInput(
            f"the weight {min(values):g} is negative: the result would lie beyond the models",
            fix="Give weights of at least 0, or ask for it with extrapolate=True "
            "(CLI: --extrapolate).",
        )
    total = math.fsum(values)
    if normalize and total > 0:
        return MergeWeights(tuple(value / total for value in values), "given")
    if abs(total - 1.0) > _SUM:
        raise InvalidInput(
            f"the weights {', '.join(f'{value:g}' for value in values)} sum to {total:g}, "
            "expected 1",
            fix="Give weights that sum to 1, or let them be divided by their sum with "
            "normalize_weights=True (CLI: --normalize-weights).",
        )
    return MergeWeights(tuple(map(float, values)), "given")


def equal_weights(count: int) -> MergeWeights:
    """The same for each model."""
    return MergeWeights((1 / count,) * count, "equal")


def loss_weights(
    losses: Sequence[float], examples: int, *, temperature: float = TEMPERATURE
) -> MergeWeights:
    """softmax(-loss / temperature): more of the models that fit the examples (Xiao et al. 2023).

    Example:
        >>> [round(value, 3) for value in loss_weights([0.5, 1.5], 10, temperature=1.0).values]
        [0.731, 0.269]
    """
    number(
        temperature, "the temperature", above=0.0, expected="a number above 0",
        fix=f"Leave it out for {TEMPERATURE:g}; a lower one favours the better model more.",
    )  # fmt: skip
    logits = -np.asarray(losses, dtype=np.float64) / temperature
    shares = np.exp(logits - logits.max())
    values = tuple((shares / shares.sum()).tolist())
    return MergeWeights(values, "loss", tuple(losses), examples, temperature)


def encoder_loss(encoder: Encoder, examples: Sequence[TrainingExample]) -> float:
    """The contrastive loss (InfoNCE) of an encoder, as LM-Cocktail weighs encoders.

    Cosines / 0.05; an example's first positive against its own negatives and against the
    passages of the other examples of its block of 64, equal texts left out. Queries carry the
    encoder's own instruction.

    Returns:
        The mean over the examples, in nats.
    """
    losses: list[float] = []
    for start in range(0, len(examples), _BLOCK):
        block = examples[start : start + _BLOCK]
        texts = list(
            dict.fromkeys(text for one in block for text in (*one.positives, *one.negatives))
        )
        places = {text: place for place, text in enumerate(texts)}
        vectors = _unit(encoder.encode_passages(texts).vectors)
        queries = _unit(encoder.encode_queries([one.query for one in block]))
        scores = (queries @ vectors.T).astype(np.float64) * _SCALE
        for row, one in zip(scores, block, strict=True):
            # its other positives answer it, too
            others = [places[text] for text in one.positives[1:] if text != one.positives[0]]
            row[others] = -np.inf
            losses.append(_cross_entropy(row, places[one.positives[0]]))
    return math.fsum(losses) / len(losses)


def reranker_loss(reranker: Reranker, examples: Sequence[TrainingExample]) -> float:
    """The listwise loss of a reranker: cross-entropy of an example's first positive among its own
    negatives, over raw scores, as FlagEmbedding trains rerankers.

    Returns:
        The mean over the examples, in nats.
    """
    groups = [(one.query, (one.positives[0], *one.negatives)) for one in examples]
    pairs = [(query, passage) for query, passages in groups for passage in passages]
    scores = reranker.score(pairs).values
    losses, start = [], 0
    for _, passages in groups:
        losses.append(_cross_entropy(scores[start : start + len(passages)], 0))
        start += len(passages)
    return math.fsum(losses) / len(losses)


def check_examples(
    examples: Sequence[TrainingExample], kind: str, say: Callable[[str], None]
) -> list[TrainingExample]:
    """Those that a loss can be computed of, with what is to be said of the others.

    Raises:
        InvalidInput: there are none.
    """
    kept = [one for one in examples if one.negatives] if kind == "reranker" else list(examples)
    if not kept:
        raise InvalidInput(
            f"none of the {len(examples)} examples can be used for a loss"
            + (": a reranker needs negatives" if examples else ""),
            fix="Give examples with negatives; `retrieval mine` finds some."
            if examples
            else "Give a file with at least one example.",
        )
    if len(kept) < len(examples):
        say(f"{len(examples) - len(kept)} examples without negatives are left out of the loss")
    own = sum(one.prompt is not None for one in kept)
    if own:
        say(f"{own} examples have a prompt of their own; the models' own instructions are used")
    return kept


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return unit


def _cross_entropy(scores: NDArray[np.float64], target: int) -> float:
    top = scores.max()
    return float(top + np.log(np.exp(scores - top).sum()) - scores[target])
