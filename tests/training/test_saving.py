"""The files beside the weights: every tool reads the same settings and gives the same scores."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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

from retrieval.errors import InvalidInput, ModelSettingUnknown
from retrieval.models.resolve import resolve
from retrieval.training.saving import (
    base_models,
    table,
    write_card,
    write_encoder_files,
    write_reranker_files,
)
from retrieval.types import ModelSpec

INSTRUCTION = "Represent this sentence for searching relevant passages: "
SMALL_FILES = ("modules.json", "1_Pooling", "2_Normalize", "sentence_bert_config.json")


def bare(folder: Path) -> Path:
    """The folder without sentence-transformers' files, as transformers or FlagEmbedding save it."""
    for name in (*SMALL_FILES, "config_sentence_transformers.json"):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("family", ["bert", "xlmr"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_an_encoder_is_the_same_everywhere(
    make_tiny_model: Callable[..., Path], family: str, pooling: Any
) -> None:
    folder = bare(make_tiny_model(family, "encoder", seed=3))
    given = {"pooling": pooling, "query_instruction": INSTRUCTION, "passage_instruction": "说: "}
    spec = resolve(folder, "encoder", max_length=64, **given).spec
    write_encoder_files(folder, spec)
    assert resolve(folder, "encoder").spec == spec
    ours = our_encoder(folder)
    queries = ours.encode_queries([*QUERIES, *PASSAGES])
    passages = ours.encode_passages(PASSAGES).vectors
    theirs = sentence_vectors(folder, [*QUERIES, *PASSAGES], "query")
    np.testing.assert_allclose(queries, theirs, atol=1e-4)
    theirs = sentence_vectors(folder, PASSAGES, "document")
    np.testing.assert_allclose(passages, theirs, atol=1e-4)
    if pooling != "last":
        theirs = flag_vectors(folder, QUERIES, INSTRUCTION, pooling)
        np.testing.assert_allclose(queries[: len(QUERIES)], theirs, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_a_reranker_gives_its_logit_everywhere(
    make_tiny_model: Callable[..., Path], family: str
) -> None:
    folder = make_tiny_model(family, "reranker", seed=3)
    expected = our_reranker(folder).score(PAIRS).values
    assert np.ptp(expected) > 0.05
    assert np.abs(sentence_scores(folder) - expected).max() > 0.01, "the sigmoid, without the files"
    spec = resolve(folder, "reranker").spec
    write_reranker_files(folder, spec)
    assert resolve(folder, "reranker").spec == spec
    for name, scores in (
        ("ours", our_reranker(folder).score(PAIRS).values),
        ("sentence-transformers", sentence_scores(folder)),
        ("FlagEmbedding", flag_scores(folder)),
        ("transformers", transformers_scores(folder)),
    ):
        np.testing.assert_allclose(scores, expected, atol=1e-4, err_msg=name)


def test_what_sentence_transformers_saved_is_corrected(
    make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Its trainers save a sigmoid and no length; the rest of its files is left as it is."""
    source = make_tiny_model("bert", "reranker", seed=5)
    folder = tmp_path / "saved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import CrossEncoder

        CrossEncoder(str(source), device="cpu").save_pretrained(str(folder))
    before = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert before["activation_fn"].endswith("Sigmoid")
    write_reranker_files(folder, replace(resolve(folder, "reranker").spec, max_length=32))
    after = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert after["__version__"] == before["__version__"]
    ours = our_reranker(folder)
    assert ours.info.max_length == 32
    short = [pair for pair in PAIRS if len(" ".join(pair)) < 60]
    np.testing.assert_allclose(sentence_scores(folder, short), ours.score(short).values, atol=1e-4)


def test_bare_queries_are_declared(make_tiny_model: Callable[..., Path]) -> None:
    """Tuned without the instruction from a model that has one: only a declaration settles it."""
    folder = bare(make_tiny_model("bert", "encoder"))
    (folder / "README.md").write_text("---\nbase_model: BAAI/bge-small-en-v1.5\n---\n", "utf-8")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": ""}}')
    with pytest.raises(ModelSettingUnknown, match=r"was made from BAAI/bge-small-en-v1\.5"):
        resolve(folder, "encoder", pooling="cls")
    spec = resolve(folder, "encoder", pooling="cls", query_instruction="").spec
    write_encoder_files(folder, spec)
    assert resolve(folder, "encoder").spec == spec
    write_encoder_files(folder, replace(spec, query_instruction="q: "))
    assert resolve(folder, "encoder").spec.query_instruction == "q: "


def test_other_prompts_and_keys_are_kept(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert_encoder, tmp_path / "copy"))
    saved = {"prompts": {"sts": "S: ", "query": "old: "}, "mine": 1, "default_prompt_name": "sts"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(saved), "utf-8")
    spec = replace(resolve(folder, "encoder").spec, query_instruction="新: ", normalize=False)
    write_encoder_files(folder, spec)
    after = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))
    assert after["prompts"] == {"sts": "S: ", "query": "新: ", "document": "S: "}
    assert (after["mine"], after["default_prompt_name"]) == (1, "sts")
    found = resolve(folder, "encoder").spec
    assert (found.normalize, found.query_instruction) == (False, "新: ")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="its pooling is None"):
        write_encoder_files(tmp_path, ModelSpec("mine", "encoder", dimension=8))
    chat = ModelSpec("mine", "reranker", score_head="chat-logit")
    with pytest.raises(InvalidInput, match="scores by chat-logit"):
        write_reranker_files(tmp_path, chat)


def test_the_card(tmp_path: Path, tiny_bert_encoder: Path, bge_small_folder: Path) -> None:
    spec = ModelSpec(
        "mine", "encoder", max_length=64, dimension=8, pooling="cls", query_instruction="a|b: "
    )
    models = [resolve(tiny_bert_encoder, "encoder"), resolve("starter", "encoder", download=False)]
    assert base_models(models) == ["BAAI/bge-small-en-v1.5"]
    write_card(
        tmp_path,
        spec,
        title="Mine",
        summary="For tests.",
        sections=[("Data", table(("file", "lines"), [("a|b\nc.jsonl", 3)]))],
        base_models=base_models(models),
        licence="MIT",
    )
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith('---\nlibrary_name: "sentence-transformers"\n')
    assert 'license: "mit"\nbase_model:\n- BAAI/bge-small-en-v1.5\n---\n\n# Mine\n' in text
    assert "| before queries | `a\\|b: ` |" in text
    assert text.endswith("## Data\n\n| file | lines |\n| --- | --- |\n| a\\|b<br>c.jsonl | 3 |\n")
