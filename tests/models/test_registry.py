"""The registry's facts, family by family, as the model cards state them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retrieval.models.registry import MODELS, UNSUPPORTED, find, list_models, near_names

ENGLISH = "Represent this sentence for searching relevant passages: "
CHINESE = "为这个句子生成表示以用于检索相关文章："
SIZES = [("small", 384), ("base", 768), ("large", 1024)]


@pytest.mark.parametrize("version", ["", "-v1.5"])
@pytest.mark.parametrize(("size", "dimension"), SIZES)
def test_bge_english_takes_the_class_token_and_the_english_instruction(size, dimension, version):
    spec = MODELS[f"BAAI/bge-{size}-en{version}"]
    assert (spec.kind, spec.pooling, spec.normalize) == ("encoder", "cls", True)
    assert (spec.dimension, spec.max_length) == (dimension, 512)
    assert spec.query_instruction == ENGLISH
    assert spec.query_instruction.endswith(": ")
    assert spec.passage_instruction == ""
    assert (spec.licence, spec.languages) == ("MIT", ("en",))


@pytest.mark.parametrize("version", ["", "-v1.5"])
@pytest.mark.parametrize(("size", "dimension"), [("small", 512), ("base", 768), ("large", 1024)])
def test_bge_chinese_has_the_full_width_colon_and_a_small_model_of_512(size, dimension, version):
    spec = MODELS[f"BAAI/bge-{size}-zh{version}"]
    assert (spec.pooling, spec.dimension, spec.max_length) == ("cls", dimension, 512)
    assert spec.query_instruction.encode() == CHINESE.encode()
    assert spec.query_instruction[-1] == "\uff1a"
    assert spec.passage_instruction == ""
    assert (spec.licence, spec.languages) == ("MIT", ("zh",))


def test_bge_m3_takes_long_texts_and_no_instruction():
    spec = MODELS["BAAI/bge-m3"]
    assert (spec.pooling, spec.dimension, spec.max_length) == ("cls", 1024, 8192)
    assert (spec.query_instruction, spec.passage_instruction) == ("", "")
    assert (spec.licence, spec.languages) == ("MIT", ("multilingual",))


@pytest.mark.parametrize(
    ("name", "dimension", "licence"),
    [
        ("BAAI/bge-en-icl", 4096, "Apache-2.0"),
        ("BAAI/bge-multilingual-gemma2", 3584, "Gemma"),
    ],
)
def test_bge_language_models_pool_the_last_token_after_a_task_instruction(name, dimension, licence):
    spec = MODELS[name]
    assert (spec.pooling, spec.dimension, spec.licence) == ("last", dimension, licence)
    assert spec.query_instruction == (
        "<instruct>Given a web search query, retrieve relevant passages that answer the query.\n"
        "<query>"
    )
    assert spec.passage_instruction == ""


@pytest.mark.parametrize(
    ("name", "max_length", "licence", "languages"),
    [
        ("BAAI/bge-reranker-base", 512, "MIT", ("zh", "en")),
        ("BAAI/bge-reranker-large", 512, "MIT", ("zh", "en")),
        ("BAAI/bge-reranker-v2-m3", 1024, "Apache-2.0", ("multilingual",)),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", 512, "Apache-2.0", ("en",)),
        ("cross-encoder/ms-marco-MiniLM-L12-v2", 512, "Apache-2.0", ("en",)),
    ],
)
def test_cross_encoders_have_a_classification_head_and_no_instruction(
    name, max_length, licence, languages
):
    spec = MODELS[name]
    assert (spec.kind, spec.score_head) == ("reranker", "classification")
    assert (spec.max_length, spec.licence, spec.languages) == (max_length, licence, languages)
    assert (spec.pooling, spec.query_instruction, spec.passage_instruction) == (None, "", "")


@pytest.mark.parametrize(
    ("name", "head", "licence"),
    [
        ("BAAI/bge-reranker-v2-gemma", "yes-logit", "Apache-2.0"),
        ("BAAI/bge-reranker-v2-minicpm-layerwise", "layerwise-yes-logit", "Apache-2.0"),
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", "layerwise-yes-logit", "Gemma"),
    ],
)
def test_language_model_rerankers_score_the_yes_logit(name, head, licence):
    spec = MODELS[name]
    assert (spec.kind, spec.score_head, spec.max_length) == ("reranker", head, 1024)
    assert (spec.licence, spec.languages) == (licence, ("multilingual",))


@pytest.mark.parametrize(
    ("name", "dimension", "length", "query", "cut"),
    [
        ("mixedbread-ai/mxbai-embed-large-v1", 1024, 512, "bge", (512,)),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", 768, 512, "bge", (256,)),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", 1024, 8192, "query: ", (256,)),
    ],
)
def test_models_whose_vectors_may_be_cut(name, dimension, length, query, cut):
    spec = MODELS[name]
    prefix = "Represent this sentence for searching relevant passages: "
    assert spec.query_instruction == (prefix if query == "bge" else query)
    assert spec.passage_instruction == ""
    assert (spec.pooling, spec.dimension, spec.max_length) == ("cls", dimension, length)
    assert (spec.matryoshka, spec.licence) == (cut, "Apache-2.0")


def test_vectors_may_be_cut_only_where_a_model_was_trained_for_it():
    declared = {name for name, spec in MODELS.items() if spec.matryoshka}
    assert len(declared) == 3
    for name in declared:
        assert all(0 < cut < MODELS[name].dimension for cut in MODELS[name].matryoshka)


def test_models_that_cannot_be_run_are_listed_only():
    for name in UNSUPPORTED:
        assert MODELS[name].note.startswith("listed only"), name
    assert {name for name, spec in MODELS.items() if "listed only" in spec.note} == set(UNSUPPORTED)


@pytest.mark.parametrize(("size", "dimension"), SIZES)
@pytest.mark.parametrize("pattern", ["intfloat/e5-{}-v2", "intfloat/multilingual-e5-{}"])
def test_e5_marks_both_sides_and_averages(pattern, size, dimension):
    spec = MODELS[pattern.format(size)]
    assert (spec.pooling, spec.dimension, spec.max_length) == ("mean", dimension, 512)
    assert (spec.query_instruction, spec.passage_instruction) == ("query: ", "passage: ")
    assert spec.licence == "MIT"


@pytest.mark.parametrize(("size", "dimension"), SIZES)
def test_gte_averages_and_takes_no_instruction(size, dimension):
    spec = MODELS[f"thenlper/gte-{size}"]
    assert (spec.pooling, spec.dimension, spec.max_length) == ("mean", dimension, 512)
    assert (spec.query_instruction, spec.passage_instruction, spec.licence) == ("", "", "MIT")


def test_the_starter_pair_is_minilm_twice():
    encoder, reranker = find("starter", "encoder"), find("starter", "reranker")
    assert encoder is MODELS["sentence-transformers/all-MiniLM-L6-v2"]
    assert (encoder.pooling, encoder.dimension, encoder.max_length) == ("mean", 384, 256)
    assert (encoder.query_instruction, encoder.licence) == ("", "Apache-2.0")
    assert reranker is MODELS["starter"]
    assert (reranker.kind, reranker.score_head, reranker.dimension) == ("reranker", "maxsim", 384)


def test_every_model_is_complete_and_filed_under_its_own_name():
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.licence, name
        assert spec.languages, name
        assert spec.architecture, name
        assert spec.max_length, name
        if spec.kind == "encoder":
            assert spec.dimension, name
            assert spec.pooling, name
            assert spec.score_head is None, name
        else:
            assert spec.score_head, name
            assert (spec.query_instruction, spec.passage_instruction) == ("", ""), name


def test_list_models_names_each_once_encoders_first():
    specs = list_models()
    assert sorted(spec.name for spec in specs) == sorted(MODELS)
    kinds = [spec.kind for spec in specs]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("bge-small-en-v1.5", "BAAI/bge-small-en-v1.5"),
        ("baai/BGE-M3", "BAAI/bge-m3"),
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("cross-encoder/ms-marco-MiniLM-L-6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("ms-marco-MiniLM-L-12-v2", "cross-encoder/ms-marco-MiniLM-L12-v2"),
        ("e5-base-v2", "intfloat/e5-base-v2"),
    ],
)
def test_short_names_in_any_case(short, full):
    spec = find(short)
    assert spec is not None
    assert spec.name == full


def test_every_model_is_found_by_its_last_part():
    for name in MODELS:
        if name != "starter":
            spec = find(name.rpartition("/")[2])
            assert spec is not None
            assert spec.name == name


def test_unknown_names_are_not_found_and_near_ones_are_offered():
    assert find("bge-smal-en-v1.5") is None
    assert near_names("bge-smal-en-v1.5", "encoder")[0] == "BAAI/bge-small-en-v1.5"
    assert near_names("BAII/bge-reranker-bse", "reranker")[0] == "BAAI/bge-reranker-base"
    assert near_names("startr", "encoder") == ["starter"]
    assert near_names("startr", "reranker") == ["starter"]
    assert all(MODELS[n].kind == "reranker" for n in near_names("bge-reranker", "reranker"))
    assert near_names("zzzzqqqq", "encoder") == []


def test_the_table_in_the_docs_is_the_registry():
    page = Path(__file__).parents[2] / "docs" / "models.md"
    rows = re.findall(r"^\| `([^`]+)` \| ([^|\n]+(?:\|[^|\n]+)*)\|$", page.read_text("utf-8"), re.M)
    documented = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    expected = {}
    for spec in MODELS.values():
        if spec.kind == "encoder":
            cells = [str(spec.dimension), str(spec.max_length), str(spec.pooling)]
        else:
            cells = [str(spec.max_length), str(spec.score_head)]
        expected[spec.name] = [*cells, ", ".join(spec.languages), spec.licence]
    assert {name: documented.get(name) for name in expected} == expected
