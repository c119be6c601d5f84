"""Long passages: windows that cover, the best one's score, spans of the text, and refusal."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.batches import scored_by_hand

from retrieval.errors import InvalidInput
from retrieval.models.rerankers import cross_encoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.rerankers.long_passages import (
    Windows,
    cut_windows,
    most_overlap,
    window_pairs,
)
from retrieval.models.tokenization.token_batch import Slices
from retrieval.models.tokenization.tokenizer import Tokenizer
from retrieval.types import ModelSpec, ResolvedModel

SENTENCE = (
    "the query and the passage together give one score return path of file raise an error when "
    "directory does not exist copies a whole tree to another place quick brown fox jumps over "
    "lazy dog: sleeps, Numbers; and signs relevant passages searching sentence machine naïve ﬁle"
)
WORDS = SENTENCE.split()
CHINESE = "北京是中国的首都上海最大城市机器学习模型可以把文本变成向量"
OVERLAP = 20


def words(count: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


PAIRS = [
    ("where is the file?", words(150, 1)),
    ("what?", words(12, 2)),
    ("copies a tree", words(60, 3) + "\n\n  " + words(60, 4) + "  \n"),
    (words(20, 5), words(90, 6)),
    (words(90, 7), words(30, 8)),  # the query is cut, too
    (words(90, 9), "short"),
    ("北京在哪里", "".join(random.Random(1).choices(CHINESE, k=300))),
    ("", ""),
    ("where is the file?", words(90, 6)),
]
ALIKE = ("file", "\ud800 \u202bשלום עולם\u202c \x00\x07 " * 40)
"""Its windows look alike, so that any of them may be the best."""


@pytest.fixture(params=["tiny_bert_reranker", "tiny_xlmr_reranker"], scope="module")
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def reranker(path: Path, **options: Any) -> CrossEncoderReranker:
    spec = ModelSpec(name="tiny", kind="reranker", max_length=128, score_head="classification")
    return CrossEncoderReranker(
        ResolvedModel(spec=spec, path=path, fingerprint="sha256:test"),
        **{"engine": "transformers", "device": "cpu", "dtype": "fp32", **options},
    )


@pytest.fixture(scope="module")
def by_windows(path: Path) -> CrossEncoderReranker:
    return reranker(path, long_passages="windows", window_overlap=OVERLAP)


@pytest.fixture(scope="module")
def by_hand(path: Path) -> Callable[[list[int], list[int]], float]:
    return scored_by_hand(path)[0]


# --- where windows lie ----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.integers(0, 400),
    room=st.integers(1, 120),
    overlap=st.integers(0, 130),
    seed=st.integers(0, 5),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_windows_cover_fit_overlap_and_end_at_the_end(
    tokens: int, room: int, overlap: int, seed: int, share: float
) -> None:
    starts = np.random.default_rng(seed).random(tokens) < share
    starts[:1] = True
    for cut in (cut_windows(tokens, room, overlap), cut_windows(tokens, room, overlap, starts)):
        begins, ends = cut.T
        sizes = ends - begins
        assert begins[0] == 0
        assert ends[-1] == tokens
        assert (sizes <= room).all()
        assert (np.diff(begins) > 0).all()
        assert (np.diff(ends) > 0).all()
        assert (ends[:-1] - begins[1:] >= min(overlap, most_overlap(room))).all()
        if tokens > room:
            assert (sizes >= room - 2 * (room // 16)).all()
        else:
            assert len(cut) == 1


def test_windows_without_words_are_full() -> None:
    assert cut_windows(25, 10, 4).tolist() == [[0, 10], [6, 16], [12, 22], [15, 25]]
    assert cut_windows(20, 10, 0).tolist() == [[0, 10], [10, 20]]
    assert cut_windows(10, 10, 4).tolist() == [[0, 10]]
    assert cut_windows(0, 10, 4).tolist() == [[0, 0]]


def test_words_are_kept_whole_where_one_ends_nearby() -> None:
    starts = np.zeros(100, dtype=np.bool_)
    starts[::3] = True
    cut = cut_windows(100, 32, 8, starts)
    assert all(starts[begin] for begin in cut[:, 0])
    assert all(starts[end] for end in cut[:-1, 1])


def test_the_best_row_of_each_pair_is_the_first_of_equals() -> None:
    rows = np.array([0, 0, 0, 1, 2, 2])
    firsts = np.array([0, 3, 4])
    windows = Windows(firsts, rows, Slices(rows, rows), np.zeros((6, 2), dtype=np.int64))
    assert windows.best(np.array([1.0, 3.0, 3.0, -5.0, -1.0, -2.0])).tolist() == [1, 3, 4]
    assert windows.best(np.array([1.0, np.nan, 3.0, -5.0, -1.0, -2.0])).tolist() == [1, 3, 4]


# --- scores ---------------------------------------------------------------------------------


def test_a_score_is_the_best_of_the_windows_scored_alone(
    path: Path, by_windows: CrossEncoderReranker, by_hand: Callable[[list[int], list[int]], float]
) -> None:
    """Each window's ids laid out by hand and scored by transformers, one at a time."""
    tokenizer = Tokenizer(path, 128)
    pairs = [*PAIRS, ALIKE]
    scores = by_windows.score(pairs)
    assert scores.spans is not None
    assert scores.tokens is not None
    several = 0
    for row, (query, passage) in enumerate(pairs):
        query_ids, ids = (x.tolist() for x in tokenizer.bare_ids([query, passage]))
        kept = query_ids[:96]
        offsets, starts = tokenizer.token_places(passage)
        assert len(offsets) == len(ids)
        cut = cut_windows(len(ids), tokenizer.pair_room - len(kept), OVERLAP, starts)
        logits = np.array([by_hand(kept, ids[begin:end]) for begin, end in cut])
        several += len(cut) > 1 and np.ptp(logits) > 1e-3
        assert scores.values[row] == pytest.approx(logits.max(), abs=1e-4)
        expected = [(0, len(passage))]
        if len(cut) > 1:
            expected = [
                (int(offsets[begin:end, 0].min()), int(offsets[begin:end, 1].max()))
                for begin, end in cut[logits > logits.max() - 1e-5]
            ]
        assert tuple(scores.spans[row].tolist()) in expected
        assert scores.tokens[row] == len(query_ids) + len(ids) + 128 - tokenizer.pair_room
        assert scores.truncated[row] == (len(query_ids) > 96)
    assert several >= 5
    assert scores.truncated.sum() == 2


