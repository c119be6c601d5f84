"""The packed engine: what plain transformers computes, without the padding."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.batches import cosines, in_threads, real
from models.batches import ragged as any_ragged
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.engines import cuda_graphs
from retrieval.models.engines.base import Head, TokenBatch
from retrieval.models.engines.modules import load_module
from retrieval.models.engines.packed import PackedEngine, pack, packed_supports
from retrieval.models.engines.transformers import TransformersEngine
from retrieval.models.engines.varlen_attention import grouped, has_varlen, varlen
from retrieval.types import FloatArray

HEADS: list[Head] = ["cls", "mean", "tokens", "logits"]
FAMILIES = ["bert", "xlmr", "roberta"]
RAGGED = [
    [7],
    [1],
    [9, 9, 9],
    [3, 17, 1, 9, 17, 2],
    [128, 5, 64, 64, 1, 127],
]


@pytest.fixture(scope="session")
def folders(
    make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool], Path]:
    """(family, whether it is a reranker) → model folder."""
    from transformers import AutoModel, AutoModelForSequenceClassification, RobertaConfig

    made = {
        (family, kind == "reranker"): make_tiny_model(family, kind)
        for family in ("bert", "xlmr")
        for kind in ("encoder", "reranker")
    }
    config = RobertaConfig(
        vocab_size=150,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        max_position_embeddings=130,
        type_vocab_size=1,
        initializer_range=0.15,
        num_labels=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    for reranker, auto in ((False, AutoModel), (True, AutoModelForSequenceClassification)):
        path = tmp_path_factory.mktemp("tiny-roberta")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            auto.from_config(config).save_pretrained(path)
        made["roberta", reranker] = path
    return made


def ragged(lengths: Sequence[int], family: str, *, seed: int = 0, spare: int = 0) -> TokenBatch:
    """As the family has it: the second part of each BERT text is of type 1."""
    batch = any_ragged(lengths, seed=seed, padding=0 if family == "bert" else 1, spare=spare)
    if family == "bert":
        second = np.arange(max(lengths) + spare)[None] >= np.array(lengths)[:, None] // 2
        batch = TokenBatch(batch.input_ids, batch.attention_mask, second * batch.attention_mask)
    return batch


def reference(path: Path, head: Head, batch: TokenBatch) -> FloatArray:
    """float32, padded, from transformers' own forward."""
    module = load_module(path, head, torch.float32)
    inputs = [batch.input_ids, batch.attention_mask]
    if module.takes_type_ids and batch.token_type_ids is not None:
        inputs.append(batch.token_type_ids)
    with torch.inference_mode():
        output: FloatArray = module(*map(torch.from_numpy, inputs)).numpy()
    return output


