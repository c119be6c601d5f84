"""The CPU engine: the transformers module, head included, as an OpenVINO graph.

Baking the head into the graph means that only pooled vectors leave it, not hidden states. The graph
is made once by tracing and kept in a cache folder, so that a later start needs neither torch nor
the tracing. One stream with all threads runs batches one after the other: two streams with a
thread each were not faster once batches are planned by token budget, and they need more memory.
"""

from __future__ import annotations

import threading
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.cache import entry_key, find, keep
from retrieval.models.engines.base import Dtype, Head, TokenBatch
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.types import FloatArray

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_GRAPH_VERSION = 1
"""Part of a kept graph's name: to be counted up when `HeadedModel` changes its meaning."""
_GRAPH_FILE = "graph.xml"


class OpenVINOEngine:
    """Runs batches through a compiled OpenVINO graph on the CPU.

    Args:
        path: a model folder with safetensors or torch weights.
        head: what to compute, see `engines.base.Head`.
        dtype: `fp32`, `bf16`, or `auto`: bf16 where the CPU multiplies it natively.
        threads: CPU threads; None leaves the choice to OpenVINO.
        cache_dir: where graphs are kept between runs; None keeps none.

    Raises:
        InvalidInput: a dtype this engine has not.
        ModelFault: the model cannot be turned into a graph, or the graph computes something else.
        ModelNotFound, ModelSettingUnknown: see `engines.transformers.load_module`.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        head: Head,
        *,
        dtype: Dtype = "auto",
        threads: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        if dtype == "auto":
            dtype = "bf16" if cpu_multiplies_bf16() else "fp32"
        if dtype not in _PRECISIONS:
            raise InvalidInput(
                f"dtype={dtype!r} was given for the OpenVINO engine",
                fix="Choose auto, fp32 or bf16, or engine='transformers'.",
            )
        self._dtype = dtype
        self._head: Head = head
        self._lock = threading.Lock()
        core = openvino.Core()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "NUM_STREAMS": "1",
            # Pinned threads of several processes on one machine would fight for the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        entry = _entry(path, head, cache_dir)
        graph = _read(core, entry)
        try:
            if graph is not None:
                self._use(core.compile_model(graph, "CPU", settings))
            else:
                module, graph = _convert(path, head)
                self._use(core.compile_model(graph, "CPU", settings))
                self._check_against(module, path)
                _keep(graph, entry)
        except RuntimeError as error:
            raise ModelFault(
                f"OpenVINO cannot compile the model in {path}: {_first_line(error)}",
                fix="Use engine='transformers'.",
            ) from error

    @property
    def dtype(self) -> str:
        """`fp32` or `bf16`."""
        return self._dtype

    @property
    def head(self) -> Head:
        """What `run` computes."""
        return self._head

    def run(self, batch: TokenBatch) -> FloatArray:
        """See `engines.base.Engine.run`. Calls from several threads take turns."""
        inputs = [batch.input_ids, batch.attention_mask]
        if self._takes_type_ids:
            types = batch.token_type_ids
            inputs.append(np.zeros_like(batch.input_ids) if types is None else types)
        try:
            with self._lock:
                output: FloatArray = self._request.infer(inputs)[0]
        except RuntimeError as error:
            raise ModelFault(
                f"OpenVINO failed on a batch of shape {batch.input_ids.shape}: "
                f"{_first_line(error)}",
                fix="Try a smaller token_budget, or engine='transformers'.",
            ) from error
        return output

    def _use(self, compiled: openvino.CompiledModel) -> None:
        self._takes_type_ids = len(compiled.inputs) == 3
        self._request = compiled.create_infer_request()

    def _check_against(self, module: Any, path: Path) -> None:
        """Compare the graph with the module it was traced from, on shapes it was not traced with.

        Tracing turns what depends on Python values into constants; a model where that matters
        must not pass unnoticed.
        """
        import torch

        batch = _probe(rows=3, width=11)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        inputs = [ids, mask, torch.zeros_like(ids)] if module.takes_type_ids else [ids, mask]
        with torch.inference_mode():
            expected = module(*inputs).numpy().astype(np.float64)
        given = self.run(batch).astype(np.float64)
        if self._head == "tokens":
            keep = batch.attention_mask.astype(bool)
            expected, given = expected[keep], given[keep]
        difference = np.linalg.norm(given - expected) / max(float(np.linalg.norm(expected)), 1e-6)
        limit = 0.15 if self._dtype == "bf16" else 0.001
        if not difference <= limit:
            raise ModelFault(
                f"the OpenVINO graph of the model in {path} differs from the model by "
                f"{difference:.2g} of its output's norm, expected at most {limit}",
                fix="Use engine='transformers'.",
            )


def _convert(path: Path, head: Head) -> tuple[Any, openvino.Model]:
    import torch

    from retrieval.models.engines.transformers import load_module, quiet

    module = load_module(path, head, torch.float32)
    batch = _probe(rows=2, width=8)
    example = [torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)]
    if module.takes_type_ids:
        example.append(torch.zeros_like(example[0]))
    try:
        with quiet(), warnings.catch_warnings():
            # Tracing is the way into OpenVINO; torch would like its successor used, and warns of
            # every Python condition. `_check_against` looks whether one of them mattered, so that
            # the tracer's own check, half of its time, can be left out.
            warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
            warnings.filterwarnings("ignore", r".*torch\.jit\.", category=DeprecationWarning)
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            with torch.no_grad():
                traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                    module, tuple(example), check_trace=False, strict=False
                )
            graph = openvino.convert_model(traced, example_input=tuple(example))
    except Exception as error:  # whatever the model's code raises while it is traced
        raise ModelFault(
            f"the model in {path} cannot be turned into an OpenVINO graph "
            f"({type(error).__name__}: {_first_line(error)})",
            fix="Use engine='transformers'.",
        ) from error
    return module, graph


def _probe(rows: int, width: int) -> TokenBatch:
    """A batch with padding, of ids that every vocabulary has."""
    ids = 5 + np.arange(rows * width, dtype=np.int64).reshape(rows, width) % 50
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, width - 2 * row :] = 0
    return TokenBatch(ids, mask)


def _entry(path: Path, head: Head, cache_dir: Path | None) -> Path | None:
    """Where the graph is kept: named by the model's files and the versions that trace it."""
    if cache_dir is None:
        return None
    files = [file for file in path.iterdir() if file.suffix in {".safetensors", ".bin", ".json"}]
    versions = [version(package) for package in ("openvino", "torch", "transformers")]
    return cache_dir / f"graph-{entry_key(files, _GRAPH_VERSION, head, versions)}"


def _read(core: openvino.Core, entry: Path | None) -> openvino.Model | None:
    folder = find(entry)
    if folder is None:
        return None
    try:
        return core.read_model(folder / _GRAPH_FILE)
    except RuntimeError:
        return None


def _keep(graph: openvino.Model, entry: Path | None) -> None:
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")

    def write(folder: Path) -> None:
        openvino.save_model(graph, folder / _GRAPH_FILE, compress_to_fp16=False)

    keep(entry, write, size=sum(node.get_byte_size() for node in constants))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
