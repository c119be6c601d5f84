"""LM-Cocktail: averages equal a naive one, load everywhere, and nonsense is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.loaders import (
    PAIRS,
    PASSAGES,
    QUERIES,
    flag_scores,
    flag_vectors,
    our_encoder,
    our_reranker,
    sentence_scores,
    sentence_vectors,
    transformers_scores,
)
from training.merging_models import change, naive_average, shard, tuned
from transformers import AutoModel, AutoModelForSequenceClassification

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.resolve import resolve
from retrieval.training.merging.average import linear, slerp
from retrieval.training.merging.merge import merge_models
from retrieval.training.merging.weights import MergeWeights, equal_weights
from retrieval.types import ResolvedModel

INSTRUCTION = "Represent this sentence for searching relevant passages: "


def shares(*values: float) -> MergeWeights:
    return MergeWeights(values, "given")


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., list[ResolvedModel]]:
    """Factory: a model and one tuned from it, as the resolver finds them."""

    def make(
        family: str, kind: Any, edit: Callable[[Path], object] | None = None, **settings: Any
    ) -> list[ResolvedModel]:
        source = request.getfixturevalue(f"tiny_{family}_{kind}")
        folders = [
            tuned(source, tmp_path / f"{name}", seed=seed)
            for seed, name in enumerate(("tuned", "original"))
        ]
        if edit is not None:
            edit(folders[1])
        return [resolve(folder, kind, **settings) for folder in folders]

    return make


# --- what an average is ---------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_an_encoder_is_the_naive_average_and_the_same_everywhere(two, tmp_path, family) -> None:
    models = two(family, "encoder", query_instruction=INSTRUCTION)
    report = merge_models(models, shares(0.7, 0.3), tmp_path / "out")
    out = report.model.path
    expected = naive_average([one.path for one in models], [0.7, 0.3], AutoModel).state_dict()
    found = AutoModel.from_pretrained(out).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    assert report.tensors == sum(one.is_floating_point() for one in found.values())
    assert report.model.spec == replace(models[0].spec, name=str(out))
    ours = our_encoder(out)
    queries, passages = ours.encode_queries(QUERIES), ours.encode_passages(PASSAGES).vectors
    assert np.abs(queries - our_encoder(models[0].path).encode_queries(QUERIES)).max() > 1e-2
    for theirs in (
        sentence_vectors(out, QUERIES, "query"),
        flag_vectors(out, QUERIES, INSTRUCTION, "cls"),
    ):
        np.testing.assert_allclose(queries, theirs, atol=1e-4)
    np.testing.assert_allclose(passages, sentence_vectors(out, PASSAGES, "document"), atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_a_reranker_is_the_naive_average_and_the_same_everywhere(two, tmp_path, family) -> None:
    models = two(family, "reranker")
    out = merge_models(models, equal_weights(2), tmp_path / "out").model.path
    folders = [one.path for one in models]
    averaged = naive_average(folders, [0.5, 0.5], AutoModelForSequenceClassification)
    averaged.save_pretrained(tmp_path / "naive")
    for file in models[0].path.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "naive")
    expected = our_reranker(tmp_path / "naive").score(PAIRS).values
    for name, scores in (
        ("ours", our_reranker(out).score(PAIRS).values),
        ("sentence-transformers", sentence_scores(out)),
        ("FlagEmbedding", flag_scores(out)),
        ("transformers", transformers_scores(out)),
    ):
        np.testing.assert_allclose(scores, expected, atol=1e-4, err_msg=name)


def test_shards_and_pickles_are_read(two, tmp_path) -> None:
    models = two("bert", "encoder")
    whole = merge_models(models, equal_weights(2), tmp_path / "whole").model
    state = load_file(models[0].path / "model.safetensors")
    (models[0].path / "model.safetensors").unlink()
    shard(models[1].path)
    for zipped in (True, False):  # as torch saves since 1.6, and as it did before
        file = models[0].path / "pytorch_model.bin"
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        again = [resolve(one.path, "encoder") for one in models]
        parts = merge_models(again, equal_weights(2), tmp_path / f"parts-{zipped}").model
        files = [one.path / "model.safetensors" for one in (whole, parts)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert parts.fingerprint == whole.fingerprint


def test_numbers_are_averaged_in_float32_and_stored_as_asked(two, tmp_path) -> None:
    def half(folder: Path) -> None:
        change(folder, lambda state: state.update({k: v.half() for k, v in state.items()}))

    models = two("bert", "reranker", half)
    own = merge_models(models[::-1], equal_weights(2), tmp_path / "own")
    assert own.dtype == "fp16"
    stored = load_file(own.model.path / "model.safetensors")
    first, second = (load_file(one.path / "model.safetensors") for one in models)
    for name, tensor in stored.items():
        expected = ((first[name] + second[name].float()) / 2).half()
        assert torch.equal(tensor, expected), name
    asked = merge_models(models[::-1], equal_weights(2), tmp_path / "asked", dtype="bf16")
    stored = load_file(asked.model.path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    config = json.loads((asked.model.path / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert np.ptp(transformers_scores(asked.model.path)) > 0


def test_the_whole_of_one_model_is_that_model(two, tmp_path) -> None:
    models = two("bert", "encoder")
    for method in ("linear", "slerp"):
        out = merge_models(models, shares(1.0, 0.0), tmp_path / method, method=method).model
        stored = load_file(out.path / "model.safetensors")
        for name, tensor in load_file(models[0].path / "model.safetensors").items():
            torch.testing.assert_close(stored[name], tensor, atol=1e-7, rtol=1e-6)


def test_slerp_keeps_to_the_arc() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    half = slerp(a, b, 0.5)
    assert half is not None
    torch.testing.assert_close(half, torch.tensor([[math.sqrt(2), math.sqrt(2)]]))
    third = slerp(a, b, 1 / 3)
    assert third is not None
    torch.testing.assert_close(third, 2 * torch.tensor([[math.cos(math.pi / 6), 0.5]]))
    assert linear([a, b], [0.5, 0.5]).norm() < half.norm()
    for other in (3 * a, -a, 0 * a):  # no arc: the same way, the opposite one, nothing
        assert slerp(a, other, 0.5) is None


def test_slerp_says_what_it_took_linearly(two, tmp_path) -> None:
    models = two("bert", "encoder")
    norm = "embeddings.LayerNorm.weight"
    state = load_file(models[0].path / "model.safetensors")
    change(models[1].path, lambda own: own.update({norm: state[norm] * 2}))
    report = merge_models(models, equal_weights(2), tmp_path / "out", method="slerp")
    assert report.collinear == 1
    stored = load_file(report.model.path / "model.safetensors")
    torch.testing.assert_close(stored[norm], state[norm] * 1.5)
    assert "1 tensors were collinear" in (report.model.path / "README.md").read_text("utf-8")


# --- weights that only some have, buffers, ties ---------------------------------------------


def test_a_pooler_that_nothing_computes_with_is_left_out(two, tmp_path) -> None:
    def edit(folder: Path) -> None:
        change(folder, lambda state: [state.pop(f"pooler.dense.{k}") for k in ("weight", "bias")])

    report = merge_models(two("bert", "encoder", edit), equal_weights(2), tmp_path / "out")
    assert "pooler.dense.bias" in report.notices[0]
    assert not any("pooler" in k for k in load_file(report.model.path / "model.safetensors"))


def test_of_a_cross_encoder_the_pooler_is_part_of_the_head(two, tmp_path) -> None:
    def edit(folder: Path) -> None:
        change(folder, lambda state: state.pop("bert.pooler.dense.bias"))

    with pytest.raises(InvalidInput, match=r"has weights that .*: bert.pooler.dense.bias"):
        merge_models(two("bert", "reranker", edit), equal_weights(2), tmp_path / "out")


def test_positions_that_older_files_store(two, tmp_path) -> None:
    positions = {"embeddings.position_ids": torch.arange(128)[None]}
    models = two("bert", "encoder", lambda folder: change(folder, lambda s: s.update(positions)))
    left = merge_models(models, equal_weights(2), tmp_path / "left")
    assert "embeddings.position_ids" in left.notices[0]
    change(models[0].path, lambda state: state.update(positions))
    kept = merge_models(models, equal_weights(2), tmp_path / "kept").model.path
    assert torch.equal(
        load_file(kept / "model.safetensors")["embeddings.position_ids"], torch.arange(128)[None]
    )
    change(models[0].path, lambda s: s.update({k: v + 1 for k, v in positions.items()}))
    with pytest.raises(InvalidInput, match=r"position_ids holds whole numbers.*they differ"):
        merge_models(models, equal_weights(2), tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("twice", [(0,), (0, 1), (1,)])
def test_tied_weights_stay_tied(tmp_path, twice) -> None:
    from reference.modern_models import bert_like_tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = Qwen3Config(
            vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, head_dim=8, intermediate_size=16, tie_word_embeddings=True,
        )  # fmt: skip
        folder = tmp_path / f"model-{seed}"
        Qwen3ForCausalLM(config).save_pretrained(folder)
        bert_like_tokenizer().save_pretrained(folder)
        if seed in twice:
            change(
                folder,
                lambda s: s.update({"lm_head.weight": s["model.embed_tokens.weight"].clone()}),
            )
        folders.append(folder)
    models = [resolve(one, "reranker", score_head="yes-logit") for one in folders]
    report = merge_models(models, equal_weights(2), tmp_path / "out")
    merged = Qwen3ForCausalLM.from_pretrained(report.model.path)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    expected = naive_average(folders, [0.5, 0.5], Qwen3ForCausalLM).model.embed_tokens.weight
    torch.testing.assert_close(merged.model.embed_tokens.weight, expected)


# --- instructions, length, files ------------------------------------------------------------


def test_instructions_and_length_of_one_model_are_taken(two, tmp_path) -> None:
    """The two variants of bge-large-zh-v1.5: one tuned with the instruction, one without."""
    models = two("bert", "encoder")
    with_it = resolve(models[0].path, "encoder", query_instruction="为这个句子: ", max_length=64)
    report = merge_models([with_it, models[1]], equal_weights(2), tmp_path / "first")
    assert any("'为这个句子: '" in one and "taken is that of" in one for one in report.notices)
    assert any("the length in tokens differs" in one for one in report.notices)
    spec = resolve(tmp_path / "first", "encoder").spec
    assert (spec.query_instruction, spec.max_length) == ("为这个句子: ", 64)
    merge_models([with_it, models[1]], equal_weights(2), tmp_path / "second", settings_of=1)
    spec = resolve(tmp_path / "second", "encoder").spec
    assert (spec.query_instruction, spec.max_length) == ("", 128)


def test_bare_folders_become_whole_ones(two, tmp_path) -> None:
    """As transformers or FlagEmbedding save them: the settings come from the caller."""
    models = two("xlmr", "encoder")
    for one in models:
        for name in ("modules.json", "sentence_bert_config.json"):
            (one.path / name).unlink()
        shutil.rmtree(one.path / "1_Pooling")
    given = [resolve(one.path, "encoder", pooling="mean") for one in models]
    out = merge_models(given, equal_weights(2), tmp_path / "out").model
    assert out.spec.pooling == "mean"
    np.testing.assert_allclose(
        our_encoder(out.path).encode_queries(QUERIES),
        sentence_vectors(out.path, QUERIES, "query"),
        atol=1e-4,
    )


def test_the_card_is_the_recipe(two, tmp_path) -> None:
    models = two("bert", "encoder")
    weights = MergeWeights((0.6, 0.4), "loss", (0.25, 0.65), 12, 1.0)
    report = merge_models(models, weights, tmp_path / "cocktail")
    text = (report.model.path / "README.md").read_text("utf-8")
    assert f"| tuned | 0.6 | `{models[0].fingerprint}` | 0.25 |" in text
    assert "softmax(-loss / 1) of each model's loss on 12 examples" in text
    assert str(tmp_path) not in text


def test_the_folder_is_whole_or_not_there(two, tmp_path) -> None:
    models = two("bert", "encoder")
    out = tmp_path / "out"
    out.mkdir()
    merge_models(models, equal_weights(2), out)  # an empty one is fine
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(InvalidInput, match=r"is not empty.*--overwrite"):
        merge_models(models, shares(0.1, 0.9), out)
    change(
        models[1].path,
        lambda s: s.update({"embeddings.LayerNorm.bias": torch.full((64,), float("nan"))}),
    )
    with pytest.raises(ModelFault, match=r"LayerNorm.bias of .*original holds numbers that are"):
        merge_models(models, equal_weights(2), out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["original", "out", "tuned"]
    with pytest.raises(InvalidInput, match="which it is made from"):
        merge_models(models, equal_weights(2), models[0].path, overwrite=True)
    merge_models([models[0]] * 2, equal_weights(2), out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() != before


# --- what is refused ------------------------------------------------------------------------


def test_other_networks(two, tmp_path, make_tiny_model: Callable[..., Path]) -> None:
    model = two("bert", "encoder")[0]

    def refused(folder: Path, **settings: Any) -> str:
        with pytest.raises(InvalidInput) as error:
            merge_models(
                [model, resolve(folder, "encoder", **settings)], equal_weights(2), tmp_path / "no"
            )
        assert not (tmp_path / "no").exists()
        return str(error.value)

    assert "num_hidden_layers of config.json is 2 in the one and 3" in refused(
        make_tiny_model("bert", "encoder", num_hidden_layers=3)
    )
    assert "pooling is 'cls' in the one and 'mean'" in refused(
        make_tiny_model("bert", "encoder", pooling="mean")
    )
    assert "model_type of config.json is 'bert' in the one and 'xlm-roberta'" in refused(
        make_tiny_model("xlmr", "encoder")
    )
    missing = make_tiny_model("bert", "encoder")
    change(missing, lambda state: state.pop("embeddings.LayerNorm.bias"))
    assert "has weights that" in refused(missing)
    assert "embeddings.LayerNorm.bias" in refused(missing)


def test_other_tokenisers(two, tmp_path) -> None:
    def edit(change_: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
        def run(folder: Path) -> None:
            path = folder / "tokenizer.json"
            parsed = json.loads(path.read_text("utf-8"))
            change_(parsed)
            path.write_text(json.dumps(parsed, indent=1, sort_keys=True), "utf-8")

        return run

    models = two("bert", "encoder", edit(lambda parsed: None))  # other bytes, the same meaning
    merge_models(models, equal_weights(2), tmp_path / "same")

    def swap(parsed: dict[str, Any]) -> None:
        vocabulary = parsed["model"]["vocab"]
        vocabulary["dog"], vocabulary["fox"] = vocabulary["fox"], vocabulary["dog"]

    edit(swap)(models[1].path)
    with pytest.raises(InvalidInput, match=r"tokenisers give texts other ids \('(dog|fox)' is"):
        merge_models(models, equal_weights(2), tmp_path / "other")
    (models[1].path / "tokenizer.json").write_text("{", "utf-8")
    from retrieval.errors import ModelNotFound

    with pytest.raises(ModelNotFound, match="no tokeniser that can be read"):
        merge_models(models, equal_weights(2), tmp_path / "broken")


def test_wrong_calls(two, tmp_path) -> None:
    models = two("bert", "reranker")
    with pytest.raises(InvalidInput, match="1 models were given"):
        merge_models(models[:1], shares(1.0), tmp_path / "out")
    with pytest.raises(InvalidInput, match="slerp was asked for 3 models"):
        merge_models([*models, models[0]], equal_weights(3), tmp_path / "out", method="slerp")
    with pytest.raises(InvalidInput, match=r"2 models with the weights 1\.5"):
        merge_models(models, shares(1.5, -0.5), tmp_path / "out", method="slerp")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="is a file, expected a folder"):
        merge_models(models, equal_weights(2), tmp_path / "file")
    change(models[1].path, lambda s: s.update({"classifier.bias": torch.tensor([1e6])}))
    with pytest.raises(ModelFault, match=r"the average of classifier.bias is too large for F16"):
        merge_models(models, equal_weights(2), tmp_path / "out", dtype="fp16")
