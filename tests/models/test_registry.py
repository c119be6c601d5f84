"""The registry's facts, family by family, as the model cards state them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retrieval.models.registry import (
    MODELS,
    UNSUPPORTED,
    find,
    list_models,
    near_names,
    spelled_out,
)

ENGLISH = "Represent this sentence for searching relevant passages: "
CHINESE = "为这个句子生成表示以用于检索相关文章："
TASK = (
    "<instruct>Given a web search query, retrieve relevant passages that answer the query.\n<query>"
)
QWEN3 = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
ENCODERS = {
    # pooling, dimension, max_length, instruction of queries and of passages
    "BAAI/bge-small-en-v1.5": ("cls", 384, 512, ENGLISH, ""),
    "BAAI/bge-base-en-v1.5": ("cls", 768, 512, ENGLISH, ""),
    "BAAI/bge-large-en-v1.5": ("cls", 1024, 512, ENGLISH, ""),
    "BAAI/bge-small-zh-v1.5": ("cls", 512, 512, CHINESE, ""),
    "BAAI/bge-base-zh-v1.5": ("cls", 768, 512, CHINESE, ""),
    "BAAI/bge-large-zh-v1.5": ("cls", 1024, 512, CHINESE, ""),
    "BAAI/bge-small-en": ("cls", 384, 512, ENGLISH, ""),
    "BAAI/bge-base-en": ("cls", 768, 512, ENGLISH, ""),
    "BAAI/bge-large-en": ("cls", 1024, 512, ENGLISH, ""),
    "BAAI/bge-small-zh": ("cls", 512, 512, CHINESE, ""),
    "BAAI/bge-base-zh": ("cls", 768, 512, CHINESE, ""),
    "BAAI/bge-large-zh": ("cls", 1024, 512, CHINESE, ""),
    "BAAI/bge-m3": ("cls", 1024, 8192, "", ""),
    "BAAI/bge-multilingual-gemma2": ("last", 3584, 4096, TASK, ""),
    "BAAI/bge-en-icl": ("last", 4096, 4096, TASK, ""),
    "intfloat/e5-small-v2": ("mean", 384, 512, "query: ", "passage: "),
    "intfloat/e5-base-v2": ("mean", 768, 512, "query: ", "passage: "),
    "intfloat/e5-large-v2": ("mean", 1024, 512, "query: ", "passage: "),
    "intfloat/multilingual-e5-small": ("mean", 384, 512, "query: ", "passage: "),
    "intfloat/multilingual-e5-base": ("mean", 768, 512, "query: ", "passage: "),
    "intfloat/multilingual-e5-large": ("mean", 1024, 512, "query: ", "passage: "),
    "thenlper/gte-small": ("mean", 384, 512, "", ""),
    "thenlper/gte-base": ("mean", 768, 512, "", ""),
    "thenlper/gte-large": ("mean", 1024, 512, "", ""),
    "mixedbread-ai/mxbai-embed-large-v1": ("cls", 1024, 512, ENGLISH, ""),
    "Snowflake/snowflake-arctic-embed-m-v1.5": ("cls", 768, 512, ENGLISH, ""),
    "Snowflake/snowflake-arctic-embed-l-v2.0": ("cls", 1024, 8192, "query: ", ""),
    "Alibaba-NLP/gte-multilingual-base": ("cls", 768, 8192, "", ""),
    "sentence-transformers/all-MiniLM-L6-v2": ("mean", 384, 256, "", ""),
    "Alibaba-NLP/gte-modernbert-base": ("cls", 768, 8192, "", ""),
    "nomic-ai/modernbert-embed-base": (
        "mean", 768, 8192, "search_query: ", "search_document: "
    ),
    "Qwen/Qwen3-Embedding-0.6B": ("last", 1024, 32768, QWEN3, ""),
    "Qwen/Qwen3-Embedding-4B": ("last", 2560, 32768, QWEN3, ""),
    "Qwen/Qwen3-Embedding-8B": ("last", 4096, 32768, QWEN3, ""),
}  # fmt: skip
RERANKERS = {
    "BAAI/bge-reranker-base": ("classification", 512),
    "BAAI/bge-reranker-large": ("classification", 512),
    "BAAI/bge-reranker-v2-m3": ("classification", 1024),
    "BAAI/bge-reranker-v2-gemma": ("yes-logit", 1024),
    "BAAI/bge-reranker-v2-minicpm-layerwise": ("layerwise-yes-logit", 1024),
    "BAAI/bge-reranker-v2.5-gemma2-lightweight": ("layerwise-yes-logit", 1024),
    "cross-encoder/ms-marco-MiniLM-L6-v2": ("classification", 512),
    "cross-encoder/ms-marco-MiniLM-L12-v2": ("classification", 512),
    "maxsim": ("maxsim", 256),
    "Alibaba-NLP/gte-reranker-modernbert-base": ("classification", 8192),
    "cross-encoder/ettin-reranker-17m-v1": ("classification", 7999),
    "cross-encoder/ettin-reranker-32m-v1": ("classification", 7999),
    "cross-encoder/ettin-reranker-68m-v1": ("classification", 7999),
    "cross-encoder/ettin-reranker-150m-v1": ("classification", 7999),
    "cross-encoder/ettin-reranker-400m-v1": ("classification", 7999),
    "cross-encoder/ettin-reranker-1b-v1": ("classification", 7999),
    "Qwen/Qwen3-Reranker-0.6B": ("chat-logit", 8192),
    "Qwen/Qwen3-Reranker-4B": ("chat-logit", 8192),
    "Qwen/Qwen3-Reranker-8B": ("chat-logit", 8192),
}
CUT = {
    "mixedbread-ai/mxbai-embed-large-v1": (512,),
    "Snowflake/snowflake-arctic-embed-m-v1.5": (256,),
    "Snowflake/snowflake-arctic-embed-l-v2.0": (256,),
    "nomic-ai/modernbert-embed-base": (256,),
    "Qwen/Qwen3-Embedding-0.6B": (32, 64, 128, 256, 512),
    "Qwen/Qwen3-Embedding-4B": (32, 64, 128, 256, 512, 1024, 2048),
    "Qwen/Qwen3-Embedding-8B": (32, 64, 128, 256, 512, 1024, 2048),
}


def test_each_encoder_has_the_settings_of_its_model_card() -> None:
    found = {
        name: (
            spec.pooling, spec.dimension, spec.max_length, spec.query_instruction,
            spec.passage_instruction,
        )
        for name, spec in MODELS.items()
        if spec.kind == "encoder"
    }  # fmt: skip
    assert found == ENCODERS
    assert CHINESE[-1] == "\uff1a", "the colon of full width"
    assert all(MODELS[name].normalize for name in ENCODERS)
    suffixes = {name: spec.query_suffix for name, spec in MODELS.items() if spec.query_suffix}
    assert suffixes == {"BAAI/bge-en-icl": "\n<response>"}
    assert not any(spec.query_examples for spec in MODELS.values())
    assert {name: spec.matryoshka for name, spec in MODELS.items() if spec.matryoshka} == CUT
    assert all(cut < ENCODERS[name][1] for name, cuts in CUT.items() for cut in cuts)


def test_each_reranker_has_the_head_of_its_model_card_and_no_instruction() -> None:
    found = {n: (m.score_head, m.max_length) for n, m in MODELS.items() if m.kind == "reranker"}
    assert found == RERANKERS


def test_models_that_cannot_be_run_are_listed_only():
    for name in UNSUPPORTED:
        assert MODELS[name].note.startswith("listed only"), name
    assert {name for name, spec in MODELS.items() if "listed only" in spec.note} == set(UNSUPPORTED)


def test_the_starter_pair_is_bge_and_a_cross_encoder():
    encoder, reranker = find("starter", "encoder"), find("starter", "reranker")
    assert encoder is MODELS["BAAI/bge-small-en-v1.5"]
    assert reranker is MODELS["cross-encoder/ms-marco-MiniLM-L12-v2"]
    assert find(spelled_out("starter")) is encoder
    assert spelled_out(" Starter", "reranker") == f"{reranker.name}@int8-origin"
    assert spelled_out("bge-m3") == "bge-m3"


def test_late_interaction_has_a_name_of_its_own():
    reranker = find("maxsim", "reranker")
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
