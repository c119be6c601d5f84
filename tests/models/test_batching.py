"""Batches by token budget: what they promise, for any lengths."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.batching import BATCH_COST, plan_batches, run_batches
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.engines.base import Pending, TokenBatch
from retrieval.models.engines.multi_device import EngineGroup
from retrieval.models.tokenization.tokenizer import Tokenized, Tokenizer
from retrieval.types import FloatArray

some_lengths = st.lists(st.integers(0, 600), max_size=200).map(
    lambda values: np.array(values, dtype=np.int64)
)


@given(some_lengths, st.integers(1, 5000), st.none() | st.integers(1, 50))
def test_every_index_once_within_the_budget(
    lengths: NDArray[np.int64], budget: int, max_batch: int | None
) -> None:
    batches = plan_batches(lengths, token_budget=budget, max_batch=max_batch)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= (max_batch or len(lengths))
        assert len(batch) == 1 or len(batch) * int(lengths[batch].max()) <= budget


@given(some_lengths, st.integers(1, 5000))
def test_longest_first(lengths: NDArray[np.int64], budget: int) -> None:
    batches = plan_batches(lengths, token_budget=budget)
    assert [int(lengths[i]) for batch in batches for i in batch] == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 1000))
def test_no_other_cut_of_the_sorted_texts_is_cheaper(values: list[int], budget: int) -> None:
    lengths = np.array(values, dtype=np.int64)

    def cost(parts: list[list[int]]) -> int:
        return sum(BATCH_COST + len(part) * max(part) for part in parts)

    ordered = sorted(values, reverse=True)
    ways = []
    for cuts in itertools.product([False, True], repeat=len(values) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(values)]
        parts = [ordered[i:j] for i, j in itertools.pairwise(places)]
        if all(len(part) == 1 or len(part) * max(part) <= budget for part in parts):
            ways.append(cost(parts))
    planned = plan_batches(lengths, token_budget=budget)
    assert cost([lengths[batch].tolist() for batch in planned]) == min(ways)


def test_equal_lengths_keep_their_order() -> None:
    batches = plan_batches(np.full(5, 10, dtype=np.int64), token_budget=20)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]


def padding_waste(lengths: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> float:
    """The share of computed tokens that are padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - float(np.sum(lengths)) / padded


def test_few_texts_of_mixed_length_are_not_padded_to_the_longest() -> None:
    """As in re-ranking a query's candidates: all would fit into one batch, at twice the work."""
    lengths = np.array([500, 480, *[60] * 10, *[20] * 20], dtype=np.int64)
    assert padding_waste(lengths, plan_batches(lengths, token_budget=16_384)) < 0.02


@pytest.mark.parametrize(("budget", "max_batch"), [(0, None), (-1, None), (10, 0)])
def test_impossible_budgets_are_refused(budget: int, max_batch: int | None) -> None:
    with pytest.raises(InvalidInput, match="token_budget"):
        plan_batches(np.array([1]), token_budget=budget, max_batch=max_batch)


