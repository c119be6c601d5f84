"""ModernBERT and Qwen3 encoders: vectors of sentence-transformers and of plain transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.modern_models import (
    bert_like_tokenizer,
    modernbert_config,
    qwen3_config,
    qwen3_tokenizer,
    save,
    save_sentence_encoder,
)
from reference.peers import plain_vectors, sentence_vectors, silenced
from reference.texts import cosines, mixed_texts, spread

from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models.engines.base import EngineName
from retrieval.models.known_models import MODELS
from retrieval.models.load import load_encoder
from retrieval.models.resolve import resolve

TEXTS = mixed_texts(longest=128)
QWEN3 = MODELS["Qwen/Qwen3-Embedding-0.6B"].query_instruction
NOMIC = {"query": "search_query: ", "document": "search_document: "}

FAMILIES = {
    # pooling, prompts as the repository declares them
    "gte-modernbert-base": ("cls", {}),
    "modernbert-embed-base": ("mean", NOMIC),
    "Qwen3-Embedding-0.6B": ("lasttoken", {"query": QWEN3, "document": ""}),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each family as its repository is, under a name that is not known here."""
    from transformers import ModernBertModel, Qwen3ForCausalLM

    root = tmp_path_factory.mktemp("modern")
    paths = {}
    for name, (pooling, prompts) in FAMILIES.items():
        source = root / "source" / name
        if name.startswith("Qwen3"):
            # The repository's config.json names the language model, its head is left out.
            tokenizer = qwen3_tokenizer(ends=True)
            save(source, Qwen3ForCausalLM, qwen3_config(), tokenizer)
        else:
            save(source, ModernBertModel, modernbert_config(), bert_like_tokenizer())
        with silenced():
            paths[name] = save_sentence_encoder(source, root / f"my-{name}", pooling, prompts)
    return paths


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_those_of_sentence_transformers_and_plain_transformers(
    families: dict[str, Path], name: str, engine: EngineName
) -> None:
    path = families[name]
    pooling, prompts = FAMILIES[name]
    declared = {} if prompts else {"query_instruction": ""}
    encoder = load_encoder(path, engine=engine, dtype="fp32", device="cpu", **declared)
    assert encoder.engine == f"{engine} fp32 on cpu"
    assert encoder.info.query_instruction == prompts.get("query", "")
    assert encoder.info.passage_instruction == prompts.get("document", "")
    queries, passages = encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS)
    for kind, ours in (("query", queries), ("document", passages.vectors)):
        theirs = sentence_vectors(path, TEXTS, prompt_name=kind if prompts else None)
        assert spread(theirs, TEXTS) < 0.999, "the model tells nothing apart"
        assert cosines(ours, theirs).min() >= 0.9999
    before = prompts.get("query", "")
    plain = plain_vectors(
        path,
        [before + text for text in TEXTS],
        pooling="last" if pooling == "lasttoken" else pooling,
        max_length=128,
    )
    assert cosines(queries, plain).min() >= 0.9999
    assert passages.truncated.sum() >= 2


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_and_padding_change_nothing(families: dict[str, Path], name: str) -> None:
    """Far more padding than a window of attention, on either side of what a text can see."""
    texts = ["dog", "the quick brown fox " * 40, "a", "read the path " * 12]
    for engine in ("openvino", "transformers"):
        encoder = load_encoder(
            families[name], query_instruction="", engine=engine, dtype="fp32", device="cpu"
        )
        together = encoder.encode_passages(texts).vectors
        alone = np.concatenate([encoder.encode_passages([text]).vectors for text in texts])
        np.testing.assert_allclose(together, alone, atol=2e-5)
        small = load_encoder(
            families[name], query_instruction="", engine=engine, dtype="fp32", device="cpu",
            token_budget=130,
        )  # fmt: skip
        np.testing.assert_allclose(small.encode_passages(texts[::-1]).vectors, together[::-1],
                                   atol=2e-5)  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
