"""The CPU engine: the model, head included, as an OpenVINO graph in fp32, bf16 or int8.

Baking the head into the graph means that only pooled vectors leave it, not hidden states. The graph
is made once by tracing `BertLike`, or the transformers module of another architecture, and kept in
a cache folder, so that a later start needs neither torch nor the tracing, nor NNCF in int8.

One stream with all threads runs batches one after the other, for passages as for a single query:
two streams with a thread each were not faster once batches are planned by token budget, and need
more memory; for one short query the LATENCY hint, pinned threads and a single thread were no faster
beyond the noise of the measurement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault, first_line
from retrieval.models.engines.base import Dtype, Head, Pending, TokenBatch
from retrieval.models.engines.calibration import (
    calibration_batches,
    calibration_key,
    check_calibration,
)
from retrieval.models.engines.hardware import cpu_may_overflow_int8, cpu_multiplies_bf16
from retrieval.models.engines.making import ONE_AT_A_TIME
from retrieval.models.engines.openvino_export import (
    convert,
    graph_entry,
    keep_graph,
    openvino,
    probe,
    probe_width,
    read_graph,
)
from retrieval.models.engines.quantization import check_quantized, nncf_version, quantize
from retrieval.models.model_folder import read_folder
from retrieval.types import FloatArray

TOKEN_BUDGET = 4096
"""Padded tokens in a batch; 2,048 to 4,096 measured best on CPUs."""

_COMPARED = 64
"""Calibration texts on which an int8 graph is compared with the one it was made from."""


class OpenVINOEngine:
    """Runs batches through a compiled OpenVINO graph on the CPU.

    Args:
        path: a model folder with safetensors or torch weights.
        head: what to compute, see `engines.base.Head`.
        dtype: `fp32`, `bf16`, `int8`, or `auto`: bf16 where the CPU multiplies it natively, else
            fp32. int8 is static quantisation; it is fast where the CPU has VNNI or AMX
            instructions, works elsewhere too, but more slowly than fp32 there.
        threads: CPU threads; None leaves the choice to OpenVINO.
        cache_dir: where graphs are kept between runs; None keeps none.
        calibration: at least 8 texts, better 100 to 300, like those to be read, by which int8
            sets its scales; None for the built-in ones. For int8 only.

    Raises:
        InvalidInput: a dtype this engine has not, or texts that cannot calibrate.
        MissingExtra: int8 without NNCF.
        ModelFault: the model cannot be turned into a graph, or the graph computes something else.
        ModelNotFound, ModelSettingUnknown: see `engines.modules.load_module`.
    """

    name = "openvino"
    device = "cpu"
    token_budget = TOKEN_BUDGET

    def __init__(
        self,
        path: Path,
        head: Head,
        *,
        dtype: Dtype = "auto",
        threads: int | None = None,
        cache_dir: Path | None = None,
        calibration: Sequence[str] | None = None,
    ) -> None:
        fast = "bf16" if cpu_multiplies_bf16() else "fp32"
        self.dtype: str = fast if dtype == "auto" else dtype
        self.head: Head = head
        if self.dtype not in ("fp32", "bf16", "int8"):
            raise InvalidInput(
                f"dtype={dtype!r} was given for the OpenVINO engine",
                fix="Choose auto, fp32, bf16 or int8, or engine='transformers'.",
            )
        check_calibration(calibration)
        if calibration is not None and dtype != "int8":
            raise InvalidInput(
                f"calibration texts were given with dtype={dtype!r}, but only int8 is calibrated",
                fix="Leave calibration out, or choose dtype='int8'.",
            )
        self._positions = read_folder(path).position_limit
        core = openvino.Core()
        try:
            if self.dtype == "int8":
                with ONE_AT_A_TIME:
                    graph = self._int8_graph(core, path, threads, cache_dir, calibration)
                self._compile(core, graph, fast, threads)
            else:
                self._load_float(core, path, self.dtype, threads, cache_dir)
        except RuntimeError as error:
            raise ModelFault(
                f"OpenVINO cannot compile the model in {path}: {first_line(error)}",
                fix="Use engine='transformers'.",
            ) from error

    def run(self, batch: TokenBatch) -> FloatArray:
        """See `engines.base.Engine.run`. Calls from several threads take turns."""
        request = self._request()
        try:
            # Not `submit`: handing over to OpenVINO's thread and back delays a single query.
            output: FloatArray = request.infer(self._inputs(batch))[0]
        except RuntimeError as error:
            raise _failed(batch, error) from error
        self._idle.append(request)
        return output

    def submit(self, batch: TokenBatch) -> Pending:
        """See `engines.base.Engine.submit`. Started batches queue up in OpenVINO's one stream."""
        request = self._request()
        try:
            request.start_async(self._inputs(batch))
        except RuntimeError as error:
            raise _failed(batch, error) from error

        def wait() -> FloatArray:
            try:
                request.wait()
            except RuntimeError as error:
                raise _failed(batch, error) from error
            output: FloatArray = request.get_output_tensor(0).data.copy()
            self._idle.append(request)
            return output

        return wait

    def _request(self) -> openvino.InferRequest:
        """One that is idle, or a new one: it serves one batch at a time, whoever asks."""
        try:
            return self._idle.pop()  # atomic, so that no two threads get the same
        except IndexError:
            return self._compiled.create_infer_request()

    def _inputs(self, batch: TokenBatch) -> list[NDArray[np.int64]]:
        width = batch.input_ids.shape[1]
        if self._positions is not None and width > self._positions:
            # OpenVINO reads zeros behind the end of a table and says nothing.
            raise RuntimeError(f"the model reads {self._positions} tokens at most")
        inputs = [batch.input_ids, batch.attention_mask]
        if self._takes_type_ids:
            types = batch.token_type_ids
            inputs.append(np.zeros_like(batch.input_ids) if types is None else types)
        return inputs

    def _compile(
        self, core: openvino.Core, graph: openvino.Model, precision: str, threads: int | None
    ) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "NUM_STREAMS": "1",
            # Pinned threads of several processes on one machine would fight for the same cores.
            "ENABLE_CPU_PINNING": False,
            # Kernels made for the shapes seen last. With OpenVINO's own 5,000 memory grew by 30 MiB
            # for each 8,000 short pairs; fewer than 1,000 cost speed.
            "CPU_RUNTIME_CACHE_CAPACITY": "1000",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._compiled = core.compile_model(graph, "CPU", settings)
        self._takes_type_ids = len(self._compiled.inputs) == 3
        self._idle: deque[openvino.InferRequest] = deque()

    def _load_float(
        self,
        core: openvino.Core,
        path: Path,
        precision: str,
        threads: int | None,
        cache_dir: Path | None,
    ) -> openvino.Model:
        """The graph as it is kept, or traced, checked and then kept; compiled."""
        entry = graph_entry(path, self.head, cache_dir)
        graph = read_graph(core, entry)
        if graph is not None:
            self._compile(core, graph, precision, threads)
            return graph
        with ONE_AT_A_TIME:
            module, graph = convert(path, self.head)
            self._compile(core, graph, precision, threads)
            self._check_against(module, path, limit=0.15 if precision == "bf16" else 0.001)
        keep_graph(graph, entry)
        return graph

    def _int8_graph(
        self,
        core: openvino.Core,
        path: Path,
        threads: int | None,
        cache_dir: Path | None,
        calibration: Sequence[str] | None,
    ) -> openvino.Model:
        """The quantised graph as it is kept, or made, compared with the float one and then kept."""
        seven_bits = cpu_may_overflow_int8()
        kind = "int7" if seven_bits else "int8"
        versions = [kind, nncf_version(), calibration_key(calibration)]
        entry = graph_entry(path, self.head, cache_dir, *versions)
        kept = read_graph(core, entry)
        if kept is not None:
            return kept
        exact = self._load_float(core, path, "fp32", threads, cache_dir)
        batches = calibration_batches(path, self.head, calibration)
        compared = batches[:: -(-len(batches) // _COMPARED)]
        expected = [self.run(batch) for batch in compared]
        inputs = [self._inputs(batch) for batch in batches]
        graph = quantize(exact, inputs, seven_bits=seven_bits)
        self._compile(core, graph, "bf16" if cpu_multiplies_bf16() else "fp32", threads)
        given = [self.run(batch) for batch in compared]
        check_quantized(self.head, expected, given, seven_bits=seven_bits)
        keep_graph(graph, entry)
        return graph

    def _check_against(self, module: Any, path: Path, *, limit: float) -> None:
        """Compare the graph with the transformers module, on shapes it was not traced with.

        Tracing turns what depends on Python values into constants; a model where that matters
        must not pass unnoticed. Nor must a model that `BertLike` takes for another.
        """
        import torch

        batch = probe(rows=3, width=probe_width(module))
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        inputs = [ids, mask, torch.zeros_like(ids)] if module.takes_type_ids else [ids, mask]
        with torch.inference_mode():
            expected = module(*inputs).numpy().astype(np.float64)
        given = self.run(batch).astype(np.float64)
        if self.head == "tokens":
            keep = batch.attention_mask.astype(bool)
            expected, given = expected[keep], given[keep]
        difference = np.linalg.norm(given - expected) / max(float(np.linalg.norm(expected)), 1e-6)
        if not difference <= limit:
            raise ModelFault(
                f"the OpenVINO graph of the model in {path} differs from the model by "
                f"{difference:.2g} of its output's norm, expected at most {limit}",
                fix="Use engine='transformers'.",
            )


def _failed(batch: TokenBatch, error: RuntimeError) -> ModelFault:
    return ModelFault(
        f"OpenVINO failed on a batch of shape {batch.input_ids.shape}: {first_line(error)}",
        fix="Try a smaller token_budget, or engine='transformers'.",
    )
