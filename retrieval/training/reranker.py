"""A cross-encoder, ready to be trained: listwise, binary, or by LambdaLoss; distilled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.errors import InvalidInput, MissingExtra, ModelSettingUnknown
from retrieval.models.resolve import resolve
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.training import objectives
from retrieval.training.batches import GroupBatch, Rows
from retrieval.training.collators import PairCollator
from retrieval.training.dev_set import DevSet
from retrieval.training.examples import TrainingExample
from retrieval.training.groups import Texts
from retrieval.training.micro_batches import compute
from retrieval.training.settings import KdLoss, RerankerLoss, RerankerTraining
from retrieval.training.trainable import Trainable, quietly
from retrieval.types import ResolvedModel

_LOSSES = {
    "listwise": objectives.listwise,
    "lambda": objectives.lambda_loss,
    "binary": objectives.binary,
}


def prepare_reranker(
    settings: RerankerTraining,
    examples: Sequence[TrainingExample],
    dev: Sequence[TrainingExample],
    device: str,
) -> Trainable:
    """Load the cross-encoder to start from, with its data and its loss.

    Args:
        settings: of the run.
        examples: what is trained on; each needs negatives.
        dev: what it is measured on; may be empty.
        device: torch's name of it.

    Raises:
        ModelNotFound, ModelSettingUnknown, InvalidInput: the model, or examples without negatives.
        MissingExtra: sentence-transformers is not installed.
    """
    _check_negatives(settings, examples)
    base = _base(settings)
    model = _load(base, device)
    assert base.spec.max_length is not None
    tokenizer = Tokenizer(base.path, base.spec.max_length)
    evaluate = None
    if dev:
        evaluate = _evaluator(model, DevSet(dev), tokenizer, settings.micro_batch_tokens)
    return Trainable(
        model=model,
        base=base,
        collate=PairCollator(Texts(examples), settings.train_group_size, settings.seed, tokenizer),
        output=pair_scores,
        objective=PairObjective(settings.loss, settings.knowledge_distillation),
        evaluate=evaluate,
    )


def pair_scores(answer: dict[str, Tensor]) -> Tensor:
    """float32 (rows,), the raw logits of a CrossEncoder's answer."""
    return answer["scores"].float().reshape(-1)


@dataclass(frozen=True, slots=True)
class PairObjective:
    """The loss of a batch of groups, from the scores of its pairs."""

    loss: RerankerLoss
    distillation: KdLoss = "none"

    def __call__(self, scores: Tensor, batch: GroupBatch) -> Tensor:
        """The loss, a scalar, of scores (rows,)."""
        device = scores.device
        valid = torch.from_numpy(batch.valid).to(device)
        grouped = scores[torch.from_numpy(batch.passages).to(device)]
        if self.distillation == "none":
            return _LOSSES[self.loss](grouped, valid)
        teacher = torch.from_numpy(batch.teacher).to(device)
        if self.distillation == "margin_mse":
            return objectives.distil_margin_mse(grouped, teacher, valid)
        return _LOSSES[self.loss](grouped, valid) + objectives.distil_kl(grouped, teacher, valid)


def _base(settings: RerankerTraining) -> ResolvedModel:
    found = resolve(settings.model, "reranker", max_length=settings.max_len)
    spec = found.spec
    if spec.score_head != "classification":
        raise InvalidInput(
            f"{spec.name} scores by {spec.score_head}, expected a cross-encoder with one logit",
            fix="Train such a model, as BAAI/bge-reranker-base or -v2-m3; language models that "
            "re-rank are fine-tuned with FlagEmbedding itself.",
        )
    if spec.max_length is None:
        raise ModelSettingUnknown(
            f"the reranker {spec.name} does not declare how many tokens it takes",
            fix="Give max_len.",
        )
    return found


def _load(base: ResolvedModel, device: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtra(
            "sentence-transformers", extra="train", purpose="training a reranker"
        ) from error
    with quietly():
        return CrossEncoder(
            str(base.path),
            num_labels=1,
            max_length=base.spec.max_length,
            device=device,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": torch.float32},
        )


def _check_negatives(settings: RerankerTraining, examples: Sequence[TrainingExample]) -> None:
    without = [one for one in examples if not one.negatives]
    if without and settings.loss != "binary":
        raise InvalidInput(
            f"{len(without)} of {len(examples)} examples have no negatives "
            f"(the first: {without[0].where or repr(without[0].query)}), and a reranker learns "
            f"from the difference (loss={settings.loss!r})",
            fix="Mine hard negatives first: retrieval mine.",
        )
    if settings.train_group_size < 2 and settings.loss != "binary":
        raise InvalidInput(
            f"train_group_size is {settings.train_group_size}, which leaves no negative",
            fix="Give at least 2.",
        )


def _evaluator(model: Any, dev: DevSet, tokenizer: Tokenizer, tokens: int) -> Callable[[], float]:
    """nDCG@10 of the order of each dev query's own passages."""
    inputs = Rows(((tokenizer, tokenizer.encode_pairs(dev.pairs())),))

    def evaluate() -> float:
        with torch.no_grad():
            scores = compute(model, inputs, pair_scores, tokens, model.device)
        return dev.of_scores(np.asarray(scores.cpu().numpy(), dtype=np.float64))

    return evaluate
