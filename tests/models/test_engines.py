"""Engines: the same numbers as plain transformers, on either engine, in any company."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.batches import TEXTS, change_weights, cosines, in_threads, pair_batch, text_batch

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models.engines import Head, TokenBatch, load_engine
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.models.engines.modules import pool
from retrieval.models.engines.openvino import OpenVINOEngine
from retrieval.types import FloatArray

ENCODERS = ["tiny_bert_encoder", "tiny_xlmr_encoder"]
RERANKERS = ["tiny_bert_reranker", "tiny_xlmr_reranker"]
POOLED: list[Head] = ["cls", "mean", "last"]
PAIRS = [("what is a fox?", text) for text in TEXTS]


def plain_hidden(path: Path, texts: list[str] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and mask from transformers alone, in its simplest use."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(path)(
        texts, padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(**inputs).last_hidden_state, inputs["attention_mask"]


def plain_pooled(path: Path, head: Head) -> FloatArray:
    hidden, mask = plain_hidden(path)
    rows = []
    for states, row in zip(hidden, mask, strict=True):
        real = states[row.bool()]
        rows.append({"cls": real[0], "mean": real.mean(0), "last": real[-1]}[head])
    return torch.stack(rows).numpy()


def plain_logits(path: Path) -> FloatArray:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(path)(
        [query for query, _ in PAIRS],
        [passage for _, passage in PAIRS],
        padding=True,
        truncation="only_second",
        max_length=128,
        return_tensors="pt",
    )
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return model(**inputs).logits.view(-1).numpy()


@pytest.fixture(params=ENCODERS)
def encoder_path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=RERANKERS)
def reranker_path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
class TestAgainstPlainTransformers:
    @pytest.mark.parametrize("head", POOLED)
    def test_pooled_fp32(self, encoder_path: Path, engine: Any, head: Head) -> None:
        loaded = load_engine(encoder_path, head, engine=engine, device="cpu", dtype="fp32")
        output = loaded.run(text_batch(encoder_path))
        assert (loaded.name, loaded.device, loaded.dtype) == (engine, "cpu", "fp32")
        assert loaded.head == head
        assert output.dtype == np.float32
        expected = plain_pooled(encoder_path, head)
        assert cosines(output, expected).min() >= 0.99999
        np.testing.assert_allclose(output, expected, atol=1e-3)

    def test_tokens_fp32(self, encoder_path: Path, engine: Any) -> None:
        loaded = load_engine(encoder_path, "tokens", engine=engine, device="cpu", dtype="fp32")
        batch = text_batch(encoder_path)
        output = loaded.run(batch)
        hidden, mask = plain_hidden(encoder_path)
        real = mask.bool().numpy()
        assert output.shape == (*batch.input_ids.shape, 64)
        assert cosines(output[real], hidden.numpy()[real]).min() >= 0.99999

    def test_logits_fp32(self, reranker_path: Path, engine: Any) -> None:
        loaded = load_engine(reranker_path, "logits", engine=engine, device="cpu", dtype="fp32")
        output = loaded.run(pair_batch(reranker_path))
        expected = plain_logits(reranker_path)
        assert output.shape == (len(PAIRS),)
        assert np.ptp(expected) > 0.1  # the random model does tell the pairs apart
        np.testing.assert_allclose(output, expected, atol=1e-4)

    def test_bf16(self, encoder_path: Path, engine: Any) -> None:
        loaded = load_engine(encoder_path, "cls", engine=engine, device="cpu", dtype="bf16")
        output = loaded.run(text_batch(encoder_path))
        assert loaded.dtype == "bf16"
        assert output.dtype == np.float32
        assert cosines(output, plain_pooled(encoder_path, "cls")).min() >= 0.999

    @pytest.mark.parametrize("head", [*POOLED, "tokens"])
    def test_alone_or_in_company(self, encoder_path: Path, engine: Any, head: Head) -> None:
        loaded = load_engine(encoder_path, head, engine=engine, device="cpu", dtype="fp32")
        together = loaded.run(text_batch(encoder_path))
        for row, text in enumerate(TEXTS):
            alone = loaded.run(text_batch(encoder_path, [text]))[0]
            mixed = together[row][: len(alone)] if head == "tokens" else together[row]
            np.testing.assert_allclose(alone, mixed, atol=1e-3)

    def test_from_several_threads(self, tiny_bert_encoder: Path, engine: Any) -> None:
        loaded = load_engine(tiny_bert_encoder, "cls", engine=engine, device="cpu", dtype="fp32")
        batches = [text_batch(tiny_bert_encoder, [text] * 3) for text in TEXTS]
        expected = [loaded.run(batch) for batch in batches]

        def work(seed: int) -> None:
            order = np.random.default_rng(seed).integers(len(batches), size=40).tolist()
            for pair in zip(order[::2], order[1::2], strict=True):  # two under way in each thread
                started = [loaded.submit(batches[index]) for index in pair]
                for index, pending in zip(pair, started, strict=True):
                    np.testing.assert_allclose(pending(), expected[index], atol=1e-4)

        in_threads(work)


@pytest.mark.parametrize("seed", range(3))
def test_trained_model_bf16(starter_path: Path, seed: int) -> None:
    texts = [" ".join(np.random.default_rng(seed).permutation(TEXTS)), *TEXTS]
    batch = text_batch(starter_path, texts)
    exact = load_engine(starter_path, "mean", engine="transformers", device="cpu", dtype="fp32")
    fast = load_engine(starter_path, "mean", engine="openvino", dtype="bf16")
    assert cosines(exact.run(batch), fast.run(batch)).min() >= 0.999


@pytest.mark.parametrize("left", [False, True])
def test_last_token_on_either_side_of_the_padding(left: bool) -> None:
    hidden = torch.arange(24, dtype=torch.float32).view(2, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]] if left else [[1, 1, 0, 0], [1, 1, 1, 1]])
    last = 3 if left else 1
    expected = torch.stack([hidden[0, last], hidden[1, 3]])
    assert torch.equal(pool(hidden, mask, "last"), expected)


def test_mean_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert pool(hidden, torch.tensor([[1, 1, 0]]), "mean").item() == 2.0


class TestChoice:
    def test_auto_on_a_cpu(self, tiny_bert_encoder: Path) -> None:
        loaded = load_engine(tiny_bert_encoder, "cls", device="cpu")
        assert loaded.name == "openvino"
        assert loaded.dtype == ("bf16" if cpu_multiplies_bf16() else "fp32")

    def test_auto_dtype_of_transformers_on_a_cpu(self, tiny_bert_encoder: Path) -> None:
        loaded = load_engine(tiny_bert_encoder, "cls", engine="transformers", device="cpu")
        assert loaded.dtype == ("bf16" if cpu_multiplies_bf16() else "fp32")

    def test_fp16_is_left_to_torch(self, tiny_bert_encoder: Path) -> None:
        loaded = load_engine(tiny_bert_encoder, "cls", device="cpu", dtype="fp16")
        assert (loaded.name, loaded.dtype) == ("packed", "fp16")
        loaded = load_engine(tiny_bert_encoder, "last", device="cpu", dtype="fp16")
        assert (loaded.name, loaded.dtype) == ("transformers", "fp16")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"engine": "onnx"}, "engine='onnx'"),
            ({"engine": "openvino", "device": "cuda"}, "runs on the CPU"),
            ({"engine": "openvino", "dtype": "fp16"}, "dtype='fp16'"),
            ({"engine": "transformers", "device": "cpu", "dtype": "int3"}, "dtype='int3'"),
            ({"engine": "transformers", "device": "quantum"}, "device='quantum'"),
            ({"threads": 0}, "threads is 0"),
        ],
    )
    def test_bad_arguments(
        self, tiny_bert_encoder: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidInput, match=message):
            load_engine(tiny_bert_encoder, "cls", **options)

    def test_torch_where_openvino_cannot(
        self, tiny_bert_encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("no such operation")

        monkeypatch.setattr("openvino.convert_model", refuse)
        with pytest.raises(ModelFault, match="no such operation"):
            load_engine(tiny_bert_encoder, "cls", engine="openvino", cache_dir=tmp_path)
        loaded = load_engine(tiny_bert_encoder, "cls", device="cpu", cache_dir=tmp_path)
        assert loaded.name == "packed"
        loaded = load_engine(tiny_bert_encoder, "last", device="cpu", cache_dir=tmp_path)
        assert loaded.name == "transformers"

    def test_torch_where_openvino_is_absent(
        self, tiny_bert_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("retrieval.models.engines._openvino_installed", lambda: False)
        assert load_engine(tiny_bert_encoder, "cls", device="cpu").name == "packed"
        assert load_engine(tiny_bert_encoder, "last", device="cpu").name == "transformers"
        with pytest.raises(InvalidInput, match="not installed"):
            load_engine(tiny_bert_encoder, "cls", engine="openvino")


class TestWeights:
    @pytest.mark.parametrize("engine", ["transformers", "openvino"])
    def test_an_encoder_is_no_cross_encoder(self, tiny_bert_encoder: Path, engine: Any) -> None:
        with pytest.raises(ModelFault, match="trained score head"):
            load_engine(tiny_bert_encoder, "logits", engine=engine)

    def test_several_labels_are_no_score(self, make_tiny_model: Callable[..., Path]) -> None:
        path = make_tiny_model("bert", "reranker", labels=3)
        with pytest.raises(ModelSettingUnknown, match="gives 3 logits, expected one"):
            load_engine(path, "logits")

    def test_missing_tensors_are_not_made_up(self, tiny_bert_encoder: Path, tmp_path: Path) -> None:
        path = shutil.copytree(tiny_bert_encoder, tmp_path / "model")
        change_weights(
            path, lambda tensors: tensors.pop("encoder.layer.1.intermediate.dense.weight")
        )
        with pytest.raises(ModelFault, match=r"layer\.1\.intermediate"):
            load_engine(path, "cls")

    def test_tensors_of_another_shape(
        self, make_tiny_model: Callable[..., Path], tmp_path: Path
    ) -> None:
        path = make_tiny_model("bert", "encoder")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
        with pytest.raises(ModelFault, match=r"another shape, among them .*intermediate"):
            load_engine(path, "cls")

    def test_damaged_and_absent_weights(self, tiny_bert_encoder: Path, tmp_path: Path) -> None:
        path = tmp_path / "model"
        shutil.copytree(tiny_bert_encoder, path)
        (path / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(ModelNotFound, match="cannot be loaded"):
            load_engine(path, "cls")
        (path / "model.safetensors").unlink()
        with pytest.raises(ModelNotFound, match="cannot be loaded"):
            load_engine(path, "cls")

    def test_an_unused_pooler_may_be_absent(self, tiny_bert_encoder: Path, tmp_path: Path) -> None:
        path = shutil.copytree(tiny_bert_encoder, tmp_path / "model")
        for name in ("pooler.dense.weight", "pooler.dense.bias"):
            change_weights(path, lambda tensors, name=name: tensors.pop(name))
        output = load_engine(path, "cls", device="cpu", dtype="fp32").run(text_batch(path))
        assert cosines(output, plain_pooled(tiny_bert_encoder, "cls")).min() >= 0.99999


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_failures_are_faults(tiny_bert_encoder: Path, engine: Any) -> None:
    loaded = load_engine(tiny_bert_encoder, "cls", engine=engine, device="cpu", dtype="fp32")
    too_long = np.ones((1, 300), dtype=np.int64)
    with pytest.raises(ModelFault, match=r"failed on a batch of shape \(1, 300\)"):
        loaded.run(TokenBatch(too_long, too_long))


class TestKeptGraphs:
    def test_a_second_start_traces_nothing(
        self, tiny_bert_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = text_batch(tiny_bert_encoder)
        first = OpenVINOEngine(tiny_bert_encoder, "cls", dtype="fp32", cache_dir=tmp_path)
        monkeypatch.setattr("openvino.convert_model", lambda *_, **__: pytest.fail("traced again"))
        second = OpenVINOEngine(tiny_bert_encoder, "cls", dtype="fp32", cache_dir=tmp_path)
        np.testing.assert_array_equal(first.run(batch), second.run(batch))

    @pytest.mark.parametrize("damage", ["graph.bin", "same size"])
    def test_a_damaged_graph_is_made_again(
        self, tiny_bert_encoder: Path, tmp_path: Path, damage: str
    ) -> None:
        batch = text_batch(tiny_bert_encoder)
        expected = OpenVINOEngine(tiny_bert_encoder, "cls", cache_dir=tmp_path).run(batch)
        (entry,) = tmp_path.iterdir()
        if damage == "same size":
            size = (entry / "graph.xml").stat().st_size
            (entry / "graph.xml").write_bytes(b" " * size)
        else:
            (entry / damage).write_bytes(b"{")
        again = OpenVINOEngine(tiny_bert_encoder, "cls", cache_dir=tmp_path)
        np.testing.assert_allclose(again.run(batch), expected)
        assert [entry.name] == [folder.name for folder in tmp_path.iterdir()]
        assert json.loads((entry / "sizes.json").read_text())["graph.xml"] > 1000

    def test_other_weights_have_another_graph(
        self, make_tiny_model: Callable[..., Path], tmp_path: Path
    ) -> None:
        path = make_tiny_model("bert", "encoder", seed=1)
        batch = text_batch(path)
        before = OpenVINOEngine(path, "cls", dtype="fp32", cache_dir=tmp_path).run(batch)
        other = make_tiny_model("bert", "encoder", seed=2)
        shutil.copy(other / "model.safetensors", path / "model.safetensors")
        after = OpenVINOEngine(path, "cls", dtype="fp32", cache_dir=tmp_path).run(batch)
        assert len(list(tmp_path.iterdir())) == 2
        assert cosines(before, after).max() < 0.9

    def test_what_cannot_be_kept_does_not_matter(
        self, tiny_bert_encoder: Path, tmp_path: Path
    ) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        engine = OpenVINOEngine(tiny_bert_encoder, "cls", cache_dir=blocked)
        assert engine.run(text_batch(tiny_bert_encoder)).shape == (len(TEXTS), 64)
        assert blocked.read_text() == "not a folder"

    def test_a_graph_that_differs_from_its_model_is_refused(
        self, tiny_bert_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trace = torch.jit.trace

        def forget_the_mask(module: torch.nn.Module, example: Any, **options: Any) -> Any:
            class Forgetful(torch.nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.module = module

                def forward(self, ids: Any, mask: Any, types: Any) -> Any:
                    return self.module(ids, torch.ones_like(ids), types) + 0 * mask[:, :1]

            return trace(Forgetful().eval(), example, **options)

        monkeypatch.setattr("torch.jit.trace", forget_the_mask)
        with pytest.raises(ModelFault, match="differs from the model"):
            OpenVINOEngine(tiny_bert_encoder, "mean", dtype="fp32", cache_dir=None)
