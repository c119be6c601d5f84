"""What the trainer needs of a stage: a model, its batches, its loss, its measure."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from retrieval.training.batches import GroupBatch
from retrieval.training.micro_batches import Output
from retrieval.types import ResolvedModel

Collate = Callable[[Sequence[dict[str, int]]], dict[str, GroupBatch]]
Objective = Callable[[Tensor, GroupBatch], Tensor]


@dataclass(frozen=True, slots=True)
class Trainable:
    """A stage, ready to be trained.

    Attributes:
        model: sentence-transformers' SentenceTransformer or CrossEncoder, on its device.
        base: what it starts from; its spec is that of the tuned model, too.
        collate: rows of the order → a batch.
        output: what is taken of the model's answer.
        objective: outputs and batch → loss.
        evaluate: nDCG@10 on the dev set; None where there is none.
    """

    model: Any
    base: ResolvedModel
    collate: Collate
    output: Output
    objective: Objective
    evaluate: Callable[[], float] | None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and reports of transformers and sentence-transformers.

    What is wrong with a model, our own loader has said before.
    """
    from transformers.utils import logging as transformers_logging

    was, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(was)
        if bars:
            transformers_logging.enable_progress_bar()
        logger.setLevel(level)
