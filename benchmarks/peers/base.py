"""What a loaded system looks like to the worker, whichever package runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_LENGTH = 512


@dataclass
class System:
    """run: texts → vectors, or pairs → logits. run_query: one query, or one query's pairs.

    dtype: what its matrix products are computed in. detail: how it runs, in words. computed:
    tokens that went through the model, with padding and batches that were run twice, where the
    system can be watched.
    """

    run: Callable[[list[Any]], Any]
    detail: str
    dtype: str
    run_query: Callable[[Any], Any]
    computed: int = 0

    def watch(self, model: Any) -> None:
        """Count the tokens of every forward of a torch module, or of what looks like one."""
        forward = model.forward

        def counted(*args: Any, **inputs: Any) -> Any:
            ids = inputs["input_ids"] if "input_ids" in inputs else args[0]
            self.computed += int(np.prod(ids.shape))
            return forward(*args, **inputs)

        model.forward = counted