def test_windows_of_all_pairs_cover_their_texts(path: Path) -> None:
    tokenizer = Tokenizer(path, 128)
    pairs = [*PAIRS, ALIKE]
    windows = window_pairs(tokenizer, pairs, tokenizer.read_pairs(pairs), OVERLAP)
    assert windows.rows[windows.firsts].tolist() == list(range(len(pairs)))
    for row, (_, passage) in enumerate(pairs):
        covered = np.zeros(len(passage), dtype=np.bool_)
        for begin, end in windows.spans[windows.rows == row]:
            assert 0 <= begin <= end <= len(passage)
            covered[begin:end] = True
        missed = "".join(sign for sign, seen in zip(passage, covered, strict=True) if not seen)
        # Blanks and control characters make no token of their own.
        assert not [sign for sign in missed if sign.isprintable() and not sign.isspace()]


def test_a_span_holds_whole_words(by_windows: CrossEncoderReranker) -> None:
    passage = " ".join(["directory", "relevant", "passages", "another"] * 60)
    (span,) = by_windows.score([("file", passage)]).spans  # type: ignore[misc]
    part = passage[span[0] : span[1]]
    assert 100 < len(part) < len(passage)
    assert set(part.split()) <= {"directory", "relevant", "passages", "another"}


def test_short_passages_score_as_without_windows(
    path: Path, by_windows: CrossEncoderReranker
) -> None:
    pairs = [("what?", words(20, seed)) for seed in range(6)] + [("", ""), ("北京", CHINESE)]
    plain = reranker(path).score(pairs)
    ours = by_windows.score(pairs)
    np.testing.assert_allclose(ours.values, plain.values, atol=1e-6)
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert plain.spans is None
    assert ours.spans is not None
    assert ours.spans.tolist() == [[0, len(passage)] for _, passage in pairs]
    assert not ours.truncated.any()


def test_the_end_of_a_long_passage_counts(path: Path, by_windows: CrossEncoderReranker) -> None:
    """The best part is found wherever it is, where truncation sees only the beginning."""
    query = "where is the file?"
    fillers = [f"{word} " * 300 for word in ("dog", "fox", "path", "error", "numbers", "tree")]
    filler = fillers[int(by_windows.score([(query, text) for text in fillers]).values.argmin())]
    parts = [words(25, seed) for seed in range(12)]
    best = parts[int(by_windows.score([(query, part) for part in parts]).values.argmax())]
    plain = reranker(path).score([(query, filler + best), (query, filler)])
    assert plain.values[0] == pytest.approx(plain.values[1], abs=1e-5)
    assert plain.truncated.all()
    ours = by_windows.score([(query, filler + best), (query, filler)])
    assert ours.values[0] > ours.values[1] + 0.001
    assert ours.spans is not None
    assert ours.spans[0, 1] > len(filler), "the span reaches into the part"
    assert not ours.truncated.any()


