"""Merge models by name: which kind they are, how much of each, and where the result goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from retrieval._validate import one_of
from retrieval.errors import InvalidInput
from retrieval.models import registry
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.model_folder import OWN_ARCHITECTURES, read_folder
from retrieval.models.options import SETTINGS, of_encoder, of_reranker
from retrieval.models.resolve import resolve
from retrieval.search.retriever import close_models
from retrieval.training.data.reading import load_examples
from retrieval.training.examples import TrainingExample
from retrieval.training.folder import check_place
from retrieval.training.merging.average import Method
from retrieval.training.merging.merge import StoredDtype, merge_models
from retrieval.training.merging.report import MergeReport
from retrieval.training.merging.weights import (
    TEMPERATURE,
    MergeWeights,
    check_examples,
    encoder_loss,
    equal_weights,
    given_weights,
    loss_weights,
    reranker_loss,
)
from retrieval.types import ModelKind, ResolvedModel

ModelName: TypeAlias = "str | os.PathLike[str]"
WeightsLike: TypeAlias = "Sequence[float] | MergeWeights | Literal['equal', 'loss']"


def merge(
    models: Sequence[ModelName],
    out: str | os.PathLike[str],
    *,
    weights: WeightsLike = "equal",
    examples: str | os.PathLike[str] | Sequence[TrainingExample] | None = None,
    temperature: float = TEMPERATURE,
    base: ModelName | None = None,
    kind: ModelKind | None = None,
    method: Method = "linear",
    dtype: StoredDtype | None = None,
    instruction_of: ModelName | None = None,
    normalize_weights: bool = False,
    extrapolate: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> MergeReport:
    """Merge encoders, or rerankers, into one model by the average of their weights: LM-Cocktail
    (Xiao et al. 2023).

    Args:
        models: names from `retrieval models`, folders, or hub ids; all tuned from one model.
        out: the new model's folder; it must not exist, or be empty.
        weights: one number for each model, with a sum of 1; "equal"; "loss": more of the models
            whose loss on `examples` is small, by softmax(-loss / temperature); or what a sweep
            found.
        examples: for "loss", training examples or a file of them, see `load_examples`.
        temperature: of that softmax.
        base: the model that the others were tuned from, as one more to merge, the last; the
            result takes its instructions and length where `instruction_of` does not say otherwise.
        kind: "encoder" or "reranker"; None finds out. A hub id that is not known here cannot say.
        method, dtype, overwrite, progress: see `merge_models`.
        instruction_of: the model, one of those named, whose instructions and length the result
            takes. Default: the first.
        normalize_weights: divide the weights by their sum. extrapolate: let them be negative.
        options: `pooling`, `query_instruction` and others where models leave them open, or how
            models run whose loss is computed; as for `retrieval.open`.
        on_notice: gets a sentence on each thing that is to be known before the work is done.

    Returns:
        The merged model as it was found again, its sources and weights, and notices.

    Raises:
        InvalidInput: models that cannot be averaged, wrong weights, a folder that holds files.
        ModelNotFound, ModelSettingUnknown, ModelFault: see `retrieval.models.resolve.resolve`.
        CorpusError: the examples cannot be read.

    Example:
        >>> report = merge(["tuned/", "BAAI/bge-small-en-v1.5"], "merged/", weights=[0.7, 0.3])
        >>> report.model.spec.pooling, report.notices
        ('cls', ())
    """
    names = [*models, *([] if base is None else [base])]
    options = dict(options or {})
    place = _place_of(instruction_of, names, default=0 if base is None else len(names) - 1)
    if weights != "loss":
        _refuse_examples(examples)
    shares = _given(weights, len(names), normalize_weights, extrapolate)
    found = resolve_all(names, kind, options)
    check_place(Path(out), overwrite=overwrite, sources=[one.path for one in found])
    if shares is None:
        shares = _from_losses(found, examples, temperature, options, on_notice or (lambda _: None))
    return merge_models(
        found, shares, Path(out), method=method, dtype=dtype, settings_of=place,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip


def resolve_all(
    names: Sequence[ModelName], kind: ModelKind | None, options: Mapping[str, Any]
) -> list[ResolvedModel]:
    """Models that are to be merged, found and fetched; all of one kind.

    Raises:
        InvalidInput: nothing says whether they are encoders or rerankers.
        ModelNotFound, ModelSettingUnknown, InvalidInput, ModelFault: see `resolve`.
    """
    if kind is None:
        kinds = [one for one in map(_kind_of, names) if one is not None]
        if not kinds:
            raise InvalidInput(
                f"it cannot be told whether {' and '.join(map(str, names))} are encoders or "
                "rerankers",
                fix="Say kind='encoder' or kind='reranker' (CLI: --kind).",
            )
        kind = kinds[0]
    one_of(kind, ModelKind, "the kind of model")
    return [resolve(name, kind, **_settings(kind, options)) for name in names]


def _settings(kind: ModelKind, options: Mapping[str, Any]) -> dict[str, Any]:
    names = SETTINGS if kind == "encoder" else ("max_length",)
    return {name: options[name] for name in names if options.get(name) is not None}


def _kind_of(name: ModelName) -> ModelKind | None:
    """What a model is, by the registry or its folder; None where neither knows it."""
    if isinstance(name, str):
        if registry.spelled_out(name) != name:  # `starter` is a pair
            return None
        known = registry.find(name)
        if known is not None:
            return known.kind
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    found = read_folder(folder)
    if found.saved_as == "CrossEncoder" or found.is_classifier:
        return "reranker"
    if found.pooling is None and (
        found.is_language_model or found.architecture in OWN_ARCHITECTURES
    ):
        return "reranker"
    return "encoder"


def _place_of(wanted: ModelName | None, names: Sequence[ModelName], default: int) -> int:
    if wanted is None:
        return default
    shown = [os.fspath(name) for name in names]
    if os.fspath(wanted) not in shown:
        raise InvalidInput(
            f"the instructions of {os.fspath(wanted)!r} were asked for, which is none of the "
            f"models: {', '.join(shown)}",
            fix="Name one of them as it is written there.",
        )
    return shown.index(os.fspath(wanted))


def _given(
    weights: WeightsLike, count: int, normalize: bool, extrapolate: bool
) -> MergeWeights | None:
    """The weights, or None where losses will say."""
    if isinstance(weights, str):
        one_of(
            weights, ("equal", "loss"), "weights",
            fix="Give a number for each model, such as 0.5,0.5, or one of these.",
        )  # fmt: skip
        return equal_weights(count) if weights == "equal" else None
    if isinstance(weights, MergeWeights):
        return weights
    return given_weights(weights, count, normalize=normalize, extrapolate=extrapolate)


def _refuse_examples(examples: object) -> None:
    if examples is not None:
        raise InvalidInput(
            "examples were given, and the weights do not come from losses on them",
            fix="Use weights='loss' (CLI: --weights loss), or leave the examples out.",
        )


def _from_losses(
    models: Sequence[ResolvedModel],
    examples: str | os.PathLike[str] | Sequence[TrainingExample] | None,
    temperature: float,
    options: Mapping[str, Any],
    say: Callable[[str], None],
) -> MergeWeights:
    """Load each model in turn for its loss."""
    if examples is None:
        raise InvalidInput(
            "weights by loss were asked for, without examples",
            fix="Give a file of training examples with examples=… (CLI: --examples FILE).",
        )
    if isinstance(examples, str | os.PathLike):
        examples = load_examples(examples, on_notice=say)
    kind = models[0].spec.kind
    kept = check_examples(examples, kind, say)
    running = {name: value for name, value in options.items() if name not in SETTINGS}
    losses = []
    for one in models:
        if kind == "encoder":
            encoder = load_encoder(one.spec.name, **_settings(kind, options), **of_encoder(running))
            losses.append(encoder_loss(encoder, kept))
            close_models([encoder])
        else:
            reranker = load_reranker(
                one.spec.name, **_settings(kind, options), **of_reranker(running)
            )
            assert reranker is not None  # it was resolved
            losses.append(reranker_loss(reranker, kept))
            close_models([reranker])
        say(f"loss of {one.spec.name}: {losses[-1]:.4f}")
    return loss_weights(losses, len(kept), temperature=temperature)