def test_qwen3_ends_each_text_and_pools_there_whichever_side_is_padded(
    families: dict[str, Path], tmp_path: Path, side: str
) -> None:
    path = shutil.copytree(families["Qwen3-Embedding-0.6B"], tmp_path / side)
    qwen3_tokenizer(ends=True, side=side).save_pretrained(path)
    encoder = load_encoder(path, dtype="fp32", device="cpu", max_length=64)
    tokens = encoder._tokenizer.encode(["dog " * 100, "dog", ""])  # type: ignore[union-attr]
    assert [tokens.row(row)[-1] for row in range(3)] == [0, 0, 0]
    assert tokens.lengths.tolist()[::2] == [64, 1]
    assert tokens.truncated.tolist() == [True, False, False]
    theirs = sentence_vectors(path, TEXTS[:12], prompt_name="query")
    ours = load_encoder(path, dtype="fp32", device="cpu").encode_queries(TEXTS[:12])
    assert cosines(ours, theirs).min() >= 0.9999


def test_qwen3_vectors_are_cut_where_it_was_trained_for_it(
    families: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name, with a spec of the real model at the tiny one's size."""
    import dataclasses

    from retrieval.models.encoders.bi_encoder import BiEncoder

    resolved = resolve(families["Qwen3-Embedding-0.6B"], "encoder")
    spec = dataclasses.replace(resolved.spec, matryoshka=(32,))
    resolved = dataclasses.replace(resolved, spec=spec)
    short = BiEncoder(resolved, truncate_dim=32, dtype="fp32", device="cpu")
    whole = BiEncoder(resolved, dtype="fp32", device="cpu").encode_passages(TEXTS[:9]).vectors
    assert cosines(short.encode_passages(TEXTS[:9]).vectors, whole[:, :32]).min() >= 0.99999
    with pytest.raises(InvalidInput, match=r"shorter dimensions for which .* are: 32"):
        BiEncoder(resolved, truncate_dim=48)


@pytest.mark.parametrize("name", FAMILIES)
def test_int8_is_close_or_refused_with_its_figures(families: dict[str, Path], name: str) -> None:
    pytest.importorskip("nncf")
    settings: dict[str, Any] = {"query_instruction": "", "device": "cpu"}
    refused: ModelFault | None = None
    try:
        encoder = load_encoder(families[name], dtype="int8", **settings)
    except ModelFault as fault:
        refused = fault
    if refused is not None:
        # Random weights whose attention picks single tokens: rounding makes it pick others.
        assert "expected 0.95 and 0.99" in str(refused)
        assert refused.fix
        return
    assert encoder.engine == "openvino int8 on cpu"
    exact = load_encoder(families[name], dtype="fp32", **settings).encode_passages(TEXTS).vectors
    assert cosines(encoder.encode_passages(TEXTS).vectors, exact).mean() >= 0.97


def test_what_the_files_leave_open_is_asked_for(
    families: dict[str, Path], tmp_path: Path, make_tiny_model: Callable[..., Path]
) -> None:
    bare = shutil.copytree(families["modernbert-embed-base"], tmp_path / "bare")
    for file in ("modules.json", "config_sentence_transformers.json"):
        (bare / file).unlink()
    with pytest.raises(ModelSettingUnknown, match="declares no pooling"):
        load_encoder(bare)
    (bare / "README.md").write_text("---\nbase_model: nomic-ai/modernbert-embed-base\n---\n")
    with pytest.raises(ModelSettingUnknown, match="takes the query instruction 'search_query: '"):
        load_encoder(bare, pooling="mean")
    with pytest.raises(ModelFault, match="it computes cls, mean, tokens and logits of BERT"):
        load_encoder(families["gte-modernbert-base"], query_instruction="", engine="packed")
    with pytest.raises(InvalidInput, match="max_length=9000 is more than"):
        load_encoder(families["gte-modernbert-base"], query_instruction="", max_length=9000)
