"""Merges beyond BERT: ModernBERT, heads of Dense modules, bge-m3's two layers, old layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.modern_models import bert_like_tokenizer, modernbert_config, save, save_ettin
from reference.peers import silenced
from safetensors.torch import load_file
from training.loaders import PAIRS, QUERIES, our_encoder, our_reranker, sentence_scores
from training.merging_models import change, tuned

from retrieval.errors import InvalidInput
from retrieval.models.resolve import resolve
from retrieval.training.merging.merge import merge_models
from retrieval.training.merging.weights import equal_weights


@pytest.fixture(scope="module")
def ettin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ModernBertModel

    root = tmp_path_factory.mktemp("ettin")
    source = save(root / "source", ModernBertModel, modernbert_config(), bert_like_tokenizer())
    with silenced():
        return save_ettin(source, root / "my-ettin")


def test_modules_of_a_head_are_averaged_too(ettin: Path, tmp_path: Path) -> None:
    folders = [tuned(ettin, tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    for seed, folder in enumerate(folders):
        for part in ("2_Dense", "4_Dense"):
            own = tuned(ettin / part, tmp_path / f"{part}-{seed}", seed=seed + 7)
            shutil.copy(own / "model.safetensors", folder / part)
    models = [resolve(folder, "reranker") for folder in folders]
    report = merge_models(models, equal_weights(2), tmp_path / "out")
    out = report.model.path
    for part in ("2_Dense", "4_Dense"):
        states = [load_file(folder / part / "model.safetensors") for folder in folders]
        for name, found in load_file(out / part / "model.safetensors").items():
            torch.testing.assert_close(found, (states[0][name] + states[1][name]) / 2)
    ours = our_reranker(out).score(PAIRS).values
    np.testing.assert_allclose(ours, sentence_scores(out), atol=1e-4)
    assert np.abs(ours - our_reranker(folders[0]).score(PAIRS).values).max() > 1e-3
    assert out.joinpath("modules.json").read_text() == ettin.joinpath("modules.json").read_text()


def test_the_layers_of_bge_m3(make_tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_tiny_model("xlmr", "encoder")
    folders = [tuned(source, tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    random = torch.Generator().manual_seed(0)
    states: dict[str, list[dict[str, Any]]] = {}
    for name, size in (("sparse_linear.pt", 1), ("colbert_linear.pt", 64)):
        for folder in folders:
            state = {
                "weight": torch.randn((size, 64), generator=random),
                "bias": torch.randn((size,), generator=random),
            }
            torch.save(state, folder / name)
            states.setdefault(name, []).append(state)
    models = [resolve(folder, "encoder") for folder in folders]
    report = merge_models(models, equal_weights(2), tmp_path / "out")
    for name, (first, second) in states.items():
        found = torch.load(report.model.path / name, weights_only=True)
        for key in ("weight", "bias"):
            torch.testing.assert_close(found[key], (first[key] + second[key]) / 2)
    (folders[1] / "sparse_linear.pt").unlink()
    report = merge_models(models, equal_weights(2), tmp_path / "without")
    assert any("left out: sparse_linear.pt" in one for one in report.notices)
    assert not (report.model.path / "sparse_linear.pt").exists()
    assert (report.model.path / "colbert_linear.pt").exists()


def test_an_old_layout_becomes_one_folder(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    folders = [tuned(tiny_bert_encoder, tmp_path / name, seed=s) for s, name in enumerate("ab")]
    plain = [resolve(folder, "encoder") for folder in folders]
    expected = merge_models(plain, equal_weights(2), tmp_path / "plain").model
    old = folders[0]
    (old / "0_Transformer").mkdir()
    for file in list(old.iterdir()):
        if file.is_file() and file.name != "modules.json":
            file.rename(old / "0_Transformer" / file.name)
    modules = json.loads((old / "modules.json").read_text("utf-8"))
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules), "utf-8")
    models = [resolve(old, "encoder"), plain[1]]
    assert models[0].path == old / "0_Transformer"
    found = merge_models(models, equal_weights(2), tmp_path / "out").model
    assert found.path == tmp_path / "out"
    np.testing.assert_array_equal(
        our_encoder(found.path).encode_queries(QUERIES),
        our_encoder(expected.path).encode_queries(QUERIES),
    )


def test_layers_behind_the_pooling_are_refused(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    """A known model's folder may have them; averaging the transformer alone would spoil it."""
    folders = [tuned(tiny_bert_encoder, tmp_path / name, seed=s) for s, name in enumerate("ab")]
    models = [resolve(folder, "encoder") for folder in folders]
    modules = json.loads((folders[1] / "modules.json").read_text("utf-8"))
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folders[1] / "modules.json").write_text(json.dumps([*modules, dense]), "utf-8")
    with pytest.raises(InvalidInput, match="has layers behind its pooling"):
        merge_models(models, equal_weights(2), tmp_path / "out")


def test_quantised_weights_are_refused(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    folders = [tuned(tiny_bert_encoder, tmp_path / name, seed=s) for s, name in enumerate("ab")]
    models = [resolve(folder, "encoder") for folder in folders]
    name = "encoder.layer.0.output.dense.weight"
    change(folders[1], lambda s: s.update({name: s[name].to(torch.float8_e4m3fn)}))
    with pytest.raises(InvalidInput, match=r"is quantised in .*b \(F8_E4M3\)"):
        merge_models(models, equal_weights(2), tmp_path / "out")
    change(folders[1], lambda s: s.update({name: s[name].float().to(torch.int8)}))
    with pytest.raises(InvalidInput, match="holds whole numbers"):
        merge_models(models, equal_weights(2), tmp_path / "out")
