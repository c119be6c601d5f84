"""Facts of every known model: pooling, instructions, lengths, head, licence.

Facts are those of the model cards and of FlagEmbedding's own tables. Instructions are byte-exact:
a trailing blank or a full-width colon is part of them, and leaving it out costs quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from retrieval.models.known_modern import modern_models
from retrieval.models.model_folder import COST_WISE, LAYER_WISE
from retrieval.models.spec_makers import encoder_spec, reranker_spec
from retrieval.types import ModelSpec

BGE_ENGLISH_INSTRUCTION = "Represent this sentence for searching relevant passages: "
BGE_CHINESE_INSTRUCTION = "为这个句子生成表示以用于检索相关文章："
WEB_SEARCH_TASK = "Given a web search query, retrieve relevant passages that answer the query."

STARTER = "starter"
"""A pair whose weights come from a package index, so that no model hub is needed."""
STARTER_ENCODER = "BAAI/bge-small-en-v1.5@int8-origin"
STARTER_RERANKER = "cross-encoder/ms-marco-MiniLM-L12-v2@int8-origin"

MAXSIM = "maxsim"
"""Late interaction over the token vectors of `MAXSIM_ENCODER`, which was once the starter's."""
MAXSIM_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

_DIMENSIONS = {"small": 384, "base": 768, "large": 1024}
_MULTILINGUAL = ("multilingual",)


def _bge() -> list[ModelSpec]:
    v1 = "cosines lie in about [0.6, 1]: calibrate a threshold on your own data"
    specs = []
    for version, note in (("-v1.5", ""), ("", v1)):
        for size, dimension in _DIMENSIONS.items():
            specs.append(
                encoder_spec(
                    f"BAAI/bge-{size}-en{version}",
                    dimension,
                    "cls",
                    query=BGE_ENGLISH_INSTRUCTION,
                    note=note,
                )
            )
        for size, dimension in _DIMENSIONS.items():
            specs.append(
                encoder_spec(
                    f"BAAI/bge-{size}-zh{version}",
                    512 if size == "small" else dimension,  # the small Chinese model is wider
                    "cls",
                    languages=("zh",),
                    query=BGE_CHINESE_INSTRUCTION,
                    note=note,
                )
            )
    specs.append(
        encoder_spec(
            "BAAI/bge-m3",
            1024,
            "cls",
            languages=_MULTILINGUAL,
            max_length=8192,
            architecture="XLMRobertaModel",
            note="takes no instruction; BGEM3 gives its lexical weights and multi-vectors, too",
        )
    )
    specs.append(
        ModelSpec(
            name="BAAI/bge-multilingual-gemma2",
            kind="encoder",
            max_length=4096,
            dimension=3584,
            pooling="last",
            query_instruction=f"<instruct>{WEB_SEARCH_TASK}\n<query>",
            licence="Gemma",
            languages=_MULTILINGUAL,
            architecture="Gemma2Model",
            note="9 billion parameters, 37 GB of weights: a GPU is recommended; "
            "other tasks: query_instruction='<instruct>YOUR TASK\\n<query>'",
        )
    )
    specs.append(
        ModelSpec(
            name="BAAI/bge-en-icl",
            kind="encoder",
            max_length=4096,
            dimension=4096,
            pooling="last",
            query_instruction=f"<instruct>{WEB_SEARCH_TASK}\n<query>",
            query_suffix="\n<response>",
            licence="Apache-2.0",
            languages=("en",),
            architecture="MistralModel",
            note="7 billion parameters, 28 GB of weights: a GPU is recommended; "
            "query_examples=[{'query': …, 'response': …}] makes it few-shot",
        )
    )
    return specs


