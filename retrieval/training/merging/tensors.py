"""The weights of model folders, one tensor at a time, and which of them are averaged."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from retrieval.errors import InvalidInput, ModelFault, first_line
from retrieval.models.safetensors_file import BYTES

if TYPE_CHECKING:
    import torch

_BUFFERS = (".position_ids", ".token_type_ids", ".inv_freq")
"""Ends of names that older versions of transformers stored and newer ones compute."""

FLOATS = ("F64", "F32", "F16", "BF16")

# torch's names of number types → those of the safetensors format
_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_CODES |= {"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8"}
_CODES |= {"uint8": "U8", "bool": "BOOL"}

_MOST_NAMED = 3

Kind: TypeAlias = "tuple[str, tuple[int, ...]]"
"""A tensor's number type, as the safetensors format names it, and its shape."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What the weight files of one model hold.

    Attributes:
        name: of the model, for messages.
        kinds: tensor → its number type and shape.
        files: tensor → where it is: an open safetensors file, or a dict of tensors.
    """

    name: str
    kinds: Mapping[str, Kind]
    files: Mapping[str, Any] = field(repr=False)

    def get(self, tensor: str) -> torch.Tensor:
        """One tensor, in its own number type.

        Raises:
            ModelFault: it cannot be read.
        """
        file = self.files[tensor]
        if isinstance(file, dict):
            found: torch.Tensor = file[tensor]
            return found
        try:
            found = file.get_tensor(tensor)
        except Exception as error:  # the one boundary: whatever safetensors raises
            raise _unreadable(self.name, error) from error
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each tensor.

    Attributes:
        averaged: names, in order. copied: of whole numbers, the same in all models.
        notices: what was left out, in sentences.
    """

    averaged: tuple[str, ...]
    copied: tuple[str, ...]
    notices: tuple[str, ...]


@contextlib.contextmanager
def open_weights(name: str, files: Sequence[Path]) -> Iterator[Weights]:
    """The tensors of a model's weight files, which stay mapped and are not read as a whole.

    Args:
        name: of the model, for messages.
        files: safetensors, shards in order, or what `torch.save` writes.

    Raises:
        ModelFault: a file cannot be read.
    """
    kinds: dict[str, Kind] = {}
    places: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for path in files:
            try:
                file, found = _opened(path, stack)
            except Exception as error:  # whatever safetensors, torch and pickle raise
                raise _unreadable(f"{name} ({path.name})", error) from error
            kinds |= found
            places |= dict.fromkeys(found, file)
        yield Weights(name, kinds, places)


def _opened(path: Path, stack: contextlib.ExitStack) -> tuple[Any, dict[str, Kind]]:
    import torch
    from safetensors import safe_open

    if path.suffix == ".safetensors":
        file = stack.enter_context(safe_open(path, framework="pt"))
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        return file, {
            name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()
        }
    # weights_only: a pickle could run code, tensors cannot.
    mapped = zipfile.is_zipfile(path)  # files older than torch 1.6 are not, and are read whole
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    tensors = {name: one for name, one in state.items() if isinstance(one, torch.Tensor)}
    return tensors, {
        name: (_CODES.get(str(one.dtype).removeprefix("torch."), "?"), tuple(one.shape))
        for name, one in tensors.items()
    }


def plan(models: Sequence[Weights], *, unused: Sequence[str] = (), tied: bool = False) -> Plan:
    """Which tensors are averaged; what is not in all models must not matter.

    Args:
        models: at least two.
        unused: beginnings of names of tensors that the model does not compute with, such as the
            pooler of an encoder; where a model lacks them they are left out.
        tied: whether the models tie weights: then a tensor that one of them stores twice is
            left out where others store it once.

    Raises:
        InvalidInput: a tensor that matters is missing in a model, has another shape, or holds
            whole numbers that differ.
    """
    everywhere = set.intersection(*(set(one.kinds) for one in models))
    left: dict[str, None] = {}
    for one in models:
        for name in sorted(set(one.kinds) - everywhere):
            if f".{name}".endswith(_BUFFERS) or name.startswith(tuple(unused)):
                left[name] = None
            elif not (tied and _stored_twice(one, name, everywhere)):
                raise _missing(one, models, everywhere)
    averaged, copied = [], []
    for name in sorted(everywhere):
        _check_kinds(name, models)
        if all(one.kinds[name][0] in FLOATS for one in models):
            averaged.append(name)
        else:
            _check_equal(name, models)
            copied.append(name)
    notices: tuple[str, ...] = ()
    if left:
        shown = ", ".join(list(left)[:_MOST_NAMED]) + (", …" if len(left) > _MOST_NAMED else "")
        notices = (f"left out: {shown}, which only some models have and none computes with",)
    return Plan(tuple(averaged), tuple(copied), notices)


def _stored_twice(model: Weights, name: str, everywhere: set[str]) -> bool:
    """Whether a tensor is another one, which all models have, once more."""
    import torch

    kind = model.kinds[name]
    own = None
    for other in sorted(everywhere):
        if model.kinds[other] == kind:
            own = model.get(name) if own is None else own
            if torch.equal(own, model.get(other)):
                return True
    return False


def _check_kinds(name: str, models: Sequence[Weights]) -> None:
    first = models[0]
    for one in models:
        if one.kinds[name][0] not in BYTES:
            raise InvalidInput(
                f"{name} is quantised in {one.name} ({one.kinds[name][0]}), and only whole weights "
                "can be averaged",
                fix="Give the model in fp32, fp16 or bf16.",
            )
        if one.kinds[name][1] != first.kinds[name][1]:
            raise InvalidInput(
                f"{name} has the shape {first.kinds[name][1]} in {first.name} and "
                f"{one.kinds[name][1]} in {one.name}; models are averaged tensor by tensor",
                fix="Merge models that were tuned from the same one.",
            )


def _check_equal(name: str, models: Sequence[Weights]) -> None:
    import torch

    first = models[0].get(name)
    for one in models[1:]:
        if not torch.equal(first, one.get(name)):
            raise InvalidInput(
                f"{name} holds whole numbers, which cannot be averaged, and they differ between "
                f"{models[0].name} and {one.name}",
                fix="Merge models that were tuned from the same one.",
            )


def _missing(model: Weights, models: Sequence[Weights], everywhere: set[str]) -> InvalidInput:
    names = sorted(set(model.kinds) - everywhere)
    lacking = next(one.name for one in models if names[0] not in one.kinds)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return InvalidInput(
        f"{model.name} has weights that {lacking} has not: {', '.join(names[:_MOST_NAMED])}{more}",
        fix="Merge models that were tuned from the same one and saved in the same way.",
    )


def _unreadable(name: str, error: Exception) -> ModelFault:
    return ModelFault(
        f"the weights of {name} cannot be read ({type(error).__name__}: {first_line(error)})",
        fix="Fetch the model again, or save it again.",
    )
