"""bge-en-icl: queries with suffix and examples, as FlagEmbedding's `FlagICLModel` reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.modern_models import mistral_config, mistral_tokenizer, save
from reference.peers import flag_embedding, silenced
from reference.texts import WORDS, cosines, mixed_texts

import retrieval
from retrieval.cli.render import manifest_as_text
from retrieval.errors import InvalidInput, ManifestMismatch, ModelSettingUnknown
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.examples import read_examples
from retrieval.models.known_models import MODELS
from retrieval.models.load import load_encoder
from retrieval.types import ModelSpec, ResolvedModel

TASK = "find the passage that answers"
KNOWN = MODELS["BAAI/bge-en-icl"]
INSTRUCTION = f"<instruct>{TASK}\n<query>"
SUFFIX = "\n<response>"
EXAMPLES = [
    {"query": "what is a dog", "response": "a lazy animal that sleeps"},
    {"instruct": "name the file", "query": "where is it", "response": "in the directory"},
]
# FlagICLModel turns cut queries into text and reads that again; these come back as they were.
QUERIES = [text for text in mixed_texts(longest=64) if "<" not in text and "[" not in text]
SETTINGS: dict[str, Any] = {
    "pooling": "last",
    "query_instruction": INSTRUCTION,
    "query_suffix": SUFFIX,
    "max_length": 64,
    "dtype": "fp32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import MistralModel

    path = tmp_path_factory.mktemp("icl") / "my-icl"
    return save(path, MistralModel, mistral_config(), mistral_tokenizer())


def flag(path: Path, examples: list[dict[str, str]] | None) -> Any:
    module = flag_embedding()
    with silenced():
        return module.FlagICLModel(
            str(path),
            query_instruction_for_retrieval=TASK,
            examples_for_task=examples,
            use_fp16=False,
            devices="cpu",
            query_max_length=64,
            passage_max_length=64,
        )


@pytest.mark.parametrize("engine", ["auto", "transformers"])
@pytest.mark.parametrize("examples", [None, EXAMPLES[:1], EXAMPLES])
def test_vectors_are_those_of_flag_icl_model(
    folder: Path, examples: list[dict[str, str]] | None, engine: Any
) -> None:
    theirs = flag(folder, examples)
    with silenced():
        expected = theirs.encode_queries(QUERIES), theirs.encode_corpus(QUERIES)
    encoder = load_encoder(folder, query_examples=examples, engine=engine, **SETTINGS)
    queries, passages = encoder.encode_queries(QUERIES), encoder.encode_passages(QUERIES)
    assert cosines(queries, expected[0]).min() >= 0.9999
    assert cosines(passages.vectors, expected[1]).min() >= 0.9999
    assert cosines(queries, passages.vectors).max() < 0.9999, "the comparison can fail"
    assert encoder.info.query_examples == theirs.prefix


def test_what_is_cut_is_the_query_and_never_the_examples(folder: Path) -> None:
    encoder = load_encoder(folder, query_examples=EXAMPLES, **SETTINGS)
    assert isinstance(encoder, BiEncoder)
    long = " ".join(WORDS * 6)
    tokenizer = encoder._tokenizer
    tokens = encoder._tokens("query")(["dog", long])
    end = tokenizer.bare_ids([SUFFIX])[0].tolist()
    before = tokenizer.bare_ids([encoder.info.query_examples + INSTRUCTION])[0]
    for row in range(2):
        ids = tokens.row(row).tolist()
        assert ids[0] == 1
        assert ids[-len(end) - 1 :] == [*end, 2]
        assert ids[1 : 1 + len(before)] == before.tolist()
    assert tokens.truncated.tolist() == [False, True]
    whole = tokenizer.bare_ids([encoder.info.query_examples + INSTRUCTION + long + SUFFIX])[0]
    assert tokens.full_lengths[1] == len(whole) + 2
    examples = len(tokenizer.bare_ids([encoder.info.query_examples])[0])
    assert abs(int(tokens.lengths[1]) - (64 + examples)) <= 1
    together = encoder.encode_queries(["dog", long, "fox"])
    alone = np.concatenate([encoder.encode_queries([text]) for text in ("dog", long, "fox")])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_the_known_model_has_its_suffix_and_takes_examples(folder: Path) -> None:
    """The registry's facts with a tiny model's weights: the real ones have 7 billion."""
    assert (KNOWN.query_suffix, KNOWN.query_examples) == (SUFFIX, "")
    spec = dataclasses.replace(KNOWN, dimension=64, max_length=64)
    model = ResolvedModel(spec, folder, "sha256:test")
    own = BiEncoder(model, query_examples=EXAMPLES[:1], dtype="fp32", device="cpu")
    text = f"{KNOWN.query_instruction}what is a dog{SUFFIX}a lazy animal that sleeps\n\n"
    assert own.info.query_examples == text
    plain = BiEncoder(model, dtype="fp32", device="cpu")
    assert cosines(own.encode_queries(["dog"]), plain.encode_queries(["dog"]))[0] < 0.9999
    np.testing.assert_array_equal(
        own.encode_passages(["dog"]).vectors, plain.encode_passages(["dog"]).vectors
    )


def test_a_collection_remembers_suffix_and_examples(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The dog sleeps in the directory.", "utf-8")
    settings = {**SETTINGS, "query_examples": EXAMPLES}
    del settings["dtype"], settings["device"]
    store = tmp_path / "store"
    retrieval.ingest(
        tmp_path / "a.txt", "docs", store=store, encoder=str(folder), dtype="fp32", device="cpu",
        **settings,
    )  # fmt: skip
    with retrieval.open("docs", store=store, reranker="none") as retriever:
        info = retriever.encoder.info
        assert info.query_suffix == SUFFIX
        assert info.query_examples.startswith(f"{INSTRUCTION}what is a dog{SUFFIX}")
        assert retriever.search("where is the dog").hits
        names = dict.fromkeys(["dense"], "dense")
        shown = manifest_as_text(retriever.index.manifest, names)
        assert "query suffix" in shown
        assert "a lazy animal that sleeps" in shown
    with pytest.raises(ManifestMismatch, match=r"encoder\.query_suffix is"):
        retrieval.ingest(
            tmp_path / "a.txt", "docs", store=store, encoder=str(folder),
            **{**settings, "query_suffix": "", "query_examples": ""},
        )  # fmt: skip


def test_what_is_wrong_with_them_is_said(
    folder: Path, tiny_bert_encoder: Path, tmp_path: Path
) -> None:
    without = {**SETTINGS, "query_suffix": None}
    (folder / "README.md").write_text("---\nbase_model: BAAI/bge-en-icl\n---\n", "utf-8")
    with pytest.raises(ModelSettingUnknown, match="whose queries end in"):
        load_encoder(folder, **without)
    (folder / "README.md").unlink()
    with pytest.raises(InvalidInput, match="whose queries have no end"):
        load_encoder(tiny_bert_encoder, query_examples=EXAMPLES)
    for bad in ([{"query": "dog"}], [{"query": "a", "response": 1}], [{"q": "a"}], {"query": "a"}):
        with pytest.raises(InvalidInput, match="was given as an example"):
            load_encoder(folder, query_examples=bad, **SETTINGS)
    with pytest.raises(InvalidInput, match="more than the model reads"):
        load_encoder(folder, query_examples=EXAMPLES * 4000, **SETTINGS)
    with pytest.raises(InvalidInput, match="leaves 1"):
        load_encoder(folder, **{**SETTINGS, "max_length": 8 + len(SUFFIX)})


def test_examples_are_read_from_json_and_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "examples.json"
    file.write_text(json.dumps(EXAMPLES), "utf-8")
    assert read_examples(str(file)) == EXAMPLES
    file.write_text("\n".join(map(json.dumps, EXAMPLES)), "utf-8")
    assert read_examples(str(file)) == EXAMPLES
    file.write_text(json.dumps(EXAMPLES[0]), "utf-8")
    assert read_examples(str(file)) == EXAMPLES[:1]
    for content in ("[1, 2]", "no json"):
        file.write_text(content, "utf-8")
        with pytest.raises(InvalidInput):
            read_examples(str(file))
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_examples(str(tmp_path / "absent.json"))


def test_the_spec_of_a_model_says_nothing_where_it_has_none() -> None:
    spec = ModelSpec("some", "encoder")
    assert (spec.query_suffix, spec.query_examples) == ("", "")
