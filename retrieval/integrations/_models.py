"""Shared by the adapters: models by name or given, and re-ranking of others' results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from retrieval._validate import is_number, number, one_of, query_text, true_or_false, whole_number
from retrieval.errors import InvalidInput
from retrieval.models.defaults import AUTO, NONE, choose_models
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.options import (
    SETTINGS,
    checked,
    first_device,
    for_reranker_named,
    of_encoder,
)
from retrieval.models.registry import STARTER
from retrieval.search.hits import reranked_hits, threshold
from retrieval.search.plan import chosen_blend, second_weight
from retrieval.types import (
    BlendChoice,
    Candidate,
    Encoder,
    Hit,
    Passage,
    ProgressCallback,
    Reranker,
)

_log = logging.getLogger(__name__)

# --- vectors --------------------------------------------------------------------------------


def query_vector(
    encoder: Encoder, query: str, progress: ProgressCallback | None = None
) -> list[float]:
    """A query's vector, with the query instruction; a warning is logged where it was cut."""
    vector: list[float] = encoder.encode_queries([query], progress=progress)[0].tolist()
    longest, text = encoder.info.max_length, encoder.info.query_text(query)
    # A token has at least one character, so most queries are cleared without tokenising.
    if len(text) > longest - 2:
        counter = encoder.token_counter
        tokens = len(counter.token_offsets(text)) + counter.special_tokens
        if tokens > longest:
            _log.warning(
                "the query has %d tokens; %s read the first %d", tokens, encoder.info.model, longest
            )
    return vector


def passage_vectors(
    encoder: Encoder, texts: Sequence[str], progress: ProgressCallback | None = None
) -> list[list[float]]:
    """Vectors of texts, in their order; a warning is logged where some were cut."""
    if not texts:
        return []
    encoding = encoder.encode_passages(list(texts), progress=progress)
    cut = int(encoding.truncated.sum())
    if cut:
        _log.warning(
            "%d of %d texts are longer than %s reads (%d tokens) and were cut",
            cut,
            len(texts),
            encoder.info.model,
            encoder.info.max_length,
        )
    vectors: list[list[float]] = encoding.vectors.tolist()
    return vectors


# --- re-ranking what others found -----------------------------------------------------------


def passage_of(row: int, text: str, metadata: Mapping[str, Any], *, with_title: bool) -> Passage:
    """A framework's document as the reranker reads it: title and headings first, as in a search.

    Its id keeps the order of equal scores what a search makes of it: by passage id where the
    metadata has one, then by place.
    """
    title = metadata.get("title") if with_title else None
    headings = metadata.get("headings") if with_title else None
    return Passage(
        id=f"{metadata.get('passage_id') or ''}#{row:09d}",
        document_id="",
        position=row,
        text=text,
        start=0,
        end=len(text),
        title=title if isinstance(title, str) else "",
        headings=tuple(map(str, headings)) if isinstance(headings, (list, tuple)) else (),
    )


def rerank(
    reranker: Reranker,
    query: str,
    passages: Sequence[Passage],
    *,
    top_n: int | None,
    min_relevance: float | None,
    blend: BlendChoice | None,
    first_scores: Sequence[object] = (),
    progress: ProgressCallback | None = None,
) -> list[tuple[Hit, bool]]:
    """Passages in final order, and of each whether the reranker read only a part of it.

    `hit.passage.position` is the place in `passages`, whose order counts as the first stage's.
    Where not all of them came with a score, the blend "scores" has nothing to go by, and joins the
    orders by ranks.

    Raises:
        InvalidQuery: empty or not text.
    """
    query_text(query)
    if not passages:
        return []
    scores = reranker.score([(query, one.content) for one in passages], progress=progress)
    known = [float(score) for score in first_scores if is_number(score)]
    how = chosen_blend(blend, reranker.info)
    if len(known) != len(passages):
        known = [0.0] * len(passages)
        how = "rrf" if how == "scores" else how
    found = [
        Candidate(one, score, rank)
        for rank, (one, score) in enumerate(zip(passages, known, strict=True), start=1)
    ]
    # What frameworks bring comes from vectors, as a rule.
    weight = second_weight(reranker.info, "dense")
    hits = reranked_hits(found, scores, reranker.relevance(scores.values), how, weight)
    kept = threshold(hits, min_relevance)[:top_n]
    return [(hit, bool(scores.truncated[hit.passage.position])) for hit in kept]


