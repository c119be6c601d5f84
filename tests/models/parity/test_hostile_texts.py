"""Whatever text comes: finite numbers, in order, equal for equal texts, in bounded time and memory.

Where FlagEmbedding can read the text at all, it is read as FlagEmbedding reads it.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from reference.peers import flag_model, flag_rows, flag_vectors
from reference.texts import HAN, SPECIAL_TOKENS, WORDS, cosines, mixed_pairs, mixed_texts
from reference.variants import EXACT, ROUNDED, Variant, name

from retrieval.errors import InvalidInput
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.rerankers.late_interaction import LateInteractionReranker
from retrieval.types import ModelSpec, Reranker, ResolvedModel

SURROGATES = ["\ud800", "dog \udfff\ud800 fox", "\ud83d broken emoji", "\udca0" * 40]
"""Lone surrogates: `str` in Python, but not text. The peers' tokenisers refuse them."""

HOSTILE = [
    *("", " ", "\n", "\r\n\t", "\x00", "dog\x00fox", "\x07 bell", "\x1b[31mred\x1b[0m", "\x7f\x80"),
    *("a\u2028b\u2029c", "\ufeffdog", "\u200b\u200d\u2060", "\ufffe\uffff", "\U0010ffff\ue000"),
    *("שלום עולם", "مرحبا بالعالم", "\u202eright to left\u202c", "dog שלום fox مرحبا 北京 file"),
    *("e\u0301" * 50, "dog" + "\u0300" * 300, "ﷺ ﬃ ㍿ Ǆ", "İstanbul ßẞ ı", "ไทย हिन्दी 한국어"),
    *("🦊" * 100, "👨‍👩‍👧‍👦 🏳️‍🌈 1️⃣", "a" * 5000, "." * 5000, "dog." * 2000, "\\x00 %s {} ${x}"),
    *SPECIAL_TOKENS,
]