class FirstTokenEngine:
    """Gives each text's second token, the first that is not special, as its 'logit'."""

    name, device, dtype, head, token_budget = "transformers", "cpu", "fp32", "logits", 64

    def __init__(self, *, seconds: float = 0.0, fail_at: int | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.flying = 0
        self.most_flying = 0
        self._seconds = seconds
        self._fail_at = fail_at

    def run(self, batch: TokenBatch) -> FloatArray:
        return self.submit(batch)()

    def submit(self, batch: TokenBatch) -> Pending:
        number = len(self.shapes)
        self.shapes.append(batch.input_ids.shape)
        self.flying += 1
        self.most_flying = max(self.flying, self.most_flying)

        def wait() -> FloatArray:
            self.flying -= 1
            time.sleep(self._seconds)
            if number == self._fail_at:
                raise ModelFault("the device fell over", fix="Set it up again.")
            return batch.input_ids[:, 1].astype(np.float32)

        return wait


def letters(path: Path) -> tuple[Tokenizer, Tokenized]:
    """26 texts of different lengths, each with a first token of its own."""
    tokenizer = Tokenizer(path, 128)
    texts = [f"{chr(97 + i)} {'dog ' * ((7 * i) % 26)}" for i in range(26)]
    return tokenizer, tokenizer.encode(texts)


def test_results_find_their_way_back(tiny_bert_encoder: Path) -> None:
    tokenizer, tokenized = letters(tiny_bert_encoder)
    engine, calls = FirstTokenEngine(), []
    result = np.full(26, -1.0, dtype=np.float32)

    def consume(indices: NDArray[np.int64], output: FloatArray) -> None:
        result[indices] = output

    run_batches(
        engine,  # type: ignore[arg-type]  # constants where the protocol has properties
        tokenizer,
        tokenized,
        consume=consume,
        token_budget=64,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert result.tolist() == [tokenized.row(i)[1] for i in range(26)]
    assert len(engine.shapes) > 3
    assert all(rows == 1 or rows * width <= 64 for rows, width in engine.shapes)
    assert [done for done, _ in calls] == np.cumsum([rows for rows, _ in engine.shapes]).tolist()
    assert calls[-1] == (26, 26)
    assert {total for _, total in calls} == {26}
    assert (engine.most_flying, engine.flying) == (2, 0)


def test_the_engine_knows_its_budget(tiny_bert_encoder: Path) -> None:
    tokenizer, tokenized = letters(tiny_bert_encoder)
    engine: Any = FirstTokenEngine()
    run_batches(engine, tokenizer, tokenized, consume=lambda *_: None)
    assert max(rows for rows, _ in engine.shapes) > 1
    assert all(rows == 1 or rows * width <= 64 for rows, width in engine.shapes)


def test_one_text_a_batch(tiny_bert_encoder: Path) -> None:
    tokenizer, tokenized = letters(tiny_bert_encoder)
    engine: Any = FirstTokenEngine()
    run_batches(engine, tokenizer, tokenized, consume=lambda *_: None, max_batch=1)
    assert sorted(engine.shapes) == sorted((1, int(n)) for n in tokenized.lengths)


def test_an_error_waits_for_what_was_started(tiny_bert_encoder: Path) -> None:
    tokenizer, tokenized = letters(tiny_bert_encoder)
    engine: Any = FirstTokenEngine(fail_at=1)
    with pytest.raises(ModelFault, match="fell over"):
        run_batches(engine, tokenizer, tokenized, consume=lambda *_: None)
    assert engine.flying == 0
    assert len(engine.shapes) == 3


def test_nothing_to_run(tiny_bert_encoder: Path) -> None:
    tokenizer = Tokenizer(tiny_bert_encoder, 128)
    engine: Any = FirstTokenEngine()
    run_batches(engine, tokenizer, tokenizer.encode([]), consume=lambda *_: pytest.fail("called"))
    assert engine.shapes == []


class TestGroups:
    def test_all_engines_take_part(self, tiny_bert_encoder: Path) -> None:
        tokenizer, tokenized = letters(tiny_bert_encoder)
        engines: list[Any] = [FirstTokenEngine(seconds=0.01) for _ in range(3)]
        result = np.full(26, -1.0, dtype=np.float32)
        calls: list[tuple[int, int]] = []
        callers: set[threading.Thread] = set()

        def consume(indices: NDArray[np.int64], output: FloatArray) -> None:
            callers.add(threading.current_thread())
            result[indices] = output

        run_batches(
            EngineGroup(engines),
            tokenizer,
            tokenized,
            consume=consume,
            progress=lambda done, total: calls.append((done, total)),
        )
        assert result.tolist() == [tokenized.row(i)[1] for i in range(26)]
        assert callers == {threading.current_thread()}
        assert all(engine.shapes for engine in engines)
        assert all(engine.most_flying <= 2 and engine.flying == 0 for engine in engines)
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert calls[-1] == (26, 26)

    def test_small_inputs_stay_on_the_first(self, tiny_bert_encoder: Path) -> None:
        tokenizer, tokenized = letters(tiny_bert_encoder)
        engines: list[Any] = [FirstTokenEngine() for _ in range(2)]
        budget = int(tokenized.lengths.sum()) // 2 + 1
        run_batches(
            EngineGroup(engines),
            tokenizer,
            tokenized,
            consume=lambda *_: None,
            token_budget=budget,
        )
        assert engines[0].shapes
        assert not engines[1].shapes

    def test_the_first_error_ends_all(self, tiny_bert_encoder: Path) -> None:
        tokenizer, tokenized = letters(tiny_bert_encoder)
        engines: list[Any] = [FirstTokenEngine(seconds=0.01), FirstTokenEngine(fail_at=0)]
        before = set(threading.enumerate())
        with pytest.raises(ModelFault, match="fell over"):
            run_batches(EngineGroup(engines), tokenizer, tokenized, consume=lambda *_: None)
        assert set(threading.enumerate()) <= before  # those of others may end meanwhile
        assert all(engine.flying == 0 for engine in engines)
        assert sum(len(engine.shapes) for engine in engines) < len(tokenized)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
    def test_a_callback_that_raises_ends_all(
        self, tiny_bert_encoder: Path, kind: type[BaseException]
    ) -> None:
        """As Ctrl-C does, which reaches the calling thread alone."""
        tokenizer, tokenized = letters(tiny_bert_encoder)
        engines: list[Any] = [FirstTokenEngine(seconds=0.005) for _ in range(2)]
        before = set(threading.enumerate())

        def refuse(*_: object) -> None:
            raise kind

        with pytest.raises(kind):
            run_batches(EngineGroup(engines), tokenizer, tokenized, consume=refuse, max_batch=1)
        assert set(threading.enumerate()) <= before  # those of others may end meanwhile
        assert all(engine.flying == 0 for engine in engines)
        assert sum(len(engine.shapes) for engine in engines) < len(tokenized)

    def test_engines_that_compute_alike(self) -> None:
        other: Any = FirstTokenEngine()
        other.dtype = "bf16"
        group = EngineGroup([FirstTokenEngine(), FirstTokenEngine()])  # type: ignore[list-item]
        assert (group.name, group.device, group.dtype) == ("transformers", "cpu, cpu", "fp32")
        with pytest.raises(InvalidInput, match="fp32 logits"):
            EngineGroup([FirstTokenEngine(), other])  # type: ignore[list-item]
        with pytest.raises(InvalidInput, match="none"):
            EngineGroup([])

    def test_the_least_budget_counts(self) -> None:
        small: Any = FirstTokenEngine()
        small.token_budget = 32
        assert EngineGroup([FirstTokenEngine(), small]).token_budget == 32  # type: ignore[list-item]

    def test_closed(self, tiny_bert_encoder: Path) -> None:
        tokenizer, tokenized = letters(tiny_bert_encoder)
        group = EngineGroup([FirstTokenEngine(), FirstTokenEngine()])  # type: ignore[list-item]
        group.close()
        for budget in (64, 100_000):
            with pytest.raises(ModelFault, match="closed"):
                run_batches(
                    group, tokenizer, tokenized, consume=lambda *_: None, token_budget=budget
                )


def test_ctrl_c_ends_the_process(
    tiny_bert_encoder: Path, make_resolved_encoder: object, tmp_path: Path
) -> None:
    """SIGINT while encoding: a KeyboardInterrupt at once, and no thread that keeps it alive."""
    BiEncoder(
        make_resolved_encoder(tiny_bert_encoder),  # type: ignore[operator]
        cache_dir=tmp_path,
    )
    script = textwrap.dedent(
        f"""
        import pathlib
        from retrieval.models.encoders.bi_encoder import BiEncoder
        from retrieval.types import ModelSpec, ResolvedModel
        spec = ModelSpec("tiny", "encoder", max_length=128, dimension=64, pooling="cls")
        path = pathlib.Path({str(tiny_bert_encoder)!r})
        cache = pathlib.Path({str(tmp_path)!r})
        encoder = BiEncoder(ResolvedModel(spec, path, ""), cache_dir=cache)
        texts = ["the quick brown fox " * 20] * 16000
        def report(done, total):
            print(done, flush=True)
        while True:
            encoder.encode_passages(texts, progress=report)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip(), process.communicate()[1]
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in stderr
    assert process.returncode in (-signal.SIGINT, 130, 1)
