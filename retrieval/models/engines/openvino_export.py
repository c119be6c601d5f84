"""OpenVINO graphs: a model with its head turned into one by tracing, and kept for a later start."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ModelFault, first_line
from retrieval.models.cache_dir import entry_key, find, keep
from retrieval.models.engines.base import Head, TokenBatch
from retrieval.models.score_modules import score_files


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """What is imported meanwhile sends no usage statistics.

    OpenVINO and NNCF report their being imported and used to their makers unless the package
    openvino-telemetry is absent. A retrieval library has no business letting them.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # `import` then says: no such package
    try:
        yield
    finally:
        del sys.modules[name]


with without_telemetry():
    import openvino as openvino

_GRAPH_VERSION = 3
"""Part of a kept graph's name: to be counted up when what is traced changes its meaning."""
_GRAPH_FILE = "graph.xml"


def convert(path: Path, head: Head) -> tuple[Any, openvino.Model]:
    """The transformers module with its head, and the graph of it in its fastest form.

    Raises:
        ModelFault: it cannot be turned into a graph.
        ModelNotFound, ModelSettingUnknown: see `engines.modules.load_module`.
    """
    import torch

    from retrieval.models.engines.attention_masks import masks_made_ahead
    from retrieval.models.engines.bert import BertLike, is_bert_like
    from retrieval.models.engines.modules import load_module, quiet

    module = load_module(path, head, torch.float32)
    batch = probe(rows=2, width=8)
    example = [torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)]
    if module.takes_type_ids:
        example.append(torch.zeros_like(example[0]))
    # Unfused: one product for query, key and value measured slower than three in OpenVINO.
    known = module.scorer is None and is_bert_like(module.model, head)
    traceable = BertLike(module.model, head).eval() if known else module
    try:
        with quiet(), warnings.catch_warnings():
            # Tracing is the way into OpenVINO; torch would like its successor used, and warns of
            # every Python condition. The engine looks afterwards whether one of them mattered, so
            # that the tracer's own check, half of its time, can be left out.
            warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
            warnings.filterwarnings("ignore", r".*torch\.jit\.", category=DeprecationWarning)
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            with torch.no_grad(), masks_made_ahead(module.model):
                traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                    traceable, tuple(example), check_trace=False, strict=False
                )
            graph = openvino.convert_model(traced, example_input=tuple(example))
    except Exception as error:  # whatever the model's code raises while it is traced
        raise ModelFault(
            f"the model in {path} cannot be turned into an OpenVINO graph "
            f"({type(error).__name__}: {first_line(error)})",
            fix="Use engine='transformers'.",
        ) from error
    return module, graph


def probe(rows: int, width: int) -> TokenBatch:
    """A batch with padding, of ids that every vocabulary has: row n is an n-th of `width` long."""
    ids = 5 + np.arange(rows * width, dtype=np.int64).reshape(rows, width) % 50
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, max(width // (row + 1), 2) :] = 0
    return TokenBatch(ids, mask)


def probe_width(module: Any) -> int:
    """Tokens of a probe that reaches beyond the window of a model's attention, text and padding."""
    from retrieval.models.engines.attention_masks import window_of

    window = window_of(module.model.config) or 0
    return 11 + 2 * min(window, 256)


def graph_entry(path: Path, head: Head, cache_dir: Path | None, *parts: str) -> Path | None:
    """Where a graph is kept: named by the model's files and the versions that trace it.

    Args:
        path: the model folder.
        head: the head that is baked in.
        cache_dir: None keeps nothing.
        parts: whatever else the graph depends on.
    """
    if cache_dir is None:
        return None
    files = [file for file in path.iterdir() if file.suffix in {".safetensors", ".bin", ".json"}]
    files += score_files(path)
    versions = [version(package) for package in ("openvino", "torch", "transformers")]
    return cache_dir / f"graph-{entry_key(files, _GRAPH_VERSION, head, versions, *parts)}"


def read_graph(core: openvino.Core, entry: Path | None) -> openvino.Model | None:
    """The kept graph; None where there is none that can be read."""
    folder = find(entry)
    if folder is None:
        return None
    try:
        return core.read_model(folder / _GRAPH_FILE)
    except RuntimeError:
        return None


def keep_graph(graph: openvino.Model, entry: Path | None) -> None:
    """Keep a graph, where there is room for it."""
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")

    def write(folder: Path) -> None:
        openvino.save_model(graph, folder / _GRAPH_FILE, compress_to_fp16=False)

    keep(entry, write, size=sum(node.get_byte_size() for node in constants))
