"""Turns what a folder declares, what is known and what the caller gave into a ModelSpec.

The caller's settings win, then the model's own declaration, then nothing: what is left open is
`ModelSettingUnknown`; a model of another kind, or with parts that would be left out, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, get_args

from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models import registry
from retrieval.models.describe_reranker import score_head_of
from retrieval.models.examples import QueryExamples, examples_text
from retrieval.models.model_folder import OWN_ARCHITECTURES, ModelFolder
from retrieval.models.model_kinds import article, wrong_kind
from retrieval.models.score_modules import score_layers
from retrieval.types import ModelKind, ModelSpec, Pooling, ScoreHead

GIVEN_HEADS = ("classification", "yes-logit", "chat-logit")
"""What can be given as `score_head`, where a model's files do not say."""

_LLM_HEADS = ("yes-logit", "layerwise-yes-logit", "chat-logit")
_SHORTEST = 8  # tokens; below this nothing but special tokens and an instruction fits
# transformers knows hundreds more, but asking it costs seconds; these need no asking.
_BUILT_IN = frozenset(
    {"bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "gemma2"}
    | {"modernbert", "mistral", "qwen3"}
)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The settings the caller gave; they win over everything declared."""

    pooling: Pooling | None
    query_instruction: str | None
    passage_instruction: str | None
    max_length: int | None
    score_head: ScoreHead | None = None
    query_suffix: str | None = None
    query_examples: QueryExamples | None = None


def check_overrides(
    kind: ModelKind,
    pooling: str | None,
    query: str | None,
    passage: str | None,
    max_length: int | None,
    score_head: str | None = None,
    query_suffix: str | None = None,
    query_examples: QueryExamples | None = None,
) -> Overrides:
    """The caller's settings, or InvalidInput naming the one that cannot be used."""
    if pooling is not None and pooling not in get_args(Pooling):
        raise InvalidInput(
            f"the pooling {pooling!r} does not exist", fix="Use 'cls', 'mean' or 'last'."
        )
    if max_length is not None and max_length < _SHORTEST:
        raise InvalidInput(
            f"max_length={max_length} leaves no room for a text",
            fix=f"Use at least {_SHORTEST} tokens, or leave it out.",
        )
    encoders = (pooling, query, passage, query_suffix, query_examples)
    if kind == "reranker" and any(value is not None for value in encoders):
        raise InvalidInput(
            "pooling and instructions were given for a reranker, which has neither",
            fix="Give them for the encoder, or leave them out.",
        )
    if score_head is not None and (kind != "reranker" or score_head not in GIVEN_HEADS):
        raise InvalidInput(
            f"score_head={score_head!r} was given for {article(kind)}",
            fix="Only rerankers have one, and only 'classification', 'yes-logit' and 'chat-logit' "
            "can be given.",
        )
    head = cast("ScoreHead | None", score_head)
    return Overrides(
        cast("Pooling | None", pooling),
        query,
        passage,
        max_length,
        head,
        query_suffix,
        query_examples,
    )


def describe(name: str, kind: ModelKind, overrides: Overrides, found: ModelFolder) -> ModelSpec:
    """The spec of a model outside the registry, from its own files and the caller's settings."""
    check_built_in(found)
    spec = ModelSpec(
        name=name,
        kind=kind,
        max_length=_declared_length(found),
        architecture=found.architecture,
    )
    if kind == "reranker":
        spec = replace(spec, score_head=score_head_of(name, overrides.score_head, found))
    else:
        _check_encoder(name, found)
        query, passage = _instructions(name, overrides, found)
        dot_product = found.similarity == "dot" and "Normalize" not in found.modules
        spec = replace(
            spec,
            dimension=found.dimension,
            pooling=found.pooling,
            query_instruction=query,
            passage_instruction=passage,
            normalize=not dot_product,
            matryoshka=found.matryoshka,
            note="declares the dot product of vectors that are not normalised; searched by cosine"
            if dot_product
            else "",
        )
    spec = with_overrides(spec, overrides, found)
    if spec.max_length is None:
        raise ModelSettingUnknown(
            f"the model {name} does not declare how many tokens it takes",
            fix="Pass max_length=… (CLI: --max-length).",
        )
    if kind == "encoder" and spec.pooling is None:
        raise ModelSettingUnknown(
            f"the model {name} declares no pooling (it has no 1_Pooling/config.json)",
            fix="Pass pooling='cls' | 'mean' | 'last' (CLI: --pooling), as it was trained; "
            "its card or training script says which.",
        )
    if kind == "encoder" and spec.dimension is None:
        raise ModelFault(
            f"the config.json of {name} declares no hidden_size",
            fix="Give a text model saved by transformers or sentence-transformers.",
        )
    return spec


def _instructions(name: str, overrides: Overrides, found: ModelFolder) -> tuple[str, str]:
    """Query and passage instruction as declared; an error where the declaration leaves it open."""
    prompts = found.prompts
    default = prompts.get(found.default_prompt or "")
    passage = next((prompts[k] for k in ("document", "passage", "corpus") if k in prompts), None)
    query = prompts.get("query")
    if query is None:
        query = default
    if passage is None and found.default_prompt != "query":
        passage = default
    origin = _origin(found)
    if origin is not None and origin.query_suffix and overrides.query_suffix is None:
        raise ModelSettingUnknown(
            f"the model {name} was made from {origin.name}, whose queries end in "
            f"{origin.query_suffix!r}, and does not say whether its own do",
            fix="Pass query_suffix='…', or '' for none (CLI: --query-suffix).",
        )
    if overrides.query_instruction is not None:
        return overrides.query_instruction, passage or ""
    # sentence-transformers fills in empty texts when it saves, so they declare nothing.
    named = sorted(key for key, value in prompts.items() if value)
    if not query and not passage and named:
        raise ModelSettingUnknown(
            f"the model {name} declares prompts named {', '.join(named)}, and none of them is for "
            "queries",
            fix="Pass query_instruction='…' with the one to put before queries, or '' for none "
            "(CLI: --query-instruction).",
        )
    unsaid = not found.no_instruction and (query is None or (query == "" and not named))
    if unsaid and origin is not None and origin.query_instruction:
        raise ModelSettingUnknown(
            f"the model {name} was made from {origin.name}, which takes the query "
            f"instruction {origin.query_instruction!r}, and does not say whether it does",
            fix="Pass query_instruction='…', or '' for none (CLI: --query-instruction).",
        )
    return query or "", passage or ""


def _origin(found: ModelFolder) -> ModelSpec | None:
    """The known encoder that a model was made from, as its own files name it."""
    for base in found.base_models:
        tail = base.rstrip("/").rpartition("/")[2]
        origin = registry.find(tail) or registry.find(tail.partition("_")[2])
        if origin is not None and origin.kind == "encoder":
            return origin
    return None


def with_overrides(spec: ModelSpec, overrides: Overrides, found: ModelFolder) -> ModelSpec:
    """The spec with the caller's settings in place; a length beyond the positions is refused."""
    limit = found.position_limit
    if overrides.max_length is not None and limit is not None and overrides.max_length > limit:
        raise InvalidInput(
            f"max_length={overrides.max_length} is more than {spec.name} takes, {limit} tokens",
            fix=f"Use at most {limit}, or a model for longer texts, such as BAAI/bge-m3.",
        )
    if spec.kind == "encoder":
        query = _first(overrides.query_instruction, spec.query_instruction)
        suffix = _first(overrides.query_suffix, spec.query_suffix)
        examples = overrides.query_examples
        examples = spec.query_examples if examples is None else examples
        spec = replace(
            spec,
            pooling=overrides.pooling or spec.pooling,
            query_instruction=query,
            passage_instruction=_first(overrides.passage_instruction, spec.passage_instruction),
            query_suffix=suffix,
            query_examples=examples_text(examples, query, suffix, spec.name),
        )
    return replace(spec, max_length=overrides.max_length or spec.max_length)


def agrees(known: ModelSpec, found: ModelFolder) -> bool:
    """Whether a folder's own declarations leave a known model's facts standing."""
    if known.score_head in _LLM_HEADS:
        return found.architecture == known.architecture
    if known.score_head == "classification":
        if score_layers(found.root):
            return found.architecture == known.architecture
        return found.is_classifier and found.labels == 1
    if found.is_classifier or found.dimension != known.dimension:
        return False
    if found.pooling is not None and known.pooling is not None and found.pooling != known.pooling:
        return False
    if found.no_instruction and known.query_instruction:
        return False
    declared = found.prompts.get("query")
    return not declared or known.score_head is not None or declared == known.query_instruction


def _declared_length(found: ModelFolder) -> int | None:
    lengths = [n for n in (found.declared_length, found.position_limit) if n is not None]
    return min(lengths, default=None)


def _check_encoder(name: str, found: ModelFolder) -> None:
    if found.saved_as not in (None, "SentenceTransformer"):
        raise wrong_kind(name, "encoder", f"it was saved as a {found.saved_as}")
    if found.is_classifier:
        raise wrong_kind(name, "encoder", f"a {found.architecture} is a classifier")
    if found.architecture in OWN_ARCHITECTURES:
        raise wrong_kind(name, "encoder", f"a {found.architecture} is a reranker")
    extra = [m for m in found.modules if m not in ("Transformer", "Pooling", "Normalize")]
    if extra:
        raise InvalidInput(
            f"the encoder {name} has layers that would be left out: {', '.join(extra)}",
            fix="Choose a model of a transformer and a pooling only, such as BAAI/bge-m3.",
        )
    if found.config.get("is_encoder_decoder"):
        raise InvalidInput(
            f"the model {name} has an encoder and a decoder ({found.architecture})",
            fix="Choose a model of one stack, such as BAAI/bge-m3.",
        )


def check_built_in(found: ModelFolder) -> None:
    """Refuse a model type that the installed transformers does not have."""
    model_type = str(found.config.get("model_type", ""))
    if model_type in _BUILT_IN or found.architecture in OWN_ARCHITECTURES:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        raise InvalidInput(
            f"the model in {found.root} is of the type {model_type!r}, which the installed "
            "transformers does not know",
            fix="Upgrade transformers, or choose another model; `retrieval models` lists some.",
        )


def _first(value: str | None, declared: str) -> str:
    return declared if value is None else value
