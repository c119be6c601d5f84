"""LM-Cocktail: the weighted average of models that were tuned from one, as a model of its own.

Xiao et al. 2023, "LM-Cocktail: Resilient Tuning of Language Models via Model Merging": averaged
with the model it was tuned from, a tuned model keeps most of what it won on its task and gets back
most of what it lost elsewhere.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from retrieval._validate import one_of
from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.describe import GIVEN_HEADS
from retrieval.models.encoders.bge_m3_heads import COLBERT_FILE, SPARSE_FILE
from retrieval.models.model_folder import read_folder
from retrieval.models.resolve import resolve
from retrieval.models.safetensors_file import write_safetensors
from retrieval.models.score_modules import layer_weights, score_layers
from retrieval.models.weight_files import weight_files
from retrieval.training.folder import copy_files, new_folder, root_of, write_settings
from retrieval.training.merging.average import Method, linear, slerp
from retrieval.training.merging.checks import (
    check_same,
    merged_spec,
    setting_notices,
    ties_weights,
)
from retrieval.training.merging.report import MergeReport, write_recipe
from retrieval.training.merging.tensors import Plan, Weights, open_weights, plan
from retrieval.training.merging.weights import MergeWeights
from retrieval.types import ResolvedModel

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

StoredDtype: TypeAlias = Literal["fp32", "fp16", "bf16"]
"""How merged weights are stored."""

_CODES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_NAMES = {code: name for name, code in _CODES.items()} | {"F64": "fp64"}
_POOLER = ("pooler.",)
"""What transformers makes for every BERT, and no pooling of an encoder computes with."""


def merge_models(
    models: Sequence[ResolvedModel],
    weights: MergeWeights,
    out: Path,
    *,
    method: Method = "linear",
    dtype: StoredDtype | None = None,
    settings_of: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Average the weights of models and write the folder of a model.

    Each tensor is averaged in float32, one after the other, so that memory holds no model. The
    folder has the first model's files, appears whole or not at all, and loads in this library,
    sentence-transformers, FlagEmbedding and transformers.

    Args:
        models: two or more encoders, or as many rerankers, all tuned from one model.
        weights: the share of each, see `retrieval.training.merging.weights`.
        out: the new folder; it must not exist, or be empty.
        method: "linear", or for two models "slerp", the arc between them (Shoemake 1985) for
            every tensor that is not collinear with its other; weights of 0 to 1.
        dtype: of the stored weights; None for that of the first model's tensors.
        settings_of: place of the model whose instructions and length the merged one takes.
        overwrite: replace what is in the folder.
        progress: called as (tensors done, of how many).

    Raises:
        InvalidInput: the models cannot be averaged, see `check_same` and `plan`; or the folder
            must not be written.
        ModelFault: weights cannot be read or are not finite, or the averages do not fit into
            `dtype`.
        StoreDenied, DiskFull, StoreFault: the folder cannot be written.

    Example:
        >>> tuned, original = resolve("tuned", "encoder"), resolve("bge-small-en-v1.5", "encoder")
        >>> report = merge_models([tuned, original], equal_weights(2), Path("merged"))
        >>> report.tensors, report.model.spec.query_instruction
        (197, 'Represent this sentence for searching relevant passages: ')
    """
    _check(models, weights, method)
    check_same(models)
    chosen = models[settings_of]
    spec = merged_spec(models, chosen, str(out.absolute()))
    notices = setting_notices(models, chosen)
    work = _Averaging(models, weights.values, method, dtype, progress)
    with new_folder(out, overwrite=overwrite, sources=[one.path for one in models]) as folder:
        copy_files(models, folder)
        work.write(folder)
        write_settings(folder, spec, work.stored)
        notices += work.notices
        report = MergeReport(
            models[0], tuple(models), weights, method, _NAMES[work.stored], work.tensors,
            work.collinear, tuple(notices),
        )  # fmt: skip
        write_recipe(folder, spec, report, chosen)
    # what has no place in the files
    if spec.kind == "encoder":
        found = resolve(out, "encoder", query_suffix=spec.query_suffix)
    else:
        head = spec.score_head if spec.score_head in GIVEN_HEADS else None
        found = resolve(out, "reranker", score_head=head)
    return replace(report, model=found)


def _check(models: Sequence[ResolvedModel], weights: MergeWeights, method: Method) -> None:
    one_of(method, Method, "the method")
    if len(models) < 2:
        raise InvalidInput(
            f"{len(models)} models were given to be merged", fix="Give at least two."
        )
    if len(weights.values) != len(models):
        raise InvalidInput(
            f"{len(weights.values)} weights were given for {len(models)} models",
            fix="Give one weight for each model.",
        )
    if method == "slerp" and (len(models) != 2 or min(weights.values) < 0):
        raise InvalidInput(
            f"slerp was asked for {len(models)} models with the weights "
            f"{', '.join(f'{value:g}' for value in weights.values)}; it takes two models and "
            "weights from 0 to 1",
            fix="Use the method 'linear'.",
        )
    for one in models:
        kinds = set(read_folder(root_of(one)).modules)
        if one.spec.kind == "encoder" and kinds - {"Transformer", "Pooling", "Normalize"}:
            raise InvalidInput(
                f"the encoder {one.spec.name} has layers behind its pooling, which are not merged",
                fix="Choose models of a transformer and a pooling only.",
            )


