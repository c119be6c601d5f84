"""The cross-encoder: parity with transformers and FlagReranker, truncation, order, faults."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.batches import change_weights, scored_by_hand

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models.engines.hardware import cpu_multiplies_bf16
from retrieval.models.rerankers import cross_encoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.rerankers.scores import sigmoid
from retrieval.types import ModelSpec, Reranker, ResolvedModel

SENTENCES = (
    "the query and passage are read together, return path of file; raise an error when the "
    "directory does not exist, copy whole tree to another place. quick brown fox jumps over lazy "
    "dog: vector model language machine number"
)
WORDS = SENTENCES.split()
CHINESE = "北京是中国的首都上海最大城市机器学习模型可以把文本变成向量"


def make_pairs(n: int = 40, *, seed: int = 0) -> list[tuple[str, str]]:
    """Mixed lengths: short, longer than 128 tokens, long queries, empty passages, Chinese."""
    rng = random.Random(seed)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    pairs = [(words(2, 8), words(3, 60)) for _ in range(n - 8)]
    pairs += [(words(3, 5), words(150, 200)) for _ in range(3)]  # the passage is cut
    pairs += [(words(120, 150), words(100, 150)) for _ in range(2)]  # the query is cut too
    pairs += [("what is it?", ""), ("北京在哪里", CHINESE), (words(60, 70), words(10, 20))]
    return pairs


PAIRS = make_pairs()


@pytest.fixture(params=["bert", "xlmr"], scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(family: str, tiny_bert_reranker: Path, tiny_xlmr_reranker: Path) -> Path:
    return tiny_bert_reranker if family == "bert" else tiny_xlmr_reranker


@pytest.fixture(scope="module")
def reference(path: Path) -> CrossEncoderReranker:
    return reranker(path)


def resolved(path: Path, **changes: Any) -> ResolvedModel:
    spec: dict[str, Any] = {
        "name": path.name,
        "kind": "reranker",
        "max_length": 128,
        "score_head": "classification",
        **changes,
    }
    return ResolvedModel(spec=ModelSpec(**spec), path=path, fingerprint="sha256:test")


def reranker(path: Path, **options: Any) -> CrossEncoderReranker:
    return CrossEncoderReranker(
        resolved(path),
        **{"engine": "transformers", "device": "cpu", "dtype": "fp32", **options},
    )


def plain_logits(path: Path, pairs: list[tuple[str, str]], max_length: int = 128) -> Any:
    """One pair at a time through transformers alone, no padding; the query cut to 3/4 first."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    logit, added = scored_by_hand(path)
    logits = []
    for query, passage in pairs:
        first, second = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (query, passage)
        )
        first = first[: max_length * 3 // 4]
        logits.append(logit(first, second[: max_length - len(first) - added]))
    return np.array(logits)


# --- parity ---------------------------------------------------------------------------------


def test_is_a_reranker(reference: CrossEncoderReranker) -> None:
    assert isinstance(reference, Reranker)
    assert reference.info.kind == "cross-encoder"
    assert reference.info.default_blend == "scores"
    assert reference.info.fingerprint == "sha256:test"
    assert reference.info.max_length == 128
    assert reference.engine == "transformers fp32 on cpu"


def test_logits_are_those_of_plain_transformers(
    path: Path, reference: CrossEncoderReranker
) -> None:
    scores = reference.score(PAIRS)
    assert scores.values.dtype == np.float64
    expected = plain_logits(path, PAIRS)
    assert np.ptp(expected) > 0.05, "the logits of the tiny model must differ to show anything"
    np.testing.assert_allclose(scores.values, expected, atol=1e-4, rtol=0)


def test_short_pairs_agree_with_the_tokenizers_own_pairing(
    path: Path, reference: CrossEncoderReranker
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    pairs = [pair for pair in PAIRS if len(" ".join(pair)) < 160]
    assert len(pairs) >= 5
    with torch.inference_mode():
        batch = tokenizer(
            [query for query, _ in pairs],
            [passage for _, passage in pairs],
            padding=True,
            return_tensors="pt",
        )
        expected = model(**batch).logits.squeeze(-1).numpy()
    np.testing.assert_allclose(reference.score(pairs).values, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_logits_are_those_of_flag_reranker(
    path: Path, reference: CrossEncoderReranker, flag_reranker: Callable[[Path], Any]
) -> None:
    flag = flag_reranker(path)
    pairs = [pair for pair in PAIRS if flag_reads_the_ids(flag.tokenizer, pair)]
    assert len(PAIRS) - 3 <= len(pairs)
    assert any(len(query) > 500 for query, _ in pairs), "a query that is cut must be among them"
    expected = flag.compute_score([list(pair) for pair in pairs])
    np.testing.assert_allclose(reference.score(pairs).values, expected, atol=1e-4, rtol=0)


def flag_reads_the_ids(tokenizer: Any, pair: tuple[str, str]) -> bool:
    """Whether FlagReranker, with transformers 5, reads what it means to read.

    It cuts token ids and turns them into text again, because ids can no longer be paired: a word
    that was cut in two may come back as other tokens. It also pairs one text at a time, which
    takes an empty passage for no passage and leaves out a separator.
    """
    query, passage = pair
    ids = tokenizer(query, add_special_tokens=False)["input_ids"][:96]
    return (
        bool(passage)
        and tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"] == ids
    )


def test_openvino_fp32_gives_the_same_logits(path: Path, reference: CrossEncoderReranker) -> None:
    pytest.importorskip("openvino")
    ours = reranker(path, engine="openvino")
    assert ours.engine.startswith("openvino")
    np.testing.assert_allclose(
        ours.score(PAIRS).values, reference.score(PAIRS).values, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_bf16_keeps_the_order_of_pairs_further_apart_than_its_rounding(
    path: Path, reference: CrossEncoderReranker, engine: str
) -> None:
    pytest.importorskip(engine)
    exact = reference.score(PAIRS).values
    rounded = reranker(path, engine=engine, dtype="bf16").score(PAIRS).values
    # bf16 has 8 bits: a relative error of 2**-8 a product, over two layers and a head.
    rounding = 0.03 * np.ptp(exact) + 2.0**-8 * np.abs(exact).max()
    assert np.abs(rounded - exact).max() < rounding
    apart = exact[:, None] - exact[None, :] > 2 * rounding
    assert apart.sum() > len(PAIRS), "too few pairs are far enough apart to show anything"
    assert np.all((rounded[:, None] - rounded[None, :])[apart] > 0)


@pytest.fixture(scope="module")
def flag_reranker() -> Callable[[Path], Any]:
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        # FlagEmbedding's own dependencies warn while they are imported; none of it is ours.
        warnings.simplefilter("ignore")
        flag = pytest.importorskip("FlagEmbedding")

    def load(path: Path) -> Any:
        return flag.FlagReranker(str(path), use_fp16=False, devices="cpu", max_length=128)

    return load


# --- order, sharing, truncation -------------------------------------------------------------


@pytest.mark.parametrize("engine", ["transformers", "packed", "openvino"])
def test_scores_in_bf16_are_finer_than_bf16(path: Path, engine: Any) -> None:
    """Rounded scores would put good passages level, and their order to chance."""
    if engine == "openvino" and not cpu_multiplies_bf16():
        pytest.skip("OpenVINO computes bf16 where the CPU does")
    scores = reranker(path, engine=engine, dtype="bf16").score(PAIRS).values
    in_bf16 = torch.from_numpy(scores).to(torch.bfloat16).to(torch.float64).numpy()
    assert (scores != in_bf16).sum() >= len(PAIRS) - 1


def test_scores_follow_the_order_of_the_pairs(reference: CrossEncoderReranker) -> None:
    order = list(range(len(PAIRS)))
    random.Random(3).shuffle(order)
    shuffled = reference.score([PAIRS[i] for i in order])
    straight = reference.score(PAIRS)
    np.testing.assert_allclose(shuffled.values, straight.values[order], atol=1e-5)
    np.testing.assert_array_equal(shuffled.truncated, straight.truncated[order])


def test_a_pair_scores_the_same_alone_and_among_others(reference: CrossEncoderReranker) -> None:
    together = reference.score(PAIRS).values
    alone = np.concatenate([reference.score([pair]).values for pair in PAIRS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("token_budget", "slice_"), [(1, 8192), (200, 8192), (100_000, 8192), (None, 7)]
)
def test_budgets_and_slices_change_no_score(
    path: Path,
    reference: CrossEncoderReranker,
    monkeypatch: pytest.MonkeyPatch,
    token_budget: int | None,
    slice_: int,
) -> None:
    expected = reference.score(PAIRS)
    monkeypatch.setattr(cross_encoder, "SLICE", slice_)
    scores = reranker(path, token_budget=token_budget).score(PAIRS)
    np.testing.assert_allclose(scores.values, expected.values, atol=1e-5)
    np.testing.assert_array_equal(scores.truncated, expected.truncated)


def test_a_slice_holds_a_bounded_number_of_characters(
    monkeypatch: pytest.MonkeyPatch, path: Path, reference: CrossEncoderReranker
) -> None:
    expected = reference.score(PAIRS)
    ours = reranker(path)
    sizes: list[int] = []
    read_pairs = ours._tokenizer.read_pairs

    def recording(pairs: list[tuple[str, str]], **options: Any) -> Any:
        sizes.append(sum(len(text) for pair in pairs for text in pair))
        return read_pairs(pairs, **options)

    monkeypatch.setattr(ours._tokenizer, "read_pairs", recording)
    monkeypatch.setattr(cross_encoder, "SLICE_CHARS", 3000)
    scores = ours.score(PAIRS)
    assert len(sizes) > 3
    assert max(sizes) <= 3000
    np.testing.assert_allclose(scores.values, expected.values, atol=1e-5)
    np.testing.assert_array_equal(scores.tokens, expected.tokens)


def test_equal_pairs_are_computed_once_and_score_alike(
    monkeypatch: pytest.MonkeyPatch, reference: CrossEncoderReranker
) -> None:
    rows = 0
    submit = reference._engine.submit

    def counting(batch: Any) -> Any:
        nonlocal rows
        rows += len(batch.input_ids)
        return submit(batch)

    monkeypatch.setattr(reference._engine, "submit", counting)
    calls: list[tuple[int, int]] = []
    scores = reference.score(
        [PAIRS[0], PAIRS[1], PAIRS[0], PAIRS[0]], progress=lambda *x: calls.append(x)
    )
    assert rows == 2
    assert scores.values[0] == scores.values[2] == scores.values[3] != scores.values[1]
    assert calls[-1] == (4, 4)


def test_progress_counts_pairs_up_to_all_of_them(path: Path) -> None:
    calls: list[tuple[int, int]] = []
    reranker(path, token_budget=300).score(PAIRS, progress=lambda *x: calls.append(x))
    done = [call[0] for call in calls]
    assert len(calls) > 3
    assert done == sorted(set(done))
    assert calls[-1] == (len(PAIRS), len(PAIRS))


def test_no_pairs_no_scores(reference: CrossEncoderReranker) -> None:
    scores = reference.score([])
    assert scores.values.shape == scores.truncated.shape == (0,)


def test_truncation_is_reported(reference: CrossEncoderReranker) -> None:
    scores = reference.score([("what", "short"), ("what", "fox " * 200), ("dog " * 200, "fox")])
    assert scores.truncated.tolist() == [False, True, True]


def test_tokens_are_counted_before_truncation(path: Path, reference: CrossEncoderReranker) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    scores = reference.score(PAIRS)
    assert scores.tokens is not None
    expected = [len(tokenizer(*pair, verbose=False)["input_ids"]) for pair in PAIRS if pair[1]]
    assert scores.tokens[[bool(passage) for _, passage in PAIRS]].tolist() == expected
    assert scores.tokens.dtype == np.int64
    assert (scores.tokens[~scores.truncated] <= 128).all()
    assert scores.tokens.max() > 128
    assert scores.spans is None


def test_the_query_survives_a_long_passage(reference: CrossEncoderReranker) -> None:
    long = "the quick brown fox " * 100
    first, second = reference.score([("where is the file?", long), ("copy a tree", long)]).values
    assert abs(first - second) > 1e-4
    # What lies beyond the cut changes nothing.
    longer = reference.score([("where is the file?", long + "and the dog")]).values[0]
    assert longer == pytest.approx(first, abs=1e-6)


def test_a_long_query_leaves_room_for_the_passage(reference: CrossEncoderReranker) -> None:
    query = "where is the whole directory tree " * 50
    first, second = reference.score([(query, "quick brown fox"), (query, "raise an error")]).values
    assert abs(first - second) > 1e-4


def test_max_length_can_be_chosen(path: Path, reference: CrossEncoderReranker) -> None:
    short = reranker(path, max_length=24)
    assert short.info.max_length == 24
    scores = short.score(PAIRS)
    np.testing.assert_allclose(scores.values, plain_logits(path, PAIRS, 24), atol=1e-4)
    assert scores.truncated.sum() > reference.score(PAIRS).truncated.sum()


# --- what is kept ---------------------------------------------------------------------------


def test_a_passage_is_tokenised_once_and_scores_the_same_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = reranker(path)
    read: list[str] = []
    bare_ids = ours._tokenizer.bare_ids

    def counting(texts: Sequence[str]) -> Any:
        read.extend(texts)
        return bare_ids(texts)

    monkeypatch.setattr(ours._tokenizer, "bare_ids", counting)
    first = ours.score(PAIRS)
    assert sorted(read) == sorted({*(q for q, _ in PAIRS)} | {p for _, p in PAIRS})
    read.clear()
    second = ours.score(PAIRS)
    assert sorted(read) == sorted({query for query, _ in PAIRS})
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.truncated, second.truncated)
    np.testing.assert_array_equal(first.tokens, second.tokens)
    ours.token_cache.clear()
    np.testing.assert_array_equal(ours.score(PAIRS).values, first.values)


def test_the_cache_can_be_left_out(path: Path, reference: CrossEncoderReranker) -> None:
    ours = reranker(path, token_cache_bytes=0)
    for _ in range(2):
        np.testing.assert_array_equal(ours.score(PAIRS).values, reference.score(PAIRS).values)
    assert len(ours.token_cache) == 0


def test_threads_get_the_same_scores(path: Path, reference: CrossEncoderReranker) -> None:
    expected = reference.score(PAIRS).values
    ours = reranker(path, token_cache_bytes=4000)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: ours.score(PAIRS), range(6)):
            np.testing.assert_allclose(scores.values, expected, atol=1e-5)
    assert 0 < ours.token_cache.nbytes <= 4000


# --- deterministic, several devices ---------------------------------------------------------


def test_a_reranker_on_one_device_can_be_closed(path: Path) -> None:
    ours = reranker(path)
    ours.close()
    ours.close()


def test_two_devices_share_the_pairs_and_are_ended(tiny_bert_reranker: Path) -> None:
    ours = CrossEncoderReranker(
        resolved(tiny_bert_reranker),
        engine="transformers",
        devices=["cpu", "cpu"],
        dtype="fp32",
        token_budget=600,
    )
    try:
        scores = ours.score(PAIRS)
    finally:
        ours.close()
    expected = reranker(tiny_bert_reranker).score(PAIRS)
    np.testing.assert_allclose(scores.values, expected.values, atol=1e-5)


# --- relevance ------------------------------------------------------------------------------


def test_relevance_is_the_sigmoid(reference: CrossEncoderReranker) -> None:
    values = np.array([-2.0, 0.0, 1.0, 5.0])
    expected = [0.11920292202211755, 0.5, 0.7310585786300049, 0.9933071490757153]
    np.testing.assert_allclose(reference.relevance(values), expected, rtol=1e-15)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=True, width=64), max_size=50))
