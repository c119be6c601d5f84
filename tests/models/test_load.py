"""Loading a model by name: which class, shared or not, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

from retrieval.errors import InvalidInput, ModelNotFound
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.rerankers.late_interaction import LateInteractionReranker

PAIR = ("how do I copy a directory", "shutil.copytree copies a whole directory tree")


@pytest.fixture(scope="module")
def starter() -> BiEncoder:
    return load_encoder("all-MiniLM-L6-v2")


# --- encoders -------------------------------------------------------------------------------


def test_the_starter_encoder_loads(starter: BiEncoder) -> None:
    assert starter.info.model == "sentence-transformers/all-MiniLM-L6-v2"
    assert starter.info.pooling == "mean"
    assert starter.encode_queries(["a"]).shape == (1, 384)


def test_what_a_manifest_remembers_is_passed_on(tiny_bert_encoder: Path) -> None:
    encoder = load_encoder(
        tiny_bert_encoder,
        pooling="mean",
        query_instruction="query: ",
        passage_instruction="passage: ",
        max_length=64,
        engine="transformers",
        dtype="fp32",
        token_budget=256,
    )
    info = encoder.info
    assert (info.pooling, info.max_length) == ("mean", 64)
    assert (info.query_instruction, info.passage_instruction) == ("query: ", "passage: ")
    assert encoder.engine == "transformers fp32 on cpu"


def test_a_reranker_is_no_encoder(tiny_bert_reranker: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be used as an encoder"):
        load_encoder(tiny_bert_reranker)


def test_a_name_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        load_encoder(str(tmp_path / "nowhere"))


# --- rerankers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", None])
def test_none_is_no_second_stage(name: str | None) -> None:
    assert load_reranker(name) is None


@pytest.mark.parametrize("name", ["maxsim", " MaxSim "])
def test_maxsim_shares_the_encoder_of_the_first_stage(starter: BiEncoder, name: str) -> None:
    reranker = load_reranker(name, encoder=starter)
    assert isinstance(reranker, LateInteractionReranker)
    assert reranker.encoder is starter
    assert reranker.info.model == "maxsim"
    assert reranker.info.fingerprint == starter.info.fingerprint


def test_starter_brings_its_own_encoder_where_there_is_none() -> None:
    reranker = load_reranker("maxsim", engine="transformers", dtype="fp32")
    assert isinstance(reranker, LateInteractionReranker)
    assert isinstance(reranker.encoder, BiEncoder)
    assert reranker.encoder.engine == "transformers fp32 on cpu"
    assert 0.3 < reranker.score([PAIR]).values[0] <= 1.0


def test_starter_does_not_use_another_model(tiny_bert_encoder: Path) -> None:
    other = load_encoder(tiny_bert_encoder, engine="transformers")
    for encoder in (other, HashingEncoder()):
        reranker = load_reranker("maxsim", encoder=encoder)
        assert isinstance(reranker, LateInteractionReranker)
        assert reranker.encoder.info.model == "sentence-transformers/all-MiniLM-L6-v2"


def test_starter_does_not_use_its_model_with_other_settings() -> None:
    for settings in ({"query_instruction": "query: "}, {"max_length": 64}):
        changed = load_encoder("all-MiniLM-L6-v2", **settings)  # type: ignore[arg-type]
        reranker = load_reranker("maxsim", encoder=changed)
        assert isinstance(reranker, LateInteractionReranker)
        assert reranker.encoder is not changed
        assert reranker.info.max_length == 256
    assert load_reranker("maxsim", encoder=changed, max_length=64).encoder is changed  # type: ignore[union-attr]


def test_a_folder_is_a_cross_encoder(tiny_xlmr_reranker: Path) -> None:
    reranker = load_reranker(
        tiny_xlmr_reranker, max_length=32, token_budget=64, engine="transformers"
    )
    assert isinstance(reranker, CrossEncoderReranker)
    assert reranker.info.kind == "cross-encoder"
    assert reranker.info.max_length == 32
    assert np.isfinite(reranker.score([PAIR]).values).all()


def test_a_folder_named_starter_is_that_folder(tiny_bert_reranker: Path, tmp_path: Path) -> None:
    (tmp_path / "maxsim").symlink_to(tiny_bert_reranker)
    assert isinstance(
        load_reranker(tmp_path / "maxsim", engine="transformers"), CrossEncoderReranker
    )


def test_an_encoder_is_no_reranker(tiny_bert_encoder: Path) -> None:
    for name in (tiny_bert_encoder, "bge-small-en-v1.5"):
        with pytest.raises(InvalidInput, match="cannot be used as a reranker"):
            load_reranker(name)


def test_the_starter_has_no_revisions() -> None:
    with pytest.raises(InvalidInput, match="revision='main'"):
        load_reranker("maxsim", revision="main")


def test_importing_the_loader_is_cheap() -> None:
    code = (
        "import sys, retrieval.models.load; "
        "print([m for m in ('torch', 'transformers', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
