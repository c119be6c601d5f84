"""The OpenVINO engine: its graph, batches under way, int8, and the second start."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.batches import TEXTS, cosines, pair_batch, real, text_batch

from retrieval.errors import InvalidInput, MissingExtra, ModelFault
from retrieval.models.engines import calibration, quantization
from retrieval.models.engines.base import Head, TokenBatch
from retrieval.models.engines.calibration import LEAST, MAX_LENGTH, MOST
from retrieval.models.engines.openvino import OpenVINOEngine
from retrieval.types import FloatArray

ROOT = Path(__file__).resolve().parents[2]
FEW = [
    "A cross-encoder reads the query and the passage together and gives one score.",
    "Return the path of the file; raise an error when the directory does not exist.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "机器学习模型可以把文本变成向量。",
    "copies a whole directory tree to another place",
    "what is a bi-encoder?",
    "Numbers 0 1 2 3 and signs ( ) [ ]",
    "Represent this sentence for searching relevant passages",
]

needs_nncf = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="nncf is not installed"
)


def quantised(path: Path, head: Head, texts: list[str], cache_dir: Path) -> OpenVINOEngine:
    return OpenVINOEngine(path, head, dtype="int8", cache_dir=cache_dir, calibration=texts)


@pytest.fixture(scope="module")
def plain(tiny_bert_encoder: Path) -> OpenVINOEngine:
    return OpenVINOEngine(tiny_bert_encoder, "cls", dtype="fp32")


@pytest.fixture(scope="module")
def int8_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8-cache")


@pytest.fixture(scope="module")
def int8(tiny_bert_encoder: Path, int8_cache: Path) -> OpenVINOEngine:
    return quantised(tiny_bert_encoder, "cls", FEW, int8_cache)


class TestGraph:
    @pytest.mark.parametrize("head", ["cls", "mean", "tokens"])
    def test_bert_like_or_as_transformers_has_it(
        self, tiny_xlmr_encoder: Path, head: Head, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = text_batch(tiny_xlmr_encoder)
        own = OpenVINOEngine(tiny_xlmr_encoder, head, dtype="fp32").run(batch)
        monkeypatch.setattr("retrieval.models.engines.bert.is_bert_like", lambda *_: False)
        other = OpenVINOEngine(tiny_xlmr_encoder, head, dtype="fp32").run(batch)
        np.testing.assert_allclose(real(batch, own, head), real(batch, other, head), atol=1e-4)

    def test_a_model_that_bert_like_gets_wrong_is_refused(
        self, tiny_bert_reranker: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from retrieval.models.engines.bert import BertLike

        finish = BertLike.finish
        monkeypatch.setattr(BertLike, "finish", lambda self, first: finish(self, first) * 1.01)
        with pytest.raises(ModelFault, match="differs from the model"):
            OpenVINOEngine(tiny_bert_reranker, "logits", dtype="fp32")

    @pytest.mark.parametrize("family", ["bert", "xlmr"])
    def test_no_more_tokens_than_positions(
        self, family: str, request: pytest.FixtureRequest
    ) -> None:
        """OpenVINO would read zeros behind the end of the table of positions."""
        path: Path = request.getfixturevalue(f"tiny_{family}_encoder")
        engine = OpenVINOEngine(path, "cls", dtype="fp32")
        fits, too_long = np.full((1, 128), 7), np.full((1, 129), 7)
        assert np.isfinite(engine.run(TokenBatch(fits, np.ones_like(fits)))).all()
        with pytest.raises(ModelFault, match=r"\(1, 129\): the model reads 128 tokens at most"):
            engine.run(TokenBatch(too_long, np.ones_like(too_long)))


class TestSubmit:
    def test_many_under_way(self, plain: OpenVINOEngine, tiny_bert_encoder: Path) -> None:
        batches = [text_batch(tiny_bert_encoder, [text] * (1 + i)) for i, text in enumerate(TEXTS)]
        expected = [plain.run(batch) for batch in batches]
        started = [plain.submit(batch) for batch in batches]
        results = [pending() for pending in started]
        for result, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, wanted, atol=1e-5)

    def test_results_are_copies(self, plain: OpenVINOEngine, tiny_bert_encoder: Path) -> None:
        first = plain.run(text_batch(tiny_bert_encoder, ["a fox"]))
        before = first.copy()
        plain.run(text_batch(tiny_bert_encoder, ["another dog"]))
        np.testing.assert_array_equal(first, before)

    def test_one_that_is_never_asked_for_blocks_nothing(
        self, plain: OpenVINOEngine, tiny_bert_encoder: Path
    ) -> None:
        batch = text_batch(tiny_bert_encoder)
        expected = plain.run(batch)
        for _ in range(5):
            plain.submit(batch)
        np.testing.assert_allclose(plain.run(batch), expected, atol=1e-5)

    def test_after_a_failure_it_works_on(
        self, plain: OpenVINOEngine, tiny_bert_encoder: Path
    ) -> None:
        batch = text_batch(tiny_bert_encoder)
        expected = plain.run(batch)
        too_long = np.ones((2, 300), dtype=np.int64)
        for _ in range(3):
            with pytest.raises(ModelFault, match=r"shape \(2, 300\)"):
                plain.submit(TokenBatch(too_long, too_long))()
            with pytest.raises(ModelFault, match=r"shape \(2, 300\)"):
                plain.run(TokenBatch(too_long, too_long))
        np.testing.assert_allclose(plain.run(batch), expected, atol=1e-5)


@needs_nncf
class TestInt8:
    @pytest.mark.parametrize(
        ("path", "head"),
        [("tiny_xlmr_encoder", "mean"), ("tiny_bert_encoder", "tokens")],
    )
    def test_vectors(
        self, path: str, head: Head, int8_cache: Path, request: pytest.FixtureRequest
    ) -> None:
        folder: Path = request.getfixturevalue(path)
        batch = text_batch(folder)
        engine = quantised(folder, head, FEW + TEXTS, int8_cache)
        exact = OpenVINOEngine(folder, head, dtype="fp32").run(batch)
        given = engine.run(batch)
        assert engine.dtype == "int8"
        assert given.dtype == np.float32
        found = cosines(real(batch, exact, head), real(batch, given, head))
        assert found.mean() >= 0.99
        # Were nothing quantised, the difference would be bf16's: at most 1e-4.
        assert found.min() < 0.9999

    # Random weights tell pairs apart by little, so rounding weighs more than in a trained model.
    @pytest.mark.parametrize(
        ("path", "least"), [("tiny_bert_reranker", 0.95), ("tiny_xlmr_reranker", 0.75)]
    )
    def test_logits(
        self, path: str, least: float, int8_cache: Path, request: pytest.FixtureRequest
    ) -> None:
        folder: Path = request.getfixturevalue(path)
        batch = pair_batch(folder, FEW + TEXTS)
        engine = quantised(folder, "logits", FEW + TEXTS[:2], int8_cache)
        exact = OpenVINOEngine(folder, "logits", dtype="fp32").run(batch)
        given = engine.run(batch)
        assert given.shape == exact.shape
        assert np.corrcoef(exact, given)[0, 1] >= least
        assert np.abs(exact - given).max() > 1e-5

    def test_one_text_alone_or_padded(self, int8: OpenVINOEngine, tiny_bert_encoder: Path) -> None:
        together = int8.run(text_batch(tiny_bert_encoder))
        for row, text in enumerate(TEXTS):
            alone = int8.run(text_batch(tiny_bert_encoder, [text]))
            assert cosines(alone, together[row : row + 1]).min() >= 0.999

    def test_a_second_start_quantises_nothing(
        self,
        int8: OpenVINOEngine,
        tiny_bert_encoder: Path,
        int8_cache: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("nncf.quantize", lambda *_, **__: pytest.fail("quantised again"))
        again = quantised(tiny_bert_encoder, "cls", list(FEW), int8_cache)
        batch = text_batch(tiny_bert_encoder)
        np.testing.assert_allclose(again.run(batch), int8.run(batch), atol=1e-5)

    def test_other_texts_have_another_graph(
        self, int8: OpenVINOEngine, tiny_bert_encoder: Path, int8_cache: Path
    ) -> None:
        before = {entry.name for entry in int8_cache.glob("graph-*")}
        other = quantised(tiny_bert_encoder, "cls", TEXTS[:2] * 4, int8_cache)
        added = {entry.name for entry in int8_cache.glob("graph-*")} - before
        assert len(added) == 1  # the float graph it was made from was kept already
        batch = text_batch(tiny_bert_encoder)
        assert not np.array_equal(other.run(batch), int8.run(batch))

    def test_in_silence_and_nothing_left_behind(
        self, tiny_bert_encoder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        loggers = logging.getLoggerClass()
        from nncf.common.logging.track_progress import track

        # Where this is the first import of NNCF, it is the test's own, and not put right by anyone.
        logging.setLoggerClass(loggers)
        bar = track.__init__
        level = logging.getLogger("nncf").disabled
        filters = list(warnings.filters)
        OpenVINOEngine(tiny_bert_encoder, "cls", dtype="int8", calibration=FEW)
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")
        assert logging.getLoggerClass() is loggers is logging.Logger
        assert track.__init__ is bar
        assert logging.getLogger("nncf").disabled is level
        assert warnings.filters == filters

    def test_a_broken_graph_is_refused(
        self,
        make_tiny_model: Callable[..., Path],
        tiny_bert_encoder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from retrieval.models.engines.openvino_export import convert

        _, other = convert(make_tiny_model("bert", "encoder", seed=5), "cls")
        monkeypatch.setattr("nncf.quantize", lambda *_, **__: other)
        with pytest.raises(ModelFault, match="in int8 the model's vectors") as caught:
            quantised(tiny_bert_encoder, "cls", FEW, tmp_path)
        assert "dtype='bf16'" in caught.value.fix
        assert len(list(tmp_path.glob("graph-*"))) == 1  # the float graph alone

    def test_what_nncf_raises(
        self, tiny_bert_encoder: Path, int8: OpenVINOEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise ValueError("no such operation\nand more")

        monkeypatch.setattr("nncf.quantize", refuse)
        with pytest.raises(ModelFault, match=r"\(ValueError: no such operation\)"):
            OpenVINOEngine(tiny_bert_encoder, "cls", dtype="int8", calibration=FEW)

    def test_a_second_start_needs_neither_torch_nor_nncf(
        self, int8: OpenVINOEngine, tiny_bert_encoder: Path, int8_cache: Path
    ) -> None:
        OpenVINOEngine(tiny_bert_encoder, "cls", dtype="bf16", cache_dir=int8_cache)
        script = f"""