def test_sigmoid_is_monotone_and_within_bounds(values: list[float]) -> None:
    x = np.sort(np.array(values, dtype=np.float64))
    with np.errstate(all="raise"):
        y = sigmoid(x)
    assert y.dtype == np.float64
    assert np.all(np.diff(y) >= 0)
    assert np.all((y >= 0) & (y <= 1))


def test_sigmoid_tells_apart_what_float32_would_not() -> None:
    low, high = sigmoid(np.array([20.0, 20.5]))
    assert low < high < 1.0


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs",
    [[("a", None)], [(b"a", "b")], ["ab"], [("a", "b", "c")], "ab", [("a", 1)]],
)
def test_what_is_no_pair_of_texts_is_refused(reference: CrossEncoderReranker, pairs: Any) -> None:
    with pytest.raises(InvalidInput, match="pair"):
        reference.score(pairs)


def test_an_odd_text_is_scored(reference: CrossEncoderReranker) -> None:
    odd = [
        ("", ""),
        ("\x00\ufffe", "\ud800 lone"),
        ("🦊" * 10, "a" * 20_000),
        ("\udfff", "\u202bשלום\u202c العربية \u200f mixed 北京"),
        (" \n\t", "\r\x07\x1b[31m\x7f"),
        ("a\x00b", "\ufeff\u200b\u2060"),
        ("what?", "one word " * 20_000),
        ("one word " * 5_000, "x" * 1_000_000),
    ]
    scores = reference.score(odd)
    assert np.all(np.isfinite(scores.values))
    assert scores.truncated[-2:].all()
    assert not scores.truncated[:2].any()


