"""How long an adaptation will take, roughly, from a few passages that its models are tried on."""

from __future__ import annotations

import time
from itertools import islice

from retrieval.api.adapt_settings import Step
from retrieval.api.adapt_steps import AdaptSteps
from retrieval.api.open import open
from retrieval.models.defaults import NONE
from retrieval.training.settings import EncoderTraining, RerankerTraining, default_of

_SAMPLE = 16
_TRAINED = 12.0
"""What a text in training costs beside one that is encoded: forward and backward are three passes,
and full precision through torch takes about four times as long as bf16 through OpenVINO."""

_MERGED_S = 30.0
_SWITCHED_S = 1.0


def estimated_seconds(steps: AdaptSteps) -> dict[Step, float]:
    """Seconds of each step, roughly; general sets of the gate are not counted."""
    text, pair = _rates(steps)
    settings, labels = steps.settings, steps.labels
    train, dev = len(labels.train.queries), len(labels.dev.queries)
    mining, _ = settings.mining()

    def trained(kind: type[EncoderTraining] | type[RerankerTraining], seconds: float) -> float:
        own = settings.recipe.get(kind.stage, {})
        epochs = own.get("num_train_epochs", default_of(kind, "num_train_epochs"))
        group = own.get("train_group_size", default_of(kind, "train_group_size"))
        return float(_TRAINED * train * epochs * group * seconds)

    return {
        "split": 0.0,
        "mine": train * mining.rank_to * pair,
        "train-encoder": trained(EncoderTraining, text),
        "train-reranker": trained(RerankerTraining, pair),
        "merge": _MERGED_S,
        "encode": steps.passages() * text,
        "gate": 4 * dev * settings.candidates * pair,
        "calibrate": dev * settings.candidates * pair,
        "switch": _SWITCHED_S,
    }


def _rates(steps: AdaptSteps) -> tuple[float, float]:
    """Seconds to encode a passage, and to score a pair; 0 without a reranker."""
    query = next(iter(steps.labels.train.queries.values()), "?")
    with open(
        steps.version, store=steps.store, reranker=steps.reranker or NONE, tenant=steps.tenant,
        **steps.settings.model_options,
    ) as retriever:  # fmt: skip
        found = retriever.index.passages(tenant=steps.tenant)
        texts = [one.content for one in islice(found, _SAMPLE)]
        if not texts:
            return 0.0, 0.0
        retriever.encoder.encode_passages(texts[:1])  # the first call is slower
        started = time.perf_counter()
        retriever.encoder.encode_passages(texts)
        text = (time.perf_counter() - started) / len(texts)
        if retriever.reranker is None:
            return text, 0.0
        pairs = [(query, one) for one in texts]
        retriever.reranker.score(pairs[:1])
        started = time.perf_counter()
        retriever.reranker.score(pairs)
        return text, (time.perf_counter() - started) / len(pairs)