def test_slices_and_batches_change_no_score(
    path: Path, by_windows: CrossEncoderReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_windows.score(PAIRS)
    small = reranker(path, long_passages="windows", window_overlap=OVERLAP, token_budget=300)
    monkeypatch.setattr(cross_encoder, "SLICE", 3)
    monkeypatch.setattr(cross_encoder, "SLICE_CHARS", 2000)
    calls: list[tuple[int, int]] = []
    ours = small.score([*PAIRS, PAIRS[0]], progress=lambda *call: calls.append(call))
    np.testing.assert_allclose(ours.values[:-1], expected.values, atol=1e-5)
    np.testing.assert_array_equal(ours.spans[:-1], expected.spans)  # type: ignore[index]
    np.testing.assert_array_equal(ours.tokens[:-1], expected.tokens)  # type: ignore[index]
    assert ours.values[-1] == ours.values[0]
    counts = [done for done, _ in calls]
    assert counts == sorted(set(counts))
    assert calls[-1] == (len(PAIRS) + 1, len(PAIRS) + 1)


def test_no_pairs_have_no_spans(by_windows: CrossEncoderReranker) -> None:
    scores = by_windows.score([])
    assert scores.spans is not None
    assert scores.spans.shape == (0, 2)


def test_long_odd_texts_are_read_to_their_end(path: Path) -> None:
    ours = reranker(path, long_passages="windows", window_overlap=0, token_budget=8192)
    passages = ["🦊" * 300 + "directory " * 1000 + "\x00" * 300 + "quick fox", "x" * 9000]
    passages += ["\n" * 300_000, "\udfff" * 500]
    scores = ours.score([("file", passage) for passage in passages])
    assert np.isfinite(scores.values).all()
    assert scores.spans is not None
    assert (scores.spans[:, 0] <= scores.spans[:, 1]).all()
    assert (scores.spans[:, 1] <= [len(passage) for passage in passages]).all()
    assert not scores.truncated.any()


def test_windows_cover_a_megabyte(path: Path) -> None:
    tokenizer = Tokenizer(path, 128)
    pairs = [("file", "quick brown fox, " * 60_000)]
    ids = tokenizer.read_pairs(pairs)
    windows = window_pairs(tokenizer, pairs, ids, OVERLAP)
    assert len(windows.rows) > 1000
    assert windows.spans[0, 0] == 0
    assert windows.spans[-1, 1] >= len(pairs[0][1]) - 1
    assert (windows.spans[1:, 0] < windows.spans[:-1, 1]).all()
    tokenized = tokenizer.join_pairs(ids, windows.rows, windows.passages)
    assert tokenized.lengths.max() <= 128
    assert tokenized.lengths.min() > 100


# --- refusal --------------------------------------------------------------------------------


def test_error_names_the_pair_before_anything_is_computed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = reranker(path, long_passages="error")
    ran: list[object] = []
    monkeypatch.setattr(cross_encoder, "run_batches", lambda *args, **options: ran.append(args))
    monkeypatch.setattr(cross_encoder, "SLICE", 2)
    fine = [("what?", words(20, seed)) for seed in range(4)]
    pairs = [*fine, fine[0], ("where?", "dog " * 300), ("why?", "dog " * 200)]
    size = Tokenizer(path, 128).read_pairs(pairs[5:6]).full_lengths[0]
    with pytest.raises(InvalidInput, match=f"pair 5 has {size} tokens, but tiny reads 128") as got:
        ours.score(pairs)
    assert "long_passages='windows'" in got.value.fix
    assert ran == []


def test_error_names_a_query_that_is_too_long(path: Path) -> None:
    ours = reranker(path, long_passages="error")
    with pytest.raises(InvalidInput, match="the query of pair 1 has 100 tokens") as got:
        ours.score([("a", "b"), ("dog " * 100, "b")])
    assert "the query may take 96" in got.value.problem
    assert "Shorten the query" in got.value.fix


def test_error_lets_pass_what_fits(path: Path) -> None:
    pairs = [("what?", words(20, seed)) for seed in range(4)]
    ours = reranker(path, long_passages="error").score(pairs)
    np.testing.assert_allclose(ours.values, reranker(path).score(pairs).values, atol=1e-6)
    assert ours.spans is None
    exact = Tokenizer(path, 128)
    full = ("fox", "dog " * (exact.pair_room - 1))
    assert reranker(path, long_passages="error").score([full]).tokens == [128]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"long_passages": "window"}, "long_passages='window' was given"),
        ({"window_overlap": -1}, "window_overlap is -1"),
        ({"window_overlap": 2.5}, "window_overlap is 2.5"),
        ({"long_passages": "windows", "window_overlap": 500}, "window_overlap=500 was given, but"),
        ({"long_passages": "windows", "max_length": 32}, "window_overlap=64 .* at most 2[78]"),
        ({"token_cache_bytes": -1}, "token_cache_bytes is -1"),
        ({"token_cache_bytes": True}, "token_cache_bytes is True"),
    ],
)
def test_arguments_that_cannot_be_used(path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        reranker(path, **options)


def test_a_large_overlap_matters_only_to_windows(path: Path) -> None:
    assert len(reranker(path, window_overlap=500).score([("a", "b")]).values) == 1