def test_a_model_with_several_logits_is_refused(make_tiny_model: Callable[..., Path]) -> None:
    three = make_tiny_model("bert", "reranker", labels=3)
    with pytest.raises(ModelSettingUnknown, match="3 logits"):
        reranker(three)
    with pytest.raises(InvalidInput, match="3 values"):
        CrossEncoderReranker(three)


def test_an_encoder_is_refused(tiny_bert_encoder: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be used as a reranker"):
        CrossEncoderReranker(tiny_bert_encoder)
    # Resolved by hand, its score head would be random weights.
    with pytest.raises(ModelFault, match="score head"):
        reranker(tiny_bert_encoder)


def test_a_folder_resolves_by_itself(path: Path, reference: CrossEncoderReranker) -> None:
    ours = CrossEncoderReranker(str(path), engine="transformers", dtype="fp32")
    assert ours.info.max_length == 128
    assert ours.info.fingerprint.startswith("sha256:")
    np.testing.assert_allclose(ours.score(PAIRS).values, reference.score(PAIRS).values, atol=1e-5)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        CrossEncoderReranker(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("head", "message"),
    [("maxsim", "late interaction"), ("yes-logit", "yes-logit"), (None, "none")],
)
def test_another_score_head_is_refused(path: Path, head: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        CrossEncoderReranker(resolved(path, score_head=head))
    assert "load_reranker(" in caught.value.fix


def test_an_unknown_length_is_an_error_that_names_the_argument(path: Path) -> None:
    with pytest.raises(ModelSettingUnknown, match="max_length="):
        CrossEncoderReranker(resolved(path, max_length=None))


@pytest.mark.parametrize("options", [{"max_length": 4}, {"max_length": 129}, {"token_budget": 0}])
def test_numbers_that_cannot_be_used_are_refused(path: Path, options: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        reranker(path, **options)


def test_scores_that_are_no_numbers_are_a_fault(tiny_bert_reranker: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_bert_reranker, tmp_path / "broken")
    change_weights(broken, lambda weights: weights["classifier.weight"].fill_(np.nan))
    with pytest.raises(ModelFault, match="nan as the score of 2 of 2 pairs"):
        reranker(broken).score([("a", "b"), ("a", "c")])
