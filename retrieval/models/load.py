"""Loads a model by name: the one place that knows which class runs which kind."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Literal, cast

from retrieval.errors import InvalidInput
from retrieval.models import registry
from retrieval.models.defaults import NONE
from retrieval.models.resolve import resolve
from retrieval.types import Encoder, Reranker, ResolvedModel

if TYPE_CHECKING:
    from retrieval.models.encoders.bge_m3 import BGEM3
    from retrieval.models.encoders.bi_encoder import BiEncoder
    from retrieval.models.examples import QueryExamples
    from retrieval.models.rerankers.late_interaction import TokenEncoder

M3 = "BAAI/bge-m3"

_ONLY_CROSS_ENCODERS: dict[str, tuple[Any, ...]] = {
    "engine": ("auto", "transformers"),
    "long_passages": ("truncate",),
    "window_overlap": (64,),
    "calibration": (None,),
}
"""Options of cross-encoders alone → the values of theirs that ask for nothing special."""


def load_encoder(
    name: str | os.PathLike[str],
    *,
    pooling: str | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    query_suffix: str | None = None,
    query_examples: QueryExamples | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    outputs: Literal["dense", "all"] = "dense",
    **options: Any,
) -> BiEncoder | BGEM3:
    """Load a bi-encoder.

    Args:
        name: "starter", a name from `retrieval models`, a folder, or a hub id.
        pooling, query_instruction, passage_instruction, query_suffix, query_examples, max_length,
            revision: replace what the model declares, see `retrieval.models.resolve.resolve`.
        outputs: "all" where more than dense vectors will be wanted, as for a collection whose
            layout has lexical weights or token vectors: then bge-m3 and what was fine-tuned from
            it (recognised by sparse_linear.pt and colbert_linear.pt) become a `BGEM3`, which a
            collection does not tell from a `BiEncoder`. All other models are a `BiEncoder`.
        options: `engine`, `device`, `dtype`, `token_budget`, see `BiEncoder`.

    Raises:
        InvalidInput: also where a `BGEM3` is to give vectors cut to fewer dimensions.
        ModelNotFound, ModelSettingUnknown, InvalidInput, ModelFault: see `resolve`.
    """
    from retrieval.models.encoders.bi_encoder import BiEncoder

    resolved = resolve(
        name,
        "encoder",
        pooling=pooling,
        query_instruction=query_instruction,
        passage_instruction=passage_instruction,
        query_suffix=query_suffix,
        query_examples=query_examples,
        max_length=max_length,
        revision=revision,
    )
    if outputs == "all" and _is_m3(resolved):
        return _m3(resolved, options)
    return BiEncoder(resolved, **options)


def _is_m3(resolved: ResolvedModel) -> bool:
    """Whether a model gives bge-m3's three outputs; its dense ones must be as `BGEM3` makes them.

    The hub's own may be here without the two heads, which are fetched when they are needed.
    """
    from retrieval.models.encoders.bge_m3_heads import missing_heads

    spec = resolved.spec
    own = spec.name.partition("@")[0] == M3
    whole = spec.pooling == "cls" and spec.normalize
    return whole and (own or not missing_heads(resolved.path))


def _m3(resolved: ResolvedModel, options: dict[str, Any]) -> BGEM3:
    from retrieval.models.encoders.bge_m3 import BGEM3

    dimension = options.pop("truncate_dim", None)
    options.pop("allow_untrained_truncation", None)
    if dimension not in (None, resolved.spec.dimension):
        raise InvalidInput(
            f"truncate_dim={dimension} was given for {resolved.spec.name} with lexical weights or "
            "token vectors, and its vectors are not cut there",
            fix="Leave truncate_dim out, or index without lexical weights and token vectors.",
        )
    return BGEM3(resolved, **options)


def load_reranker(
    name: str | os.PathLike[str] | None,
    *,
    encoder: Encoder | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    score_head: str | None = None,
    **options: Any,
) -> Reranker | None:
    """Load a second stage, or None where the name is "none".

    Args:
        name: "starter"; "maxsim" for late interaction over the token vectors of
            all-MiniLM-L6-v2; else a cross-encoder or a language model: a name from
            `retrieval models`, a folder, a hub id.
        encoder: the first stage's; "maxsim" uses it instead of a second copy where it is the
            same model.
        max_length: the longest input in tokens, of a pair or (`maxsim`) of each text.
        revision: branch, tag or commit of a hub model.
        score_head: "yes-logit" or "chat-logit" where a plain language model is meant;
            "classification" for a decoder with a head whose pairs hold its prompt already.
        options: `engine`, `device`, `dtype`, `token_budget` and more, see `CrossEncoderReranker`
            and `LLMReranker`.

    Raises:
        InvalidInput: the model is not a reranker, or one that cannot be run here.
        ModelNotFound, ModelSettingUnknown, ModelFault: see `resolve`.
    """
    if name is None or name == NONE:
        return None
    # Only a name can mean `maxsim`: a path object is always a folder.
    known = registry.find(name, "reranker") if isinstance(name, str) else None
    if known is not None and known.score_head == "maxsim":
        return _late_interaction(encoder, max_length, revision, options)

    from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker

    resolved = resolve(
        name, "reranker", max_length=max_length, revision=revision, score_head=score_head
    )
    if resolved.spec.score_head not in ("classification", "maxsim"):
        return _language_model(resolved, options)
    return CrossEncoderReranker(resolved, **options)


def _language_model(resolved: ResolvedModel, options: dict[str, Any]) -> Reranker:
    from retrieval.models.rerankers.llm import LLMReranker

    # Asked for by default of every reranker; what a language model has no part for must be left
    # as it is, or it would be dropped in silence.
    for name, usual in _ONLY_CROSS_ENCODERS.items():
        given = options.pop(name, usual[0])
        if given not in usual:
            raise InvalidInput(
                f"{name}={given!r} was given for {resolved.spec.name}, a language model, which "
                f"takes {' or '.join(map(repr, usual))}",
                fix=f"Leave {name} out, or choose a cross-encoder such as BAAI/bge-reranker-v2-m3.",
            )
    options.pop("cache_dir", None)  # no graphs are compiled
    options.pop("token_cache_bytes", None)
    try:
        inspect.signature(LLMReranker).bind(resolved, **options)
    except TypeError as error:
        raise InvalidInput(
            f"an option was given that {resolved.spec.name}, a language model, does not take: "
            f"{error}",
            fix="Leave it out; help(LLMReranker) lists what can be given.",
        ) from error
    return LLMReranker(resolved, **options)


def _late_interaction(
    encoder: Encoder | None,
    max_length: int | None,
    revision: str | None,
    options: dict[str, Any],
) -> Reranker:
    from retrieval.models.rerankers.late_interaction import LateInteractionReranker

    if revision is not None:
        raise InvalidInput(
            f"revision={revision!r} was given for the reranker {registry.MAXSIM!r}, whose "
            "weights are those of one package",
            fix="Leave the revision out.",
        )
    resolved = resolve(registry.MAXSIM, "reranker", max_length=max_length)
    wanted = resolved.spec
    tokens: TokenEncoder | None = None
    if encoder is not None and hasattr(encoder, "encode_tokens"):
        info = encoder.info
        # Other instructions or another length would give other scores than `maxsim` has.
        if (
            info.fingerprint == resolved.fingerprint
            and info.max_length == wanted.max_length
            and info.query_instruction == wanted.query_instruction
            and info.passage_instruction == wanted.passage_instruction
        ):
            tokens = cast("TokenEncoder", encoder)
    if tokens is None:
        tokens = load_encoder(registry.MAXSIM_ENCODER, max_length=max_length, **options)
    return LateInteractionReranker(tokens, name=registry.MAXSIM)