def cpu_engine(path: Path, head: Head, dtype: Any = "fp32") -> PackedEngine:
    return PackedEngine(path, head, device="cpu", dtype=dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
class TestAgainstTransformers:
    def test_fp32(self, folders: dict[tuple[str, bool], Path], family: str, head: Head) -> None:
        path = folders[family, head == "logits"]
        engine = cpu_engine(path, head)
        assert (engine.name, engine.device, engine.dtype) == ("packed", "cpu", "fp32")
        assert (engine.head, engine.token_budget) == (head, 4096)
        for lengths in RAGGED:
            batch = ragged(lengths, family)
            output = engine.run(batch)
            expected = reference(path, head, batch)
            assert output.dtype == np.float32
            assert output.shape == expected.shape
            np.testing.assert_allclose(
                real(batch, output, head), real(batch, expected, head), rtol=1e-5, atol=1e-5
            )

    def test_bf16(self, folders: dict[tuple[str, bool], Path], family: str, head: Head) -> None:
        path = folders[family, head == "logits"]
        batch = ragged(RAGGED[-1], family)
        output = cpu_engine(path, head, "bf16").run(batch)
        expected = reference(path, head, batch)
        assert output.dtype == np.float32
        if head == "logits":
            np.testing.assert_allclose(output, expected, atol=0.05)
        else:
            similar = cosines(real(batch, output, head), real(batch, expected, head))
            assert similar.min() >= 0.9995

    def test_without_type_ids(
        self, folders: dict[tuple[str, bool], Path], family: str, head: Head
    ) -> None:
        path = folders[family, head == "logits"]
        typed = ragged([12, 3, 30], family)
        batch = TokenBatch(typed.input_ids, typed.attention_mask)
        np.testing.assert_allclose(
            real(batch, cpu_engine(path, head).run(batch), head),
            real(batch, reference(path, head, batch), head),
            rtol=1e-5,
            atol=1e-5,
        )

    def test_as_padded_for_a_graph(
        self, folders: dict[tuple[str, bool], Path], family: str, head: Head
    ) -> None:
        # What a CUDA graph records is this forward of this input.
        path = folders[family, head == "logits"]
        engine = cpu_engine(path, head)
        for lengths in ([7], [1, 5, 3], [100, 128], [16, 16, 16, 16]):
            batch = ragged(lengths, family, spare=2)
            shape = cuda_graphs.bucket(len(lengths), max(lengths), engine._module.longest)
            assert shape is not None
            inputs = cuda_graphs.padded_inputs(batch, shape, engine._module)
            assert inputs[1].any(axis=1).all()  # a softmax over nothing may be NaN
            with torch.inference_mode():
                output = cuda_graphs.run_padded(engine._module, torch.from_numpy(inputs)).numpy()
            assert np.isfinite(output).all()
            assert len(output) == shape[0]
            output = output[: len(lengths)]
            expected = engine.run(batch)
            if head == "tokens":
                output, expected = output[:, : max(lengths)], expected[:, : max(lengths)]
                mask = batch.attention_mask[:, : max(lengths)].astype(bool)
                output, expected = output[mask], expected[mask]
            np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_alone_or_in_company(folders: dict[tuple[str, bool], Path], head: Head) -> None:
    engine = cpu_engine(folders["bert", head == "logits"], head)
    batch = ragged([3, 40, 1, 9, 40, 12], "bert")
    together = engine.run(batch)
    for row, length in enumerate(batch.attention_mask.sum(1)):
        assert batch.token_type_ids is not None
        part = np.s_[row : row + 1, :length]
        alone = engine.run(
            TokenBatch(
                batch.input_ids[part], batch.attention_mask[part], batch.token_type_ids[part]
            )
        )
        mixed = together[row, :length] if head == "tokens" else together[row]
        np.testing.assert_allclose(alone[0], mixed, rtol=1e-5, atol=1e-5)
        if head == "tokens":
            assert not together[row, length:].any()


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    seed=st.integers(0, 100),
)
def test_whatever_the_lengths(
    folders: dict[tuple[str, bool], Path], lengths: list[int], seed: int
) -> None:
    path = folders["xlmr", False]
    batch = ragged(lengths, "xlmr", seed=seed, spare=seed % 3)
    engine, plain = property_engines(path)
    np.testing.assert_allclose(engine.run(batch), plain.run(batch), rtol=1e-5, atol=1e-5)


_PROPERTY_ENGINES: dict[Path, tuple[PackedEngine, TransformersEngine]] = {}


def property_engines(path: Path) -> tuple[PackedEngine, TransformersEngine]:
    if path not in _PROPERTY_ENGINES:
        plain = TransformersEngine(path, "mean", device="cpu", dtype="fp32")
        _PROPERTY_ENGINES[path] = cpu_engine(path, "mean"), plain
    return _PROPERTY_ENGINES[path]


def test_a_padding_token_within_a_text(folders: dict[tuple[str, bool], Path]) -> None:
    # A text that contains the word "<pad>": RoBERTa counts no position for it.
    path = folders["roberta", False]
    batch = ragged([12, 8], "roberta")
    batch.input_ids[0, 4] = batch.input_ids[1, 2] = 1
    expected = reference(path, "cls", batch)
    np.testing.assert_allclose(cpu_engine(path, "cls").run(batch), expected, atol=1e-5)
    packed = pack(batch, cpu_engine(path, "cls")._module)
    assert packed.flat[20:32].tolist() == [2, 3, 4, 5, 1, 6, 7, 8, 9, 10, 11, 12]


def test_what_is_packed(folders: dict[tuple[str, bool], Path]) -> None:
    batch = ragged([2, 3], "bert", spare=4)
    packed = pack(batch, cpu_engine(folders["bert", False], "cls")._module)
    ids = [*batch.input_ids[1, :3], *batch.input_ids[0, :2]]
    assert packed.flat.dtype == np.int32
    assert packed.flat.tolist() == [*ids, 0, 1, 2, 0, 1, 0, 1, 1, 0, 1, 0, 3, 5]
    assert packed.order is not None
    assert packed.order.tolist() == [1, 0]


