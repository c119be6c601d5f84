"""Models for comparing with the peers: deeper and longer than the tiny ones, made once a run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION

MAX_LENGTH = 128
DIMENSION = 128


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Small products gain nothing from threads, and lose much where the machine is busy.

    At every one of them the threads wait for each other.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def deep_model(make_tiny_model: Callable[..., Path]) -> Callable[..., Path]:
    """Factory: `deep_model(family, kind, pooling="cls") -> Path`, the same folder each time.

    Four layers, 128 dimensions, 128 tokens; encoders have BGE's prompt in sentence-transformers'
    configuration.
    """

    @functools.cache
    def make(family: str, kind: str, pooling: str = "cls") -> Path:
        path = make_tiny_model(
            family,
            kind,
            pooling=pooling,
            hidden_size=DIMENSION,
            num_hidden_layers=4,
            intermediate_size=256,
            initializer_range=0.12,
            max_position_embeddings=MAX_LENGTH + (2 if family == "xlmr" else 0),
        )
        _edit(path / "tokenizer_config.json", model_max_length=MAX_LENGTH)
        if kind == "encoder":
            _edit(path / "1_Pooling" / "config.json", word_embedding_dimension=DIMENSION)
            _edit(path / "sentence_bert_config.json", max_seq_length=MAX_LENGTH)
            prompts = {"query": BGE_ENGLISH_INSTRUCTION, "document": ""}
            (path / "config_sentence_transformers.json").write_text(
                json.dumps({"prompts": prompts, "default_prompt_name": None}), encoding="utf-8"
            )
        return path

    return make


def _edit(file: Path, **changes: Any) -> None:
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | changes), encoding="utf-8")
