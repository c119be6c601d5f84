"""Float weights from an ONNX file that was quantised dynamically to 8 bits.

Such a file (as onnxruntime's `quantize_dynamic` writes it) keeps of each matrix w the integers q,
a scale and a zero point, and w ≈ scale · (q - zero_point). That product is formed here in float32,
one rounding an element, so the result is the same on every machine. What the rounding to 8 bits
took from the original weights does not come back.

Only what this takes of ONNX's format is read, straight from protobuf's wire format: field numbers
are those of onnx.proto, version 1 of its IR and later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelFault
from retrieval.types import FloatArray

_Field: TypeAlias = "tuple[int, int | memoryview]"

# onnx.proto: the numbers of the fields that are read.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_NAME, _NODE_OP = 1, 3, 4
_DIMS, _DATA_TYPE, _FLOATS, _INTS, _NAME, _RAW, _LOCATION = 1, 2, 4, 5, 8, 9, 14
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1")}

_MATRIX_NODE = re.compile(r"(/MatMul|/Gemm_MatMul)_quant$")
_PARAMETER = re.compile(r"[A-Za-z_][\w.]*\.(weight|bias)")
_QUANTIZED, _SCALE, _ZERO_POINT = "_quantized", "_scale", "_zero_point"

_Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    op: str
    inputs: tuple[str, ...]


def read_weights(path: Path) -> dict[str, FloatArray]:
    """The parameters of a quantised PyTorch model by the names that its state dict has.

    Args:
        path: an ONNX file, exported from PyTorch and then quantised.

    Returns:
        Name → float32 array, in PyTorch's orientation: a linear layer's weight is (out, in).

    Raises:
        ModelFault: the file is damaged, or not of that kind.
    """
    try:
        nodes, arrays = _read(memoryview(path.read_bytes()))
        return _dequantized(nodes, arrays)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelFault(
            f"{path} is not an ONNX file of dynamically quantised weights that can be read "
            f"({error})",
            fix="Fetch the model again; a newer version of its package may be laid out otherwise.",
        ) from error


def _dequantized(nodes: list[_Node], arrays: Mapping[str, _Array]) -> dict[str, FloatArray]:
    found: dict[str, FloatArray] = {}
    matrices = set()
    for node in nodes:
        if node.op != "MatMulInteger" or node.inputs[1] not in arrays:
            continue  # a product of two activations
        quantized, zero_point = node.inputs[1], node.inputs[3]
        scale = quantized.removesuffix(_QUANTIZED) + _SCALE
        layer = _MATRIX_NODE.sub("", node.name).strip("/").replace("/", ".")
        whole = _product(arrays, quantized, scale, zero_point)
        found[f"{layer}.weight"] = np.ascontiguousarray(whole.T)
        matrices.add(quantized)
    for name, values in arrays.items():
        base = name.removesuffix(_QUANTIZED)
        if base != name and name not in matrices:
            found[base] = _product(arrays, name, base + _SCALE, base + _ZERO_POINT)
        elif _PARAMETER.fullmatch(name) and values.dtype == np.float32:
            found[name] = values.astype(np.float32)
    return found


def _product(
    arrays: Mapping[str, _Array], quantized: str, scale: str, zero_point: str
) -> FloatArray:
    """scale · (q - zero_point), one scale in all or one a column."""
    values = arrays[quantized].astype(np.float32) - arrays[zero_point].astype(np.float32)
    return np.asarray(arrays[scale].astype(np.float32) * values, dtype=np.float32)


# --- protobuf -------------------------------------------------------------------------------


def _read(model: memoryview) -> tuple[list[_Node], dict[str, _Array]]:
    nodes: list[_Node] = []
    arrays: dict[str, _Array] = {}
    graphs = [value for number, value in _fields(model) if number == _MODEL_GRAPH]
    for graph in graphs:
        for number, value in _fields(_message(graph)):
            if number == _GRAPH_NODE:
                nodes.append(_node(_message(value)))
            elif number == _GRAPH_INITIALIZER:
                tensor = _tensor(_message(value))
                if tensor is not None:
                    arrays[tensor[0]] = tensor[1]
    if not arrays:
        raise ValueError("it holds no weights")
    return nodes, arrays


def _node(message: memoryview) -> _Node:
    texts: dict[int, list[str]] = {}
    for number, value in _fields(message):
        if number in (_NODE_INPUT, _NODE_NAME, _NODE_OP):
            texts.setdefault(number, []).append(_text(value))
    return _Node(
        name=texts.get(_NODE_NAME, [""])[0],
        op=texts.get(_NODE_OP, [""])[0],
        inputs=tuple(texts.get(_NODE_INPUT, ())),
    )


def _tensor(message: memoryview) -> tuple[str, _Array] | None:
    """A tensor's name and values; None for types that hold no weights."""
    name, kind, dims = "", 0, list[int]()
    parts: list[_Array] = []
    for number, value in _fields(message):
        if number == _NAME:
            name = _text(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == _LOCATION and value != 0:
            raise ValueError(f"the values of {name} lie in another file")
        elif number in (_FLOATS, _RAW, _INTS):
            parts.append(_values(number, value, kind))
    if kind not in _DTYPES:
        return None
    values = np.concatenate(parts) if parts else np.empty(0, _DTYPES[kind])
    if values.dtype != _DTYPES[kind] or values.size != math.prod(dims):
        raise ValueError(f"{name} has {values.size} values of {values.dtype}, its shape is {dims}")
    return name, values.reshape(dims)


def _values(number: int, value: int | memoryview, kind: int) -> _Array:
    dtype = _DTYPES.get(kind, np.dtype("u1"))
    if number == _INTS:  # 8-bit values that are written as integers of protobuf
        ints = [value] if isinstance(value, int) else _varints(value)
        signed = [number - (1 << 64) if number >> 63 else number for number in ints]
        return np.array(signed, dtype=np.int64).astype(dtype)
    return np.frombuffer(_message(value), dtype=np.dtype("<f4") if number == _FLOATS else dtype)


def _fields(message: memoryview) -> Iterator[_Field]:
    """(number, value) of a message's fields: whole numbers, and the bytes of everything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"byte {at} begins no field")
        if at + size > len(message):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of protobuf's variable length at an offset, and the offset behind it."""
    value = shift = 0
    while shift < 70:
        if at >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"the number before byte {at} has no end")


def _varints(message: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(message):
        number, at = _varint(message, at)
        numbers.append(number)
    return numbers


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number stands where a message is expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8")