class _Averaging:
    """Averages files of weights into those of a folder; counts what was done."""

    def __init__(
        self,
        models: Sequence[ResolvedModel],
        weights: Sequence[float],
        method: Method,
        dtype: StoredDtype | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.notices: list[str] = []
        self.tensors = 0
        self.collinear = 0
        self.stored = "F32" if dtype is None else _CODES[dtype]
        self._models = models
        self._weights = weights
        self._method = method
        self._dtype = dtype
        self._progress = progress

    def write(self, folder: Path) -> None:
        models = self._models
        self._file(folder / "model.safetensors", [weight_files(one.path) for one in models])
        heads = [score_layers(root_of(one)) for one in models]
        if len({tuple((layer.kind, layer.activation) for layer in one) for one in heads}) > 1:
            raise InvalidInput(
                "the rerankers' heads are made of other modules",
                fix="Merge models that were tuned from the same one.",
            )
        for layers in zip(*heads, strict=True):
            place = folder / layers[0].folder.name / "model.safetensors"
            self._file(place, [[layer_weights(layer)] for layer in layers])
        for name in (SPARSE_FILE, COLBERT_FILE):
            files = [one.path / name for one in models if (one.path / name).is_file()]
            if len(files) == len(models):
                self._head(folder / name, files)
            elif files:
                self.notices.append(f"left out: {name}, which only some of the models have")

    def _file(self, place: Path, files: Sequence[Sequence[Path]]) -> None:
        with self._opened(files) as (opened, planned):
            averaged = {name: opened[0].kinds[name] for name in planned.averaged}
            kinds = {name: (self._code(own), shape) for name, (own, shape) in averaged.items()}
            kinds |= {name: opened[0].kinds[name] for name in planned.copied}
            self.stored = next((kinds[name][0] for name in averaged), self.stored)
            done = itertools.count(1)

            def values(name: str) -> NDArray[Any]:
                copied = name not in averaged
                made = (
                    opened[0].get(name) if copied else self._average(name, opened, kinds[name][0])
                )
                if self._progress is not None:
                    self._progress(next(done), len(kinds))
                return _bytes(made)

            write_safetensors(place, kinds, values)

    def _head(self, place: Path, files: Sequence[Path]) -> None:
        """One of bge-m3's two layers, in the format that FlagEmbedding reads."""
        import torch

        with self._opened([[file] for file in files]) as (opened, planned):
            state = {
                name: self._average(name, opened, self._code(opened[0].kinds[name][0]))
                for name in planned.averaged
            }
            torch.save(state, place)

    @contextlib.contextmanager
    def _opened(self, files: Sequence[Sequence[Path]]) -> Iterator[tuple[list[Weights], Plan]]:
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(open_weights(one.spec.name, own))
                for one, own in zip(self._models, files, strict=True)
            ]
            is_encoder = self._models[0].spec.kind == "encoder"
            planned = plan(
                opened, unused=_POOLER if is_encoder else (), tied=ties_weights(self._models[0])
            )
            self.notices += planned.notices
            self.tensors += len(planned.averaged)
            yield opened, planned

    def _code(self, own: str) -> str:
        return own if self._dtype is None else _CODES[self._dtype]

    def _average(self, name: str, opened: Sequence[Weights], code: str) -> torch.Tensor:
        import torch

        tensors = [one.get(name) for one in opened]
        made = None
        if self._method == "slerp":
            made = slerp(tensors[0], tensors[1], self._weights[1])
            self.collinear += made is None
        if made is None:
            made = linear(tensors, self._weights)
        types = {"F64": torch.float64, "F32": torch.float32}
        types |= {"F16": torch.float16, "BF16": torch.bfloat16}
        stored = made.to(types[code])
        if not torch.isfinite(stored).all():
            for one, tensor in zip(opened, tensors, strict=True):
                if not torch.isfinite(tensor).all():
                    raise ModelFault(
                        f"{name} of {one.name} holds numbers that are not finite",
                        fix="Its training has diverged, or its file is damaged: take another.",
                    )
            raise ModelFault(
                f"the average of {name} is too large for {code}",
                fix="Store it as fp32 or bf16 (CLI: --dtype).",
            )
        return stored


def _bytes(tensor: torch.Tensor) -> NDArray[Any]:
    """The values as they lie in memory; numpy has no bfloat16."""
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8).numpy()
