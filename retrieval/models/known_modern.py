"""Facts of the families that are built on ModernBERT and on Qwen3; `known_models.py` adds them.

Byte-exact as the model cards have them: Qwen3's `Query:` has no blank behind it, nomic's prefixes
have one.
"""

from __future__ import annotations

from retrieval.types import ModelSpec, Pooling, ScoreHead

QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_QUERY_INSTRUCTION = f"Instruct: {QWEN3_TASK}\nQuery:"

_LICENCE = "Apache-2.0"
_QWEN3_DIMENSIONS = {"0.6B": 1024, "4B": 2560, "8B": 4096}
_ETTIN_SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")


def modern_models() -> list[ModelSpec]:
    """gte-modernbert, modernbert-embed, Qwen3-Embedding, and the rerankers of these families."""
    return [*_encoders(), *_rerankers()]


def _encoders() -> list[ModelSpec]:
    specs = [
        _modernbert("Alibaba-NLP/gte-modernbert-base", "cls"),
        _modernbert(
            "nomic-ai/modernbert-embed-base",
            "mean",
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
        _reranker(
            "Alibaba-NLP/gte-reranker-modernbert-base", "ModernBertForSequenceClassification", 8192
        )
    ]
    specs += [
        _reranker(f"cross-encoder/ettin-reranker-{size}-v1", "ModernBertModel", 7999)
        for size in _ETTIN_SIZES
    ]
    specs += [
        _reranker(
            f"Qwen/Qwen3-Reranker-{size}",
            "Qwen3ForCausalLM",
            8192,
            head="chat-logit",
            languages=("multilingual",),
            note=("" if size == "0.6B" else f"{size} parameters: a GPU is recommended; ")
            + "another task: LLMReranker(…, prompt='YOUR TASK')",
        )
        for size in _QWEN3_DIMENSIONS
    ]
    return specs


def _modernbert(
    name: str,
    pooling: Pooling,
    *,
    query: str = "",
    passage: str = "",
    matryoshka: tuple[int, ...] = (),
) -> ModelSpec:
    return ModelSpec(
        name=name,
        kind="encoder",
        max_length=8192,
        dimension=768,
        pooling=pooling,
        query_instruction=query,
        passage_instruction=passage,
        matryoshka=matryoshka,
        licence=_LICENCE,
        languages=("en",),
        architecture="ModernBertModel",
    )


def _reranker(
    name: str,
    architecture: str,
    max_length: int,
    *,
    head: ScoreHead = "classification",
    languages: tuple[str, ...] = ("en",),
    note: str = "",
) -> ModelSpec:
    return ModelSpec(
        name=name,
        kind="reranker",
        max_length=max_length,
        score_head=head,
        licence=_LICENCE,
        languages=languages,
        architecture=architecture,
        note=note,
    )
