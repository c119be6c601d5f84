"""Batches that do not fit into memory: split, in order, remembered; other failures are raised."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.batches import ragged

from retrieval.errors import ModelFault
from retrieval.models.engines.base import Pending, TokenBatch
from retrieval.models.engines.oom_backoff import Backoff, is_out_of_memory
from retrieval.models.engines.packed import PackedEngine
from retrieval.models.engines.transformers import TransformersEngine
from retrieval.types import FloatArray


class Holding:
    """An engine whose device holds `rows` texts: its module raises above that."""

    def __init__(
        self,
        kind: Any,
        path: Path,
        rows: int,
        patch: pytest.MonkeyPatch,
        error: Exception | None = None,
    ) -> None:
        self.engine = kind(path, "cls", device="cpu", dtype="fp32")
        self.tried: list[int] = []
        error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        module = self.engine._module
        name = "run_packed" if kind is PackedEngine else "forward"
        compute = getattr(module, name)

        def limited(*inputs: Any) -> torch.Tensor:
            texts = len(inputs[3]) - 1 if name == "run_packed" else len(inputs[0])
            self.tried.append(texts)
            if texts > rows:
                raise error
            result: torch.Tensor = compute(*inputs)
            return result

        patch.setattr(module, name, limited)


@pytest.mark.parametrize("kind", [PackedEngine, TransformersEngine])
class TestOutOfMemory:
    def test_halved_and_remembered(
        self,
        tiny_bert_encoder: Path,
        kind: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        path = tiny_bert_encoder
        batch = ragged([12] * 16)
        expected = kind(path, "cls", device="cpu", dtype="fp32").run(batch)
        held = Holding(kind, path, 4, monkeypatch)
        with caplog.at_level(logging.WARNING, "retrieval"):
            np.testing.assert_allclose(held.engine.run(batch), expected, atol=1e-5)
        assert held.tried == [16, 8, 4, 4, 4, 4]  # the second 8 was not tried any more
        assert [record.message.split(";")[0] for record in caplog.records] == [
            "cpu had no memory for a batch of 192 tokens",
            "cpu had no memory for a batch of 96 tokens",
        ]
        assert held.engine.token_budget == 48
        held.tried.clear()
        again = ragged([12] * 9, seed=1)
        expected = kind(path, "cls", device="cpu", dtype="fp32").run(again)
        np.testing.assert_allclose(held.engine.run(again), expected, atol=1e-5)
        assert held.tried == [4, 2, 3]  # split beforehand, nothing failed

    def test_ragged_texts_stay_in_order(
        self, tiny_bert_encoder: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tiny_bert_encoder
        held = Holding(kind, path, 2, monkeypatch)
        batches = [ragged([5, 30, 2, 17, 9, 9, 1], seed=seed) for seed in range(3)]
        plain = kind(path, "cls", device="cpu", dtype="fp32")
        pending = [held.engine.submit(batch) for batch in batches]
        for wait, batch in zip(pending, batches, strict=True):
            np.testing.assert_allclose(wait(), plain.run(batch), atol=1e-5)
        assert held.tried[0] == 7
        assert max(held.tried[1:]) <= 4

    def test_one_text_that_does_not_fit(
        self, tiny_bert_encoder: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = Holding(kind, tiny_bert_encoder, 0, monkeypatch)
        with pytest.raises(ModelFault, match="no memory for one text of 12 tokens") as caught:
            held.engine.run(ragged([12, 12, 12]))
        assert "max_length" in caught.value.fix
        assert held.tried == [3, 1]

    def test_under_another_name(
        self, tiny_bert_encoder: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        held = Holding(kind, tiny_bert_encoder, 1, monkeypatch, error)
        assert held.engine.run(ragged([4, 4])).shape[0] == 2
        assert held.tried == [2, 1, 1]

    def test_any_other_error_is_a_fault(
        self, tiny_bert_encoder: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = RuntimeError("CUDA error: an illegal memory access was encountered")
        held = Holding(kind, tiny_bert_encoder, 1, monkeypatch, error)
        with pytest.raises(ModelFault, match=r"batch of shape \(2, 4\): .*illegal memory access"):
            held.engine.run(ragged([4, 4]))
        assert held.tried == [2]


class TestBackoff:
    def test_a_failure_while_waiting_is_a_fault(self) -> None:
        def start(_: TokenBatch) -> Pending:
            def wait() -> FloatArray:
                raise torch.AcceleratorError("device-side assert triggered")

            return wait

        backoff = Backoff(torch.device("cpu"), start, lambda batch: batch.input_ids.size)
        pending = backoff.submit(ragged([3]))
        with pytest.raises(ModelFault, match="device-side assert triggered"):
            pending()

    def test_mistakes_in_the_code_are_not_hidden(self) -> None:
        def start(_: TokenBatch) -> Pending:
            raise TypeError("a mistake")

        with pytest.raises(TypeError, match="a mistake"):
            Backoff(torch.device("cpu"), start, lambda _: 1).submit(ragged([3]))

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (torch.OutOfMemoryError("whatever"), True),
            (RuntimeError("MPS backend out of memory (MPS allocated: 1 GiB)"), True),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
            (IndexError("out of memory"), False),
        ],
    )
    def test_what_out_of_memory_is(self, error: Exception, expected: bool) -> None:
        assert is_out_of_memory(error) is expected

    def test_a_real_allocation_that_fails(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**60, dtype=torch.float32)
        assert is_out_of_memory(caught.value)
