"""Static int8 quantisation of an OpenVINO graph through NNCF, and a check of its outputs.

Post-training quantisation (Jacob et al. 2018; for transformers with SmoothQuant, Xiao et al. 2023):
weights and the activations that go into matrix products become int8, with scales fixed on
calibration texts. Dynamic quantisation, which finds the scales at run time, was measured too and
is slower on a CPU (1.24 × bf16 against 1.6 ×).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import MissingExtra, ModelFault, first_line
from retrieval.models.engines.base import Head
from retrieval.models.engines.openvino_export import openvino, without_telemetry
from retrieval.types import FloatArray

LEAST_COSINE = 0.95
MEAN_COSINE = 0.99
LARGEST_LOGIT_DIFFERENCE = 0.25
"""Root mean square difference of logits, as a share of their own spread."""

SEVEN_BITS_LOGIT_DIFFERENCE = 0.3
"""The same for weights of seven bits, which round twice as coarsely."""

_QUANTIZING = threading.Lock()


def nncf_version() -> str:
    """The installed version of NNCF, without importing it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return version("nncf")
    except PackageNotFoundError as error:
        raise MissingExtra("nncf", extra="int8", purpose="dtype='int8'") from error


def quantize(
    graph: openvino.Model, inputs: Sequence[Sequence[NDArray[np.int64]]], *, seven_bits: bool
) -> openvino.Model:
    """An int8 copy of `graph`.

    Args:
        graph: a float graph, which is left as it is.
        inputs: for each calibration text the graph's inputs, in their order.
        seven_bits: weights in half of int8's range, for CPUs that cut larger sums of products.

    Raises:
        MissingExtra: NNCF is not installed.
        ModelFault: NNCF cannot quantise this graph.
    """
    nncf_version()
    try:
        with _QUANTIZING, _silent() as nncf:
            return nncf.quantize(
                graph,
                nncf.Dataset([list(arrays) for arrays in inputs]),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(inputs),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE if seven_bits else None
                ),
            )
    except Exception as error:  # the one boundary: whatever NNCF raises, its import included
        raise ModelFault(
            f"the model cannot be quantised to int8 ({type(error).__name__}: {first_line(error)})",
            fix="Use dtype='bf16'.",
        ) from error


def check_quantized(
    head: Head,
    expected: Sequence[FloatArray],
    given: Sequence[FloatArray],
    *,
    seven_bits: bool = False,
) -> None:
    """Refuse an int8 graph that computes something else than the graph it was made from.

    Args:
        head: what both compute.
        expected: the float graph's output for each calibration text.
        given: the int8 graph's.
        seven_bits: whether its weights have seven bits.

    Raises:
        ModelFault: the least or the mean cosine of the vectors is too low (for `tokens` the mean
            over a text's tokens counts as its cosine), or the logits differ too much.
    """
    fix = "Give more calibration texts, or ones more like those to be read, or use dtype='bf16'."
    if head == "logits":
        exact, quantized = np.concatenate(expected), np.concatenate(given)
        spread = max(float(exact.std()), 1e-6)
        difference = float(np.sqrt(np.mean((quantized - exact) ** 2))) / spread
        most = SEVEN_BITS_LOGIT_DIFFERENCE if seven_bits else LARGEST_LOGIT_DIFFERENCE
        if not difference <= most:
            raise ModelFault(
                f"in int8 the model's logits differ by {difference:.2f} of their own spread on "
                f"the {len(exact)} calibration pairs, expected at most {most}",
                fix=fix,
            )
        return
    cosines = np.asarray([_cosine(a, b) for a, b in zip(expected, given, strict=True)])
    if not (cosines.min() >= LEAST_COSINE and cosines.mean() >= MEAN_COSINE):
        raise ModelFault(
            f"in int8 the model's vectors of the {len(cosines)} calibration texts have a cosine "
            f"of {cosines.min():.4f} at least and {cosines.mean():.4f} on average to those in "
            f"full precision, expected {LEAST_COSINE} and {MEAN_COSINE}",
            fix=fix,
        )


def _cosine(a: FloatArray, b: FloatArray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(np.mean((x * y).sum(-1) / np.maximum(norms, 1e-12)))


@contextlib.contextmanager
def _silent() -> Iterator[Any]:
    """NNCF, without its progress bars and log lines, and the process as it was afterwards."""
    loggers = logging.getLoggerClass()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            with without_telemetry():
                import nncf
                from nncf.common.logging.track_progress import track
        finally:
            logging.setLoggerClass(loggers)  # importing NNCF makes every later logger its own
        logger = logging.getLogger("nncf")
        disabled, bar = logger.disabled, track.__init__
        logger.disabled = True

        def without_bar(self: Any, *args: Any, **options: Any) -> None:
            bar(self, *args, **{**options, "disable": True})

        track.__init__ = without_bar
        try:
            yield nncf
        finally:
            track.__init__ = bar
            logger.disabled = disabled
