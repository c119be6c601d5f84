"""What was merged into what, and the model card that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrieval.training.merging.average import Method
from retrieval.training.merging.weights import MergeWeights
from retrieval.training.saving import base_models, table, write_card
from retrieval.types import ModelSpec, ResolvedModel


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was merged into what.

    Attributes:
        model: the merged one, as `resolve` finds it.
        sources: what it was made from, in order; weights: the share of each.
        method: "linear" or "slerp". dtype: of the stored weights, such as "fp32".
        tensors: how many were averaged; collinear: how many of these slerp took linearly.
        notices: what is to be known of it, in sentences.
    """

    model: ResolvedModel
    sources: tuple[ResolvedModel, ...]
    weights: MergeWeights
    method: Method
    dtype: str
    tensors: int
    collinear: int
    notices: tuple[str, ...]


def write_recipe(folder: Path, spec: ModelSpec, report: MergeReport, chosen: ResolvedModel) -> None:
    """Write the card of a merged model: which models, how much of each, and why that much.

    Args:
        chosen: the model whose instructions and length were taken.

    Raises:
        OSError: the file cannot be written.
    """
    losses = report.weights.losses
    rows = [
        (
            shown_name(one),
            f"{weight:.6g}",
            f"`{one.fingerprint}`",
            f"{losses[place]:.6g}" if losses else "",
        )
        for place, (one, weight) in enumerate(
            zip(report.sources, report.weights.values, strict=True)
        )
    ]
    columns = 4 if losses else 3
    how = (
        f"{'Spherical' if report.method == 'slerp' else 'Linear'} average of {report.tensors} "
        f"tensors in float32, stored as {report.dtype}. Weights: {report.weights.told()}. "
        f"Instructions and length are those of {shown_name(chosen)}."
    )
    if report.collinear:
        how += f" {report.collinear} tensors were collinear and averaged linearly."
    models = table(
        ("model", "weight", "fingerprint", "loss")[:columns], [row[:columns] for row in rows]
    )
    write_card(
        folder,
        spec,
        title=Path(spec.name).name,
        summary=f"{'An encoder' if spec.kind == 'encoder' else 'A reranker'}: the weighted average "
        f"of {len(report.sources)} models, by LM-Cocktail (Xiao et al. 2023, arXiv 2311.13534).",
        sections=[
            (
                "How it was made",
                "\n\n".join([models, how, *(f"Note: {one}." for one in report.notices)]),
            )
        ],
        base_models=base_models(report.sources),
        licence=spec.licence,
    )


def shown_name(model: ResolvedModel) -> str:
    """A model's name, of a folder the last part: a card is read on other machines."""
    name = model.spec.name
    return Path(name).name if Path(name).is_absolute() else name