def check_reranking(
    top_n: int | None, min_relevance: float | None, blend: BlendChoice | None, with_title: bool
) -> None:
    """Refuse what a reranking adapter cannot be made with.

    Raises:
        InvalidInput: names the argument.
    """
    if top_n is not None:
        whole_number(top_n, "top_n")
    if min_relevance is not None:
        number(
            min_relevance,
            "min_relevance",
            least=0,
            most=1,
            expected="a number from 0 to 1",
            fix="Try 0.3, or leave it out to keep all.",
        )
    if blend is not None:
        one_of(blend, BlendChoice, "blend")
    true_or_false(with_title, "with_title", fix="False re-ranks by the text alone.")


# --- models by name -------------------------------------------------------------------------


def encoder_from(
    model: str | Encoder, options: Mapping[str, Any]
) -> tuple[Encoder, tuple[str, ...], bool]:
    """An encoder given or named, what to say of the choice, and whether it was loaded here.

    Args:
        model: a name, folder or hub id, "starter", "auto", or an encoder.
        options: how it runs, as for `retrieval.ingest`, `pooling`, `query_instruction`,
            `passage_instruction` and `max_length` among them.

    Raises:
        InvalidInput: neither a name nor an encoder, or options given beside an encoder.
        ModelNotFound, ModelSettingUnknown, ModelFault: see `retrieval.ingest`.
    """
    if not isinstance(model, str):
        if not isinstance(model, Encoder):
            raise _no_model(model, "an encoder", "retriever.encoder")
        _refuse_options(options, "an encoder")
        return model, (), False
    settings = {name: options[name] for name in SETTINGS if name in options}
    own = {name: value for name, value in options.items() if name not in settings}
    checked(own, reranker=False)
    choice = choose_models(model, NONE, device=first_device(own))
    return load_encoder(choice.encoder, **settings, **of_encoder(own)), choice.notices, True


def reranker_from(
    model: str | Reranker, options: Mapping[str, Any]
) -> tuple[Reranker, tuple[str, ...], bool]:
    """A reranker given or named, what to say of the choice, and whether it was loaded here.

    Args:
        model: a name, folder or hub id, "starter", "auto", or a reranker.
        options: how it runs, as for `retrieval.open`.

    Raises:
        InvalidInput: neither a name nor a reranker, "none", or options given beside a reranker.
        ModelNotFound, ModelSettingUnknown, ModelFault: see `retrieval.open`.
    """
    if not isinstance(model, str):
        if not isinstance(model, Reranker):
            raise _no_model(model, "a reranker", "retriever.reranker")
        _refuse_options(options, "a reranker")
        return model, (), False
    checked(options, encoder=False)
    choice = choose_models(AUTO if model == AUTO else STARTER, model, device=first_device(options))
    if choice.reranker is None:
        raise InvalidInput(
            f"the reranker is {model!r}, and there is nothing to re-rank with",
            fix="Name a model from `retrieval models`, or leave the re-ranking out.",
        )
    loaded = load_reranker(choice.reranker, **for_reranker_named(choice.reranker, options)[0])
    assert loaded is not None
    return loaded, choice.notices, True


def check_fingerprint(
    kind: Literal["encoder", "reranker"], model: str, found: str, expected: str | None
) -> None:
    """Refuse other weights than those that a saved pipeline was built with.

    Raises:
        InvalidInput: the fingerprints differ.
    """
    if expected and found != expected:
        raise InvalidInput(
            f"the {kind} {model!r} has the fingerprint {found}, but was saved with {expected}",
            fix="Load the weights it was saved with, or leave the fingerprint out to take these; "
            "vectors of the two must not be mixed.",
        )


def _no_model(given: object, what: str, example: str) -> InvalidInput:
    return InvalidInput(
        f"model is a {type(given).__name__}, expected a name or {what}",
        fix=f'Give a name from `retrieval models`, "auto", or a loaded one such as {example}.',
    )


def _refuse_options(options: Mapping[str, Any], what: str) -> None:
    if options:
        raise InvalidInput(
            f"{', '.join(sorted(options))} was given besides {what} that is loaded already",
            fix="Leave it out; a model takes its options when it is loaded.",
        )
