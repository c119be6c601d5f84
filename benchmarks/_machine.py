"""What the machine can multiply, and what a model has to: the yardstick that no model flatters.

A rate is GFLOP/s of matrix products in one number format: the faster of torch and OpenVINO, which
differ by machine and format, measured in the same minutes as the systems. `2 m n k` is counted for
a product of (m, k) by (k, n).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from _shapes import Shape
from numpy.typing import NDArray

SQUARE = 2048
ROWS = 4096
"""Tokens in a batch, for the products of a model's own shapes."""
_REPEATS = 5


def model_flops(
    shape: Shape, lengths: NDArray[np.int64] | Iterable[int], *, first_only: bool = False
) -> float:
    """Floating-point operations of a forward over texts of these lengths, padding not counted.

    Linear layers and attention; embeddings, norms and activations are left out, as is usual.

    Args:
        shape: the model.
        lengths: tokens of each text.
        first_only: the last layer computes the first token only, as this library does where the
            head reads no other.
    """
    tokens = np.asarray(list(lengths), dtype=np.float64)
    width, inner = shape.width, shape.inner
    layer = tokens * (8 * width**2 + 4 * width * inner) + 4 * tokens**2 * width
    # keys and values of all tokens, the rest of one
    last = tokens * 4 * width**2 + (4 * width**2 + 4 * width * inner) + 4 * tokens * width
    whole = layer.sum()
    return float(whole * (shape.layers - 1) + (last.sum() if first_only else whole))


class Rates:
    """Measures matmul rates again and again, for the median to be that of the whole run.

    Args:
        shape: the model whose own products are measured beside the square ones.
        dtypes: fp32, bf16, fp16, int8; what this machine cannot do is left out.
        device: cpu, or a torch device.
    """

    def __init__(self, shape: Shape, dtypes: Iterable[str], device: str) -> None:
        sizes = {"square": [(SQUARE, SQUARE, SQUARE)], "model": _products(shape)}
        self._runs: dict[tuple[str, str, str], tuple[Callable[[], object], float]] = {}
        for dtype in dict.fromkeys(dtypes):
            for kind, products in sizes.items():
                flops = float(sum(2 * m * k * n for m, k, n in products))
                for engine, make in (("torch", _torch_runs), ("openvino", _openvino_runs)):
                    run = make(products, dtype, device)
                    if run is not None:
                        self._runs[dtype, kind, engine] = (run, flops)
        self._rates: dict[tuple[str, str, str], list[float]] = {key: [] for key in self._runs}

    def measure(self) -> None:
        """One round: the best of a few repeats of each product."""
        for key, (run, flops) in self._runs.items():
            run()
            times = []
            for _ in range(_REPEATS):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            self._rates[key].append(flops / min(times) / 1e9)

    def rate(self, dtype: str, kind: str = "square") -> float | None:
        """GFLOP/s, the median of rounds of the faster engine; None where none can do it."""
        found = [
            statistics.median(rates)
            for (one, which, _), rates in self._rates.items()
            if one == dtype and which == kind and rates
        ]
        return max(found, default=None)

    def all(self) -> dict[str, float]:
        """Everything measured, for the report: `bf16 square openvino` → GFLOP/s."""
        return {" ".join(key): statistics.median(rates) for key, rates in self._rates.items()}


def _products(shape: Shape) -> list[tuple[int, int, int]]:
    width, inner = shape.width, shape.inner
    return [(ROWS, width, width)] * 4 + [(ROWS, width, inner), (ROWS, inner, width)]


def _torch_runs(
    products: list[tuple[int, int, int]], dtype: str, device: str
) -> Callable[[], object] | None:
    import torch

    if dtype == "fp16" and device == "cpu":
        return None  # no CPU system here computes in it
    if dtype == "int8" and device != "cpu":
        return None
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype)
    operands: list[tuple[Any, Any]] = []
    for m, k, n in products:
        if kind is None:
            one = torch.randint(-100, 100, (m, k), dtype=torch.int8)
            operands.append((one, torch.randint(-100, 100, (k, n), dtype=torch.int8)))
        else:
            # (n, k) transposed: how a linear layer keeps its weights
            one = torch.randn(m, k, device=device, dtype=kind)
            operands.append((one, torch.randn(n, k, device=device, dtype=kind).t()))
    multiply: Any = torch._int_mm if kind is None else torch.mm

    def run() -> None:
        with torch.inference_mode():
            for one, other in operands:
                multiply(one, other)
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def _openvino_runs(
    products: list[tuple[int, int, int]], dtype: str, device: str
) -> Callable[[], object] | None:
    """A graph of linear layers with constant weights, as a model is compiled."""
    if device != "cpu" or dtype == "fp16":
        return None
    try:
        import openvino
        from openvino import opset13 as ops
    except ImportError:
        return None
    random = np.random.default_rng(0)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == "bf16" else "f32"}
    settings |= {"NUM_STREAMS": "1"}
    requests = []
    for m, k, n in dict.fromkeys(products):
        given = ops.parameter([m, k], np.float32)
        weight = random.standard_normal((n, k)).astype(np.float32)
        if dtype == "int8":
            node: Any = ops.fake_quantize(given, *_constants(ops, -4.0, 4.0 * 127 / 128), 256)
            small = np.clip(weight * 30, -127, 127).astype(np.int8)
            scale = np.full((n, 1), 1 / 30, dtype=np.float32)
            constant = ops.multiply(ops.convert(ops.constant(small), "f32"), ops.constant(scale))
        else:
            node, constant = given, ops.constant(weight)
        # Summed up, so that the result's copy to the caller is small beside the product.
        out = ops.reduce_sum(ops.matmul(node, constant, False, True), ops.constant([0]), False)
        compiled = core.compile_model(openvino.Model([out], [given]), "CPU", settings)
        request = compiled.create_infer_request()
        data = random.standard_normal((m, k)).astype(np.float32)
        request.set_input_tensor(openvino.Tensor(data))
        requests.append((request, products.count((m, k, n))))

    def run() -> None:
        for request, count in requests:
            for _ in range(count):
                request.infer()

    return run


def _constants(ops: Any, low: float, high: float) -> list[Any]:
    return [ops.constant(np.float32(value)) for value in (low, high, low, high)]