import json, sys, time
from pathlib import Path
import numpy as np
start = time.perf_counter()
from retrieval.models.engines.openvino import OpenVINOEngine
from retrieval.models.engines.base import TokenBatch
path, cache, few = Path({str(tiny_bert_encoder)!r}), Path({str(int8_cache)!r}), {FEW!r}
quantised = OpenVINOEngine(path, "cls", dtype="int8", cache_dir=cache, calibration=few)
plain = OpenVINOEngine(path, "cls", dtype="bf16", cache_dir=cache)
seconds = time.perf_counter() - start
ids = np.array([[2, 7, 8, 3]])
rows = [engine.run(TokenBatch(ids, np.ones_like(ids))).tolist() for engine in (quantised, plain)]
heavy = [name for name in ("torch", "nncf", "transformers", "openvino_telemetry")
         if name in sys.modules]
print(json.dumps([rows, heavy, seconds]))
"""
        found = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        rows, heavy, seconds = json.loads(found.stdout)
        assert heavy == []
        assert seconds < 2
        ids = np.array([[2, 7, 8, 3]])
        expected = int8.run(TokenBatch(ids, np.ones_like(ids)))
        np.testing.assert_allclose(np.asarray(rows[0]), expected, atol=1e-5)
        assert not np.array_equal(rows[0], rows[1])


class TestArguments:
    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ("one text", "a list of calibration texts is expected"),
            (FEW[: LEAST - 1], f"7 calibration texts .* expected at least {LEAST}"),
            ([*FEW[: LEAST - 1], "  "], "7 calibration texts that are not empty"),
            ([*FEW, 3], "calibration text 8 is of type int"),
        ],
    )
    def test_texts_that_cannot_calibrate(
        self, tiny_bert_encoder: Path, texts: Any, message: str
    ) -> None:
        with pytest.raises(InvalidInput, match=message):
            OpenVINOEngine(tiny_bert_encoder, "cls", dtype="int8", calibration=texts)

    def test_only_int8_is_calibrated(self, tiny_bert_encoder: Path) -> None:
        with pytest.raises(InvalidInput, match="only int8 is calibrated"):
            OpenVINOEngine(tiny_bert_encoder, "cls", dtype="bf16", calibration=FEW)

    def test_without_nncf(self, tiny_bert_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(package: str) -> str:
            raise PackageNotFoundError(package)

        monkeypatch.setattr(quantization, "version", absent)
        with pytest.raises(MissingExtra, match=r"dtype='int8' needs .*nncf.*\[int8\]"):
            OpenVINOEngine(tiny_bert_encoder, "cls", dtype="int8")


class TestCalibration:
    def test_built_in_texts(self) -> None:
        texts = calibration.built_in_texts()
        assert texts == calibration.built_in_texts()
        assert len(set(texts)) == len(texts) >= 120
        assert all(text.strip() for text in texts)
        everything = "".join(texts)
        for sign in "这のшعßéó":
            assert sign in everything
        lengths = sorted(len(text) for text in texts)
        assert lengths[0] < 30
        assert lengths[-1] > 500

    def test_built_in_texts_without_docstrings(self) -> None:
        script = (
            "from retrieval.models.engines.calibration import built_in_texts, _OWN_TEXTS\n"
            "texts = built_in_texts()\n"
            "if len(texts) < 30 or texts[-1] != _OWN_TEXTS[-1]: raise SystemExit(f'{len(texts)}')"
        )
        subprocess.run([sys.executable, "-OO", "-c", script], cwd=ROOT, check=True, timeout=60)

    def test_one_text_a_batch_without_padding(self, tiny_bert_encoder: Path) -> None:
        batches = calibration.calibration_batches(tiny_bert_encoder, "mean", [*FEW, "", "a " * 999])
        # The empty one shows nothing; short ones are always read.
        assert len(batches) == len(calibration._SHORT_TEXTS) + len(FEW) + 1
        for batch in batches:
            assert batch.input_ids.shape[0] == 1
            assert batch.attention_mask.all()
        assert batches[-1].input_ids.shape == (1, min(MAX_LENGTH, 128))

    def test_pairs_for_logits(self, tiny_bert_encoder: Path) -> None:
        batches = calibration.calibration_batches(tiny_bert_encoder, "logits", FEW)
        assert len(batches) == len(FEW)
        for batch in batches:
            assert batch.token_type_ids is not None
            assert batch.token_type_ids.max() == 1

    def test_many_texts_are_thinned_evenly(self, tiny_bert_encoder: Path) -> None:
        texts = [f"dog {number}" for number in range(10 * MOST)]
        kept = calibration._chosen(texts)
        assert len(kept) == MOST
        assert kept[:2] == ["dog 0", "dog 10"]

    def test_keys(self) -> None:
        built_in = calibration.calibration_key(None)
        assert built_in == calibration.calibration_key(None)
        keys = {built_in, calibration.calibration_key(FEW), calibration.calibration_key(FEW[::-1])}
        assert len(keys) == 3


class TestCheck:
    def vectors(self, noise: float, rows: int = 20) -> tuple[list[FloatArray], list[FloatArray]]:
        random = np.random.default_rng(0)
        exact = random.normal(size=(rows, 1, 64)).astype(np.float32)
        other = exact + noise * random.normal(size=exact.shape).astype(np.float32)
        return list(exact), list(other)

    def test_vectors_near_enough(self) -> None:
        quantization.check_quantized("cls", *self.vectors(0.05))

    def test_all_vectors_a_little_off(self) -> None:
        with pytest.raises(ModelFault, match=r"on average to those in full precision"):
            quantization.check_quantized("cls", *self.vectors(0.2))

    def test_one_vector_far_off(self) -> None:
        exact, given = self.vectors(0.0)
        given[7] = -given[7]
        with pytest.raises(ModelFault, match=r"a cosine of -1\.0000 at least"):
            quantization.check_quantized("cls", exact, given)

    def test_vectors_that_are_not_finite(self) -> None:
        exact, given = self.vectors(0.0)
        given[3] = given[3] * np.nan
        with pytest.raises(ModelFault, match="nan"):
            quantization.check_quantized("mean", exact, given)

    def test_logits(self) -> None:
        exact = [np.asarray([value], dtype=np.float32) for value in np.linspace(-3, 3, 20)]
        near = [value + np.float32(0.1) for value in exact]
        quantization.check_quantized("logits", exact, near)
        far = [value * np.float32(0.5) for value in exact]
        with pytest.raises(ModelFault, match=r"logits differ by 0\.50 of their own spread"):
            quantization.check_quantized("logits", exact, far)
