"""The engines on CUDA: the CPU's fp32 numbers, in order, whatever happens to memory.

Skipped where there is no CUDA device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.batches import cosines, in_threads, ragged, real

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.engines import load_engine
from retrieval.models.engines.base import Dtype, Head, TokenBatch
from retrieval.models.engines.packed import PackedEngine
from retrieval.models.engines.transformers import TransformersEngine
from retrieval.models.engines.varlen_attention import grouped, has_varlen, varlen
from retrieval.types import FloatArray

pytestmark = pytest.mark.gpu

HEADS: list[Head] = ["cls", "mean", "tokens", "logits"]
ENGINES = [PackedEngine, TransformersEngine]
HALF: list[Dtype] = ["bf16", "fp16"]
SHORT = [[5], [16, 3], [40, 7, 64], [128, 1, 20, 90]]  # as many texts as a graph takes
RAGGED = [[100, 3, 128, 17, 1, 64, 64, 100], *SHORT]
MiB = 2**20


@pytest.fixture(scope="session")
def long_encoder(make_tiny_model: Callable[..., Path]) -> Path:
    """Wide enough to fill some hundred MiB, for texts of up to 8,192 tokens."""
    return make_tiny_model(
        "bert",
        "encoder",
        hidden_size=256,
        intermediate_size=1024,
        initializer_range=0.05,
        max_position_embeddings=8192,
    )


@pytest.fixture
def limit_memory() -> Iterator[Callable[[int], None]]:
    """`limit(bytes)`: that much more than now may be allocated, until the test ends."""

    def limit(more: int) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        allowed = torch.cuda.memory_reserved(0) + more
        torch.cuda.set_per_process_memory_fraction(min(allowed / total, 1.0), 0)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


def assert_close(head: Head, output: FloatArray, expected: FloatArray) -> None:
    """What may differ between half precision and fp32."""
    assert output.dtype == np.float32
    assert output.shape == expected.shape
    if head == "logits":
        np.testing.assert_allclose(output, expected, atol=0.05)
    else:
        assert cosines(output, expected).min() >= 0.999


def model_path(family: str, head: Head, request: pytest.FixtureRequest) -> Path:
    kind = "reranker" if head == "logits" else "encoder"
    path: Path = request.getfixturevalue(f"tiny_{family}_{kind}")
    return path


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("family", ["bert", "xlmr"])
@pytest.mark.parametrize("head", HEADS)
class TestAgainstTheCPU:
    @pytest.mark.parametrize("dtype", HALF)
    def test_half_precision(
        self, request: pytest.FixtureRequest, kind: Any, family: str, head: Head, dtype: Dtype
    ) -> None:
        if dtype == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            pytest.skip("this GPU computes no bf16")
        path = model_path(family, head, request)
        engine = kind(path, head, device="cuda", dtype=dtype)
        exact = TransformersEngine(path, head, device="cpu", dtype="fp32")
        for lengths in RAGGED:
            batch = ragged(lengths, padding=0 if family == "bert" else 1)
            output, expected = engine.run(batch), exact.run(batch)
            assert_close(head, real(batch, output, head), real(batch, expected, head))

    def test_fp32(self, request: pytest.FixtureRequest, kind: Any, family: str, head: Head) -> None:
        path = model_path(family, head, request)
        engine = kind(path, head, device="cuda", dtype="fp32")
        exact = TransformersEngine(path, head, device="cpu", dtype="fp32")
        for lengths in RAGGED:
            batch = ragged(lengths, padding=0 if family == "bert" else 1)
            output, expected = engine.run(batch), exact.run(batch)
            np.testing.assert_allclose(
                real(batch, output, head), real(batch, expected, head), atol=1e-3
            )


class TestDevices:
    def test_auto_is_packed(self, tiny_bert_encoder: Path) -> None:
        engine = load_engine(tiny_bert_encoder, "cls")
        assert (engine.name, engine.device) == ("packed", "cuda")
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        assert engine.dtype == ("bf16" if native else "fp16")
        assert engine.token_budget == 32_768

    def test_auto_is_transformers_for_what_cannot_be_packed(self, tiny_bert_encoder: Path) -> None:
        engine = load_engine(tiny_bert_encoder, "last")
        assert (engine.name, engine.device) == ("transformers", "cuda")
        assert engine.token_budget == 16_384

    @pytest.mark.parametrize("kind", ENGINES)
    def test_device_strings(self, tiny_bert_encoder: Path, kind: Any) -> None:
        assert kind(tiny_bert_encoder, "cls").device == "cuda"
        assert kind(tiny_bert_encoder, "cls", device="cuda:0").device == "cuda:0"
        assert kind(tiny_bert_encoder, "cls", device="cpu").device == "cpu"
        with pytest.raises(InvalidInput, match="device='cuda:99'"):
            kind(tiny_bert_encoder, "cls", device="cuda:99")

    @pytest.mark.parametrize("kind", ENGINES)
    def test_several_devices_in_one_process(self, tiny_bert_encoder: Path, kind: Any) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("there is one CUDA device only")
        engines = [
            kind(tiny_bert_encoder, "cls", device=f"cuda:{index}")
            for index in range(torch.cuda.device_count())
        ]
        for lengths in RAGGED:
            batch = ragged(lengths)
            # All at once, asked for from the last to the first.
            pending = [engine.submit(batch) for engine in engines]
            outputs = [wait() for wait in reversed(pending)]
            for output in outputs[1:]:
                assert_close("cls", output, outputs[0])
        assert torch.cuda.current_device() == 0

    def test_several_devices_as_one_engine(self, tiny_bert_encoder: Path) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("there is one CUDA device only")
        from retrieval.models.engines.multi_device import EngineGroup

        group = load_engine(tiny_bert_encoder, "cls", devices=["cuda:0", "cuda:1"])
        assert isinstance(group, EngineGroup)
        try:
            assert [engine.device for engine in group.engines] == ["cuda:0", "cuda:1"]
            batch = ragged(RAGGED[0])
            first, second = (engine.run(batch) for engine in group.engines)
            assert_close("cls", first, second)
        finally:
            group.close()


@pytest.mark.parametrize("kind", ENGINES)
class TestInFlight:
    def test_batches_keep_their_order(self, long_encoder: Path, kind: Any) -> None:
        engine = kind(long_encoder, "cls", device="cuda")
        batches = [
            ragged([2048, 1500, 700], seed=1),
            ragged([9], seed=2),
            ragged([2000] * 8, seed=3),
            ragged([33, 2], seed=4),
        ]
        expected = [engine.run(batch) for batch in batches]
        pending = [engine.submit(batch) for batch in batches * 3]
        for wait, output in zip(pending, expected * 3, strict=True):
            np.testing.assert_allclose(wait(), output, atol=1e-3)

    def test_an_output_stays_as_it_was(self, tiny_bert_encoder: Path, kind: Any) -> None:
        engine = kind(tiny_bert_encoder, "cls", device="cuda")
        kept = engine.run(ragged([9], seed=1))
        copy = kept.copy()
        for seed in range(2, 12):
            engine.run(ragged([9], seed=seed))
        np.testing.assert_array_equal(kept, copy)

    def test_from_several_threads(self, tiny_bert_encoder: Path, kind: Any) -> None:
        engine = kind(tiny_bert_encoder, "mean", device="cuda")
        plain = TransformersEngine(tiny_bert_encoder, "mean", device="cpu", dtype="fp32")
        batches = [ragged(lengths) for lengths in RAGGED]
        expected = [plain.run(batch) for batch in batches]

        def work(seed: int) -> None:
            for index in np.random.default_rng(seed).integers(len(batches), size=60).tolist():
                assert_close("mean", engine.run(batches[index]), expected[index])

        in_threads(work)


class TestDeterminism:
    @pytest.mark.parametrize("head", HEADS)
    def test_a_text_alone(self, request: pytest.FixtureRequest, head: Head) -> None:
        # What deterministic=True does: each text in a batch of its own.
        path = model_path("bert", head, request)
        engine = PackedEngine(path, head, device="cuda")
        texts = [ragged([length], seed=length) for length in (1, 9, 16, 17, 70, 127, 128)]
        expected = [engine.run(text) for text in texts]
        for seed in range(3):
            engine.run(ragged([50, 20, 128, 7, 3, 90], seed=seed))
            for index in np.random.default_rng(seed).permutation(len(texts)).tolist():
                np.testing.assert_array_equal(engine.run(texts[index]), expected[index])
        other = PackedEngine(path, head, device="cuda")
        for index in reversed(range(len(texts))):  # graphs are recorded in another order
            np.testing.assert_array_equal(other.run(texts[index]), expected[index])

    def test_a_long_text_alone(self, long_encoder: Path) -> None:
        engine = PackedEngine(long_encoder, "mean", device="cuda")
        text = ragged([3000])
        expected = engine.run(text)
        engine.run(ragged([4000, 10, 700]))
        np.testing.assert_array_equal(engine.run(text), expected)

    @pytest.mark.parametrize("head", HEADS)
    def test_in_company(self, request: pytest.FixtureRequest, head: Head) -> None:
        engine = PackedEngine(model_path("bert", head, request), head, device="cuda")
        batch = ragged(RAGGED[0])
        together = engine.run(batch)
        for row, length in enumerate(RAGGED[0]):
            alone = TokenBatch(
                batch.input_ids[row : row + 1, :length],
                batch.attention_mask[row : row + 1, :length],
            )
            mixed = (
                together[row : row + 1, :length] if head == "tokens" else together[row : row + 1]
            )
            assert_close(head, engine.run(alone), mixed)


class TestVarlen:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("lengths", [[7], [64, 64, 9, 1, 1], [300, 5]])
    def test_as_grouped(self, dtype: torch.dtype, lengths: list[int]) -> None:
        device = torch.device("cuda")
        if not has_varlen(device, dtype, 64):
            pytest.skip("there is no FlashAttention for this GPU")
        generator = torch.Generator(device).manual_seed(0)
        query, key, value = torch.randn(
            3, sum(lengths), 2, 64, device=device, dtype=dtype, generator=generator
        )
        cumulative = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
        flash = varlen(cumulative, max(lengths))
        plain = grouped(np.array(lengths))
        with torch.inference_mode():
            torch.testing.assert_close(
                flash.every(query, key, value), plain.every(query, key, value), atol=0.02, rtol=0.02
            )
            first = query[cumulative[:-1]]
            torch.testing.assert_close(
                flash.first(first, key, value), plain.first(first, key, value), atol=0.02, rtol=0.02
            )

    def test_the_engine_uses_it(self, tiny_bert_encoder: Path) -> None:
        if torch.cuda.get_device_capability() < (8, 0) or torch.version.cuda is None:
            pytest.skip("FlashAttention needs an NVIDIA GPU of compute capability 8.0")
        assert PackedEngine(tiny_bert_encoder, "cls", device="cuda")._varlen
        assert not PackedEngine(tiny_bert_encoder, "cls", device="cuda", dtype="fp32")._varlen


class TestGraphs:
    @pytest.mark.parametrize("dtype", ["auto", "fp32"])
    @pytest.mark.parametrize("family", ["bert", "xlmr"])
    @pytest.mark.parametrize("head", HEADS)
    def test_as_without_one(
        self,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        head: Head,
        family: str,
        dtype: Dtype,
    ) -> None:
        path = model_path(family, head, request)
        batches = [
            ragged(lengths, seed=seed, padding=0 if family == "bert" else 1)
            for lengths in SHORT
            for seed in range(3)
        ]
        engine = PackedEngine(path, head, device="cuda", dtype=dtype)
        recorded = [wait() for wait in [engine.submit(batch) for batch in batches]]
        # Every shape was recorded, none was given up.
        assert set(engine._graphs._graphs) == {(1, 16), (2, 16), (4, 64), (4, 128)}
        assert all(engine._graphs._graphs.values())
        monkeypatch.setattr(engine._graphs, "find", lambda *_: None)
        for batch, output in zip(batches, recorded, strict=True):
            eager = engine.run(batch)
            if dtype == "fp32":
                np.testing.assert_allclose(output, eager, atol=1e-4)
            else:
                assert_close(head, real(batch, output, head), real(batch, eager, head))
            if head == "tokens":
                assert not output[~batch.attention_mask.astype(bool)].any()

    def test_larger_batches_have_none(self, tiny_bert_encoder: Path) -> None:
        engine = PackedEngine(tiny_bert_encoder, "cls", device="cuda")
        engine.run(ragged([20] * 5))
        assert engine._graphs._graphs == {}

    def test_a_failure_to_record_costs_time_only(
        self,
        tiny_bert_encoder: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr("torch.cuda.graph", refuse)
        engine = PackedEngine(tiny_bert_encoder, "cls", device="cuda")
        plain = TransformersEngine(tiny_bert_encoder, "cls", device="cpu", dtype="fp32")
        for lengths in SHORT:
            batch = ragged(lengths)
            assert_close("cls", engine.run(batch), plain.run(batch))
        messages = [record.message for record in caplog.records if "graphs" in record.message]
        assert len(messages) == 1
        assert "not permitted when stream is capturing" in messages[0]


@pytest.mark.parametrize("kind", ENGINES)
class TestOutOfMemory:
    def test_the_batch_is_split(
        self, long_encoder: Path, kind: Any, limit_memory: Callable[[int], None]
    ) -> None:
        engine = kind(long_encoder, "cls", device="cuda")
        batch = ragged([512] * 256)
        parts = [
            engine.run(TokenBatch(batch.input_ids[i : i + 32], batch.attention_mask[i : i + 32]))
            for i in range(0, 256, 32)
        ]
        default = engine.token_budget
        limit_memory(200 * MiB)  # the widest states of all tokens alone are 256 MiB
        output = engine.run(batch)
        assert cosines(output, np.concatenate(parts)).min() >= 0.999
        ceiling = engine._backoff.budget(2**31)
        assert ceiling < 512 * 256
        assert engine.token_budget == min(default, ceiling)
        # The next one is split before it fails: memory never runs out again.
        before = torch.cuda.memory_stats()["num_ooms"]
        np.testing.assert_allclose(engine.run(batch), output, atol=1e-3)
        assert torch.cuda.memory_stats()["num_ooms"] == before

    def test_one_text_that_does_not_fit(
        self, long_encoder: Path, kind: Any, limit_memory: Callable[[int], None]
    ) -> None:
        engine = kind(long_encoder, "cls", device="cuda")
        limit_memory(0)
        with pytest.raises(ModelFault, match="no memory for one text of 8192 tokens"):
            engine.run(ragged([8192]))
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
        assert np.isfinite(engine.run(ragged([8192]))).all()