def test_a_row_of_padding_only(folders: dict[tuple[str, bool], Path]) -> None:
    batch = ragged([4, 6], "bert")
    batch.attention_mask[0] = 0
    engine = cpu_engine(folders["bert", False], "cls")
    assert batch.token_type_ids is not None
    output = engine.run(batch)
    assert np.isfinite(output).all()
    assert batch.attention_mask[0].sum() == 0  # the caller's batch is as it was
    text = TokenBatch(batch.input_ids[1:], batch.attention_mask[1:], batch.token_type_ids[1:])
    np.testing.assert_allclose(output[1:], engine.run(text), atol=1e-5)


def test_trained_weights(starter_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(3, 120, 12)
    batch = ragged(lengths.tolist(), "bert")
    batch = TokenBatch(batch.input_ids + 1000 * batch.attention_mask, batch.attention_mask)
    expected = reference(starter_path, "mean", batch)
    output = cpu_engine(starter_path, "mean").run(batch)
    assert cosines(output, expected).min() >= 0.99999
    output = cpu_engine(starter_path, "mean", "bf16").run(batch)
    assert cosines(output, expected).min() >= 0.9995


def test_from_several_threads(folders: dict[tuple[str, bool], Path]) -> None:
    engine = cpu_engine(folders["xlmr", False], "mean")
    batches = [ragged(lengths, "xlmr") for lengths in RAGGED]
    expected = [engine.run(batch) for batch in batches]

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(len(batches), size=20).tolist():
            np.testing.assert_allclose(engine.run(batches[index]), expected[index], atol=1e-5)

    in_threads(work, 3)


@pytest.mark.parametrize("kind", [PackedEngine, TransformersEngine])
def test_several_batches_in_flight(folders: dict[tuple[str, bool], Path], kind: Any) -> None:
    engine = kind(folders["bert", False], "cls", device="cpu", dtype="fp32")
    batches = [ragged([index + 1, 2 * index + 1], "bert", seed=index) for index in range(6)]
    pending = [engine.submit(batch) for batch in batches]
    for wait, batch in zip(pending, batches, strict=True):
        np.testing.assert_array_equal(wait(), engine.run(batch))


class TestWhatItRefuses:
    def test_support_is_read_from_the_config(
        self, folders: dict[tuple[str, bool], Path], tmp_path: Path
    ) -> None:
        for (_, reranker), path in folders.items():
            assert packed_supports(path, "logits" if reranker else "mean")
            assert not packed_supports(path, "last")
        assert not packed_supports(tmp_path, "cls")
        (tmp_path / "config.json").write_text("[]")
        assert not packed_supports(tmp_path, "cls")
        (tmp_path / "config.json").write_text("not JSON")
        assert not packed_supports(tmp_path, "cls")

    @pytest.mark.parametrize(
        "changes",
        [
            {"model_type": "modernbert"},
            {"is_decoder": True},
            {"add_cross_attention": True},
            {"position_embedding_type": "relative_key"},
        ],
    )
    def test_other_architectures(
        self, folders: dict[tuple[str, bool], Path], tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        config = json.loads((folders["bert", False] / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert packed_supports(tmp_path, "cls")
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        assert not packed_supports(tmp_path, "cls")

    def test_another_architecture_is_a_fault(self, tmp_path: Path) -> None:
        from transformers import DistilBertConfig, DistilBertModel

        config = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
        DistilBertModel(config).save_pretrained(tmp_path)
        with pytest.raises(ModelFault, match="of a distilbert model") as caught:
            cpu_engine(tmp_path, "cls")
        assert caught.value.fix == "Use engine='transformers'."

    def test_the_last_token(self, folders: dict[tuple[str, bool], Path]) -> None:
        with pytest.raises(ModelFault, match=r"head 'last'.*engine='transformers'"):
            cpu_engine(folders["bert", False], "last")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": "int8"}, "engine='openvino'"),
            ({"dtype": "int3"}, "dtype='int3'"),
            ({"device": "quantum"}, "device='quantum'"),
            ({"device": "meta"}, "runs on cpu and cuda"),
        ],
    )
    def test_bad_arguments(
        self, folders: dict[tuple[str, bool], Path], options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidInput, match=message):
            PackedEngine(folders["bert", False], "cls", **({"device": "cpu"} | options))

    def test_int8_of_transformers(self, folders: dict[tuple[str, bool], Path]) -> None:
        with pytest.raises(InvalidInput, match="engine='openvino'"):
            TransformersEngine(folders["bert", False], "cls", device="cpu", dtype="int8")

    @pytest.mark.parametrize(("family", "most"), [("bert", 128), ("roberta", 128)])
    def test_longer_than_its_positions(
        self, folders: dict[tuple[str, bool], Path], family: str, most: int
    ) -> None:
        engine = cpu_engine(folders[family, False], "cls")
        assert engine.run(ragged([most], family)).shape[0] == 1
        with pytest.raises(ModelFault, match=rf"{most + 1} tokens .* max_length={most} or less"):
            engine.run(ragged([3, most + 1], family))

    @pytest.mark.parametrize("bad", [-1, 10**6])
    def test_ids_of_another_tokeniser(
        self, folders: dict[tuple[str, bool], Path], bad: int
    ) -> None:
        batch = ragged([5, 3], "bert")
        batch.input_ids[1, 1] = bad
        with pytest.raises(ModelFault, match=f"token id {bad} was given"):
            cpu_engine(folders["bert", False], "cls").run(batch)


class TestAttention:
    def packed(self, lengths: list[int]) -> tuple[torch.Tensor, NDArray[np.int64]]:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(3, sum(lengths), 2, 8, generator=generator), np.array(lengths)

    @pytest.mark.parametrize("lengths", [[4], [4, 4, 4], [9, 9, 5, 1, 1], [1, 2, 1]])
    def test_grouped(self, lengths: list[int]) -> None:
        (query, key, value), array = self.packed(lengths)
        starts = np.cumsum([0, *lengths])[:-1]
        expected = []
        for start, length in zip(starts, lengths, strict=True):
            part = slice(start, start + length)
            scores = torch.einsum("qhd,khd->hqk", query[part], key[part]) / 8**0.5
            expected.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[part]))
        attention = grouped(array)
        torch.testing.assert_close(attention.every(query, key, value), torch.cat(expected))
        first = attention.first(query[torch.from_numpy(starts)], key, value)
        torch.testing.assert_close(first, torch.stack([states[0] for states in expected]))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_varlen_as_the_model_calls_it(
        self, folders: dict[tuple[str, bool], Path], family: str
    ) -> None:
        # On the meta device torch checks the call and gives the shape, without a GPU.
        engine = cpu_engine(folders[family, False], "cls", "bf16")
        module = engine._module.to("meta")
        packed = pack(ragged([9, 4, 4], family), module)
        sent = torch.from_numpy(packed.flat).to("meta")
        *columns, cumulative = torch.split(sent, [17] * packed.columns + [4])
        attention = varlen(cumulative, 9)
        types = columns[2] if packed.columns == 3 else None
        with torch.inference_mode():
            output = module.run_packed(
                columns[0], columns[1], types, cumulative, attention.every, attention.first
            )
        assert output.shape == (3, module.words.embedding_dim)

    def test_varlen_is_for_cuda(self) -> None:
        assert not has_varlen(torch.device("cpu"), torch.bfloat16, 64)
        assert not has_varlen(torch.device("cuda"), torch.float32, 64)


class TestGraphShapes:
    @pytest.mark.parametrize(
        ("rows", "length", "longest", "expected"),
        [
            (1, 1, 512, (1, 16)),
            (1, 16, 512, (1, 16)),
            (1, 17, 512, (1, 32)),
            (3, 100, 512, (4, 128)),
            (4, 128, 512, (4, 128)),
            (5, 3, 512, None),
            (1, 129, 512, None),
            (2, 70, 100, (2, 100)),
            (2, 101, 100, None),
            (1, 3, 10, (1, 10)),
        ],
    )
    def test_bucket(
        self, rows: int, length: int, longest: int, expected: tuple[int, int] | None
    ) -> None:
        assert cuda_graphs.bucket(rows, length, longest) == expected

    def test_there_are_few(self) -> None:
        shapes = {
            cuda_graphs.bucket(rows, length, 512)
            for rows in range(1, 9)
            for length in range(1, 300)
        }
        assert len(shapes - {None}) == 12

    def test_none_on_a_cpu(self, folders: dict[tuple[str, bool], Path]) -> None:
        engine = cpu_engine(folders["bert", False], "cls")
        assert engine._graphs.find(1, 5) is None
