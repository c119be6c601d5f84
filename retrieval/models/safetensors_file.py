"""Writes weights in the safetensors format, one tensor at a time.

https://github.com/huggingface/safetensors#format: a length of 8 bytes, a header of JSON that ends
at a multiple of 8, the values. Written here and not by a library, whose next version may order or
pad otherwise: a collection would no longer know its encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Dtypes = Mapping[str, tuple[str, tuple[int, ...]]]

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
BYTES |= {"U8": 1, "BOOL": 1}
"""Bytes of a value, by the format's name of its number type."""


def write_safetensors(path: Path, kinds: Dtypes, values: Callable[[str], NDArray[Any]]) -> None:
    """Write a file with names in order, so that the same weights are the same file everywhere.

    Args:
        kinds: name → (number type as the format names it, shape).
        values: gives a tensor's values by its name, little-endian; their bytes are written. It is
            called once for each name, so that no two tensors need be in memory.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(kinds):
        dtype, shape = kinds[name]
        start, end = end, end + BYTES[dtype] * _product(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(kinds):
            file.write(values(name).data)


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
