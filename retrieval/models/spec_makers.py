"""Makes specs of known models, for the files that hold their facts."""

from __future__ import annotations

from retrieval.types import ModelSpec, Pooling, ScoreHead


def encoder_spec(
    name: str,
    dimension: int,
    pooling: Pooling,
    *,
    languages: tuple[str, ...] = ("en",),
    licence: str = "MIT",
    query: str = "",
    passage: str = "",
    max_length: int = 512,
    architecture: str = "BertModel",
    matryoshka: tuple[int, ...] = (),
    note: str = "",
) -> ModelSpec:
    """What is known of an encoder; defaults are those of most: BERT, English, 512 tokens."""
    return ModelSpec(
        name=name,
        kind="encoder",
        max_length=max_length,
        dimension=dimension,
        pooling=pooling,
        normalize=True,
        query_instruction=query,
        passage_instruction=passage,
        matryoshka=matryoshka,
        licence=licence,
        languages=languages,
        architecture=architecture,
        note=note,
    )


def reranker_spec(
    name: str,
    architecture: str,
    *,
    languages: tuple[str, ...],
    licence: str,
    max_length: int = 512,
    head: ScoreHead = "classification",
    note: str = "",
) -> ModelSpec:
    """What is known of a reranker."""
    return ModelSpec(
        name=name,
        kind="reranker",
        max_length=max_length,
        score_head=head,
        licence=licence,
        languages=languages,
        architecture=architecture,
        note=note,
    )