def _bge_rerankers() -> list[ModelSpec]:
    specs = [
        reranker_spec(
            f"BAAI/bge-reranker-{size}",
            "XLMRobertaForSequenceClassification",
            languages=("zh", "en"),
            licence="MIT",
        )
        for size in ("base", "large")
    ]
    specs.append(
        reranker_spec(
            "BAAI/bge-reranker-v2-m3",
            "XLMRobertaForSequenceClassification",
            languages=_MULTILINGUAL,
            licence="Apache-2.0",
            max_length=1024,
            note="accepts 8192 tokens, was tuned at 1024",
        )
    )
    specs.append(
        ModelSpec(
            name="BAAI/bge-reranker-v2-gemma",
            kind="reranker",
            max_length=1024,
            score_head="yes-logit",
            licence="Apache-2.0",
            languages=_MULTILINGUAL,
            architecture="GemmaForCausalLM",
            note="2.5 billion parameters, 10 GB of weights: a GPU is recommended",
        )
    )
    specs.append(
        ModelSpec(
            name="BAAI/bge-reranker-v2-minicpm-layerwise",
            kind="reranker",
            max_length=1024,
            score_head="layerwise-yes-logit",
            licence="Apache-2.0",
            languages=_MULTILINGUAL,
            architecture=LAYER_WISE,
            note="2.7 billion parameters, 11 GB of weights: a GPU is recommended; "
            "cutoff_layers=8 to 40",
        )
    )
    specs.append(
        ModelSpec(
            name="BAAI/bge-reranker-v2.5-gemma2-lightweight",
            kind="reranker",
            max_length=1024,
            score_head="layerwise-yes-logit",
            licence="Gemma",
            languages=_MULTILINGUAL,
            architecture=COST_WISE,
            note="9 billion parameters, 37 GB of weights: a GPU is recommended; "
            "cutoff_layers=8 to 42, "
            "compress_ratio=1, 2, 4 or 8",
        )
    )
    return specs


def _peer_encoders() -> list[ModelSpec]:
    specs = [
        encoder_spec(
            f"intfloat/e5-{size}-v2", dimension, "mean", query="query: ", passage="passage: "
        )
        for size, dimension in _DIMENSIONS.items()
    ]
    specs += [
        encoder_spec(
            f"intfloat/multilingual-e5-{size}",
            dimension,
            "mean",
            languages=_MULTILINGUAL,
            query="query: ",
            passage="passage: ",
            architecture="BertModel" if size == "small" else "XLMRobertaModel",
        )
        for size, dimension in _DIMENSIONS.items()
    ]
    specs += [
        encoder_spec(f"thenlper/gte-{size}", dimension, "mean")
        for size, dimension in _DIMENSIONS.items()
    ]
    specs.append(
        encoder_spec(
            "mixedbread-ai/mxbai-embed-large-v1",
            1024,
            "cls",
            licence="Apache-2.0",
            query=BGE_ENGLISH_INSTRUCTION,
            matryoshka=(512,),
        )
    )
    specs.append(
        encoder_spec(
            "Snowflake/snowflake-arctic-embed-m-v1.5",
            768,
            "cls",
            licence="Apache-2.0",
            query=BGE_ENGLISH_INSTRUCTION,
            matryoshka=(256,),
        )
    )
    specs.append(
        encoder_spec(
            "Snowflake/snowflake-arctic-embed-l-v2.0",
            1024,
            "cls",
            languages=_MULTILINGUAL,
            licence="Apache-2.0",
            query="query: ",
            max_length=8192,
            architecture="XLMRobertaModel",
            matryoshka=(256,),
        )
    )
    specs.append(
        encoder_spec(
            "Alibaba-NLP/gte-multilingual-base",
            768,
            "cls",
            languages=_MULTILINGUAL,
            licence="Apache-2.0",
            max_length=8192,
            architecture="NewModel",
            note="listed only: needs code from its own repository",
        )
    )
    specs.append(
        encoder_spec(
            MAXSIM_ENCODER,
            384,
            "mean",
            licence="Apache-2.0",
            max_length=256,
            note="was the encoder of `starter`; its weights come from a package index",
        )
    )
    return specs


def _peer_rerankers() -> list[ModelSpec]:
    specs = [
        reranker_spec(
            f"cross-encoder/ms-marco-MiniLM-L{layers}-v2",
            "BertForSequenceClassification",
            languages=("en",),
            licence="Apache-2.0",
        )
        for layers in (6, 12)
    ]
    specs.append(
        ModelSpec(
            name=MAXSIM,
            kind="reranker",
            max_length=256,
            dimension=384,
            score_head="maxsim",
            licence="Apache-2.0",
            languages=("en",),
            architecture="BertModel",
            note="late interaction over the token vectors of all-MiniLM-L6-v2; no further weights",
        )
    )
    return specs


MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            *_bge(),
            *_bge_rerankers(),
            *_peer_encoders(),
            *_peer_rerankers(),
            *modern_models(),
        )
    }
)
"""Every known model by its full name."""

UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "Alibaba-NLP/gte-multilingual-base": "it needs code from its own repository, which is "
        "never run",
    }
)
"""Models that are listed for their facts alone → why they cannot be run here."""
