"""Facts of the families that are built on ModernBERT and on Qwen3; `known_models.py` adds them.

Byte-exact as the model cards have them: Qwen3's `Query:` has no blank behind it, nomic's prefixes
have one.
"""

from __future__ import annotations

from retrieval.models.spec_makers import encoder_spec, reranker_spec
from retrieval.types import ModelSpec

QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_QUERY_INSTRUCTION = f"Instruct: {QWEN3_TASK}\nQuery:"

_LICENCE = "Apache-2.0"
_MODERNBERT = "ModernBertModel"
_ENGLISH = ("en",)
_QWEN3_DIMENSIONS = {"0.6B": 1024, "4B": 2560, "8B": 4096}
_ETTIN_SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")


def modern_models() -> list[ModelSpec]:
    """gte-modernbert, modernbert-embed, Qwen3-Embedding, and the rerankers of these families."""
    return [*_encoders(), *_rerankers()]


def _encoders() -> list[ModelSpec]:
    specs = [
        encoder_spec(
            "Alibaba-NLP/gte-modernbert-base",
            768,
            "cls",
            max_length=8192,
            architecture=_MODERNBERT,
            licence=_LICENCE,
        ),
        encoder_spec(
            "nomic-ai/modernbert-embed-base",
            768,
            "mean",
            max_length=8192,
            architecture=_MODERNBERT,
            licence=_LICENCE,
            query="search_query: ",
            passage="search_document: ",
            matryoshka=(256,),
        ),
    ]
    for size, dimension in _QWEN3_DIMENSIONS.items():
        gpu = "" if size == "0.6B" else f"{size} parameters: a GPU is recommended; "
        specs.append(
            ModelSpec(
                name=f"Qwen/Qwen3-Embedding-{size}",
                kind="encoder",
                max_length=32_768,
                dimension=dimension,
                pooling="last",
                query_instruction=QWEN3_QUERY_INSTRUCTION,
                matryoshka=tuple(n for n in (32, 64, 128, 256, 512, 1024, 2048) if n < dimension),
                licence=_LICENCE,
                languages=("multilingual",),
                architecture="Qwen3ForCausalLM",
                note=f"{gpu}other tasks: query_instruction='Instruct: YOUR TASK\\nQuery:'",
            )
        )
    return specs


def _rerankers() -> list[ModelSpec]:
    specs = [
        reranker_spec(
            "Alibaba-NLP/gte-reranker-modernbert-base",
            "ModernBertForSequenceClassification",
            languages=_ENGLISH,
            licence=_LICENCE,
            max_length=8192,
        )
    ]
    specs += [
        reranker_spec(
            f"cross-encoder/ettin-reranker-{size}-v1",
            _MODERNBERT,
            languages=_ENGLISH,
            licence=_LICENCE,
            max_length=7999,
        )
        for size in _ETTIN_SIZES
    ]
    specs += [
        reranker_spec(
            f"Qwen/Qwen3-Reranker-{size}",
            "Qwen3ForCausalLM",
            licence=_LICENCE,
            max_length=8192,
            head="chat-logit",
            languages=("multilingual",),
            note=("" if size == "0.6B" else f"{size} parameters: a GPU is recommended; ")
            + "another task: LLMReranker(…, prompt='YOUR TASK')",
        )
        for size in _QWEN3_DIMENSIONS
    ]
    return specs