MEGABYTE = 1_000_000
HUGE = {
    "a word repeated": "dog " * (MEGABYTE // 4),
    "one unbroken word": "dog" * (MEGABYTE // 3),
    "emoji": "🦊" * (MEGABYTE // 4),
    "Chinese": HAN * (MEGABYTE // 3 // len(HAN)),
    "blanks": " " * MEGABYTE,
    "controls": "\x00\x07\u2028" * (MEGABYTE // 5),
}

Encoders: TypeAlias = Callable[[str, Variant], BiEncoder]
Rerankers: TypeAlias = Callable[[str, Variant], CrossEncoderReranker]
FAMILIES = ["bert", "xlmr"]
FAST: Variant = ("openvino", "fp32")


@pytest.fixture(scope="module")
def encoders(
    tiny_bert_encoder: Path, tiny_xlmr_encoder: Path, make_resolved_encoder: Any
) -> Encoders:
    paths = {"bert": tiny_bert_encoder, "xlmr": tiny_xlmr_encoder}

    @functools.cache
    def load(family: str, variant: Variant) -> BiEncoder:
        engine, dtype = variant
        resolved = make_resolved_encoder(paths[family])
        return BiEncoder(resolved, engine=engine, device="cpu", dtype=dtype)

    return load


@pytest.fixture(scope="module")
def rerankers(tiny_bert_reranker: Path, tiny_xlmr_reranker: Path) -> Rerankers:
    paths = {"bert": tiny_bert_reranker, "xlmr": tiny_xlmr_reranker}

    @functools.cache
    def load(family: str, variant: Variant) -> CrossEncoderReranker:
        engine, dtype = variant
        path = paths[family]
        spec = ModelSpec(path.name, "reranker", max_length=128, score_head="classification")
        resolved = ResolvedModel(spec, path, "sha256:test")
        return CrossEncoderReranker(resolved, engine=engine, device="cpu", dtype=dtype)

    return load


@pytest.fixture(params=["cross-encoder", "late interaction"])
def second_stage(
    request: pytest.FixtureRequest, encoders: Encoders, rerankers: Rerankers
) -> Callable[[str], Reranker]:
    """Either kind of reranker, by family."""
    if request.param == "cross-encoder":
        return lambda family: rerankers(family, FAST)
    return lambda family: LateInteractionReranker(encoders(family, FAST))


@contextmanager
def memory_grows_by_at_most(megabytes: int) -> Iterator[None]:
    """The process's largest resident size within the block, against what it was before."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) // 1024

    try:
        reset.write_text("5")  # the peak so far is forgotten, see proc(5)
    except OSError:
        # Not Linux, or not allowed: the time is still bounded by the test.
        yield
        return
    before = read("VmRSS")
    yield
    grown = read("VmHWM") - before
    assert grown <= megabytes, f"memory grew by {grown} MiB, expected at most {megabytes}"


# --- small and odd --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", EXACT, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors(encoders: Encoders, family: str, variant: Variant) -> None:
    encoder = encoders(family, variant)
    texts = HOSTILE + SURROGATES
    encoding = encoder.encode_passages(texts + texts[::-1])
    vectors = encoding.vectors
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    # In order, and equal texts alike.
    np.testing.assert_allclose(vectors[: len(texts)], vectors[len(texts) :][::-1], atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(texts), vectors[: len(texts)], atol=1e-5)
    assert (encoding.tokens >= 2).all()
    assert ((encoding.tokens > 128) == encoding.truncated).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_read_as_flag_embedding_reads_them(encoders: Encoders, family: str, request: Any) -> None:
    """Special tokens that a text spells, control characters and all else, on every engine."""
    path = request.getfixturevalue(f"tiny_{family}_encoder")
    theirs = flag_model(path, pooling="cls", max_length=128)
    tokenized = encoders(family, FAST)._tokenizer.encode(HOSTILE)
    rows = [tokenized.row(index).tolist() for index in range(len(HOSTILE))]
    assert rows == flag_rows(theirs, HOSTILE)
    expected = flag_vectors(theirs, HOSTILE, "passage")
    for variant in EXACT:
        near = cosines(encoders(family, variant).encode_passages(HOSTILE).vectors, expected)
        worst = int(near.argmin())
        assert near[worst] >= 0.99999, f"{name(variant)}: {HOSTILE[worst][:40]!r}"


@pytest.mark.parametrize("family", FAMILIES)
def test_surrogates_are_read_as_replacement_characters(encoders: Encoders, family: str) -> None:
    """The peers raise a TypeError here. One bad character must not stop an indexing run."""
    encoder = encoders(family, FAST)
    mended = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in SURROGATES]
    np.testing.assert_allclose(
        encoder.encode_passages(SURROGATES).vectors,
        encoder.encode_passages(mended).vectors,
        atol=1e-6,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs(second_stage: Callable[[str], Reranker], family: str) -> None:
    reranker = second_stage(family)
    texts = HOSTILE + SURROGATES
    pairs = [(query, passage) for query in ("", "dog", *SURROGATES[:2]) for passage in texts]
    pairs += [(text, "the lazy dog") for text in texts]
    scores = reranker.score(pairs)
    assert scores.values.shape == scores.truncated.shape == (len(pairs),)
    assert np.isfinite(scores.values).all()
    backwards = reranker.score(pairs[::-1])
    np.testing.assert_allclose(backwards.values[::-1], scores.values, atol=1e-4)
    np.testing.assert_array_equal(backwards.truncated[::-1], scores.truncated)
    repeated = reranker.score([pairs[20]] * 3 + pairs[:10] + [pairs[20]])
    assert len(set(repeated.values[[0, 1, 2, 13]])) == 1


@pytest.mark.parametrize("variant", EXACT, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_score_alike_on_every_engine(
    rerankers: Rerankers, family: str, variant: Variant
) -> None:
    pairs = [("dog <pad> [PAD]", text) for text in HOSTILE + SURROGATES]
    expected = rerankers(family, ("transformers", "fp32")).score(pairs).values
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(rerankers(family, variant).score(pairs).values, expected, atol=1e-4)


@pytest.mark.parametrize("bad", [None, 3, b"dog", ["dog"], float("nan"), Path("dog")])
def test_what_is_no_text_is_named(
    encoders: Encoders, second_stage: Callable[[str], Reranker], bad: Any
) -> None:
    encoder, kind = encoders("bert", FAST), type(bad).__name__
    with pytest.raises(InvalidInput, match=f"passage 1 is of type {kind}, expected str"):
        encoder.encode_passages(["dog", bad])
    with pytest.raises(InvalidInput, match=f"query 1 is of type {kind}, expected str"):
        encoder.encode_queries(["dog", bad])
    with pytest.raises(InvalidInput, match=f"passage of pair 1 is of type {kind}, expected str"):
        second_stage("bert").score([("dog", "fox"), ("dog", bad)])
    with pytest.raises(InvalidInput, match=f"query of pair 0 is of type {kind}, expected str"):
        second_stage("bert").score([(bad, "fox")])


# --- large ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_megabyte(encoders: Encoders, family: str) -> None:
    encoder = encoders(family, FAST)
    texts = list(HUGE.values())
    started = time.monotonic()
    with memory_grows_by_at_most(700):
        encoding = encoder.encode_passages(texts)
    assert time.monotonic() - started < 60
    assert np.isfinite(encoding.vectors).all()
    # What lies beyond the cut changes nothing. WordPiece reads an unbroken word as unknown, and
    # nothing but blanks as nothing.
    cut = [text[:2000] for text in texts]
    again = encoder.encode_passages(cut)
    np.testing.assert_allclose(encoding.vectors, again.vectors, atol=1e-5)
    counted = dict(zip(HUGE, encoding.tokens.tolist(), strict=True))
    assert counted["a word repeated"] == MEGABYTE // 4 + 2
    assert counted["Chinese"] > MEGABYTE // 4
    assert ((encoding.tokens > 128) == encoding.truncated).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_megabyte_in_pairs(second_stage: Callable[[str], Reranker], family: str) -> None:
    reranker = second_stage(family)
    texts = list(HUGE.values())
    started = time.monotonic()
    with memory_grows_by_at_most(700):
        scores = reranker.score([("dog", text) for text in texts] + [(texts[0], "dog")])
    assert time.monotonic() - started < 60
    assert np.isfinite(scores.values).all()
    assert scores.truncated[[0, 3, -1]].all()
    again = reranker.score([("dog", text[:2000]) for text in texts])
    np.testing.assert_allclose(scores.values[:-1], again.values, atol=1e-4)


def test_forty_thousand_words(encoders: Encoders) -> None:
    encoder = encoders("bert", FAST)
    distinct = sorted(set(WORDS))
    texts = [distinct[index % len(distinct)] for index in range(40_000)]
    started = time.monotonic()
    with memory_grows_by_at_most(500):
        encoding = encoder.encode_passages(texts)
    assert time.monotonic() - started < 60
    expected = encoder.encode_passages(distinct).vectors
    assert cosines(expected[0], expected[1]) < 0.999
    every = np.arange(len(texts)) % len(distinct)
    np.testing.assert_allclose(encoding.vectors, expected[every], atol=1e-4)
    assert not encoding.truncated.any()


def test_eight_thousand_pairs(rerankers: Rerankers) -> None:
    reranker = rerankers("bert", FAST)
    passages = [f"{WORDS[i % len(WORDS)]} {i % 5000}" for i in range(8_000)]
    started = time.monotonic()
    with memory_grows_by_at_most(500):
        values = reranker.score([("where is the dog", passage) for passage in passages]).values
    assert time.monotonic() - started < 60
    probe = [0, 1, 4_999, 5_000, 7_999]
    expected = reranker.score([("where is the dog", passages[i]) for i in probe]).values
    np.testing.assert_allclose(values[probe], expected, atol=1e-4)


# --- company --------------------------------------------------------------------------------


COMPANY = [text for text in mixed_texts(longest=128, seed=5) if text.strip()] * 2
PROBES = ["", "the quick brown fox", "北京是中国的首都", "the dog <pad> the fox", "dog " * 200]


@pytest.mark.parametrize("variant", EXACT + ROUNDED, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_alone_or_among_others(encoders: Encoders, family: str, variant: Variant) -> None:
    assert len(COMPANY) >= 50
    encoder = encoders(family, variant)
    among = encoder.encode_passages([*COMPANY, *PROBES]).vectors[-len(PROBES) :]
    alone = np.concatenate([encoder.encode_passages([text]).vectors for text in PROBES])
    assert (1 - cosines(among, alone)).max() <= 1e-3
    if variant in EXACT:
        np.testing.assert_allclose(among, alone, atol=1e-5)


@pytest.mark.parametrize("variant", EXACT + ROUNDED, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_alone_or_among_others(rerankers: Rerankers, family: str, variant: Variant) -> None:
    reranker = rerankers(family, variant)
    company = mixed_pairs(longest=128, seed=5, count=50)
    probes = [("what is it?", text) for text in PROBES]
    among = reranker.score([*company, *probes]).values[-len(probes) :]
    alone = np.concatenate([reranker.score([pair]).values for pair in probes])
    # A logit of these models is of the order of 1.
    np.testing.assert_allclose(among, alone, atol=1e-3 if variant in EXACT else 1e-2)
