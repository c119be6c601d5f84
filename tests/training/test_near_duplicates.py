import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.training.near_duplicates import NearDuplicates, jaccard, normalised, shingles


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("When does it close?", "  when DOES it\tclose "),
        ("ＢＭ２５ とは？", "bm25 とは"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "Café!"),
        ("图书馆几点关门？", "图书馆几点关门"),
    ],
)
def test_what_is_set_aside(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    assert shingles(one) == shingles(other) != frozenset()


def test_marks_are_parts_of_words() -> None:
    assert normalised("किताब कहाँ है?") == unicodedata.normalize("NFC", "किताब कहाँ है")
    assert shingles("किताब", 1).isdisjoint(shingles("कितब", 1))


@given(st.text(st.characters(max_codepoint=127)).filter(lambda text: any(map(str.isalnum, text))))
def test_ascii_is_no_case_of_its_own(text: str) -> None:
    assert normalised(f"{text} é") == f"{normalised(text)} é"


def test_punctuation_alone_is_a_text_and_blanks_are_none() -> None:
    assert jaccard(shingles("?!"), shingles("?!")) == 1.0
    assert shingles(" \n") == frozenset()
    assert jaccard(shingles(""), shingles("")) == 0.0


def test_shingles_are_the_same_in_every_process() -> None:
    assert shingles("The gate closes at ten.") == {979484677, 1686052717, 2334509390}


def test_scripts_without_blanks_are_compared_by_characters() -> None:
    near = jaccard(shingles("图书馆几点关门", 1), shingles("图书馆几点开门", 1))
    assert near == pytest.approx(4 / 8)
    thai = jaccard(shingles("ห้องสมุดปิดกี่โมง", 1), shingles("ห้องสมุดปิดกี่โมงครับ", 1))
    assert thai > 0.7
    mixed = shingles("用 Python 写服务器", 1)
    assert shingles("python", 1) < mixed


def test_short_texts_are_one_shingle() -> None:
    assert len(shingles("two words")) == len(shingles("one")) == len(shingles("门")) == 1


_WORDS = st.lists(st.sampled_from([*"abcdefg图书馆"]), max_size=9).map(" ".join)


@given(
    st.lists(_WORDS, max_size=12),
    st.lists(_WORDS, max_size=12),
    st.sampled_from([0.1, 0.3, 0.5, 2 / 3, 0.75, 0.8, 0.9, 1.0]),
    st.sampled_from([1, 2, 3]),
)
def test_none_is_missed_and_none_is_invented(
    known: list[str], others: list[str], threshold: float, words: int
) -> None:
    index = NearDuplicates(known, threshold, words=words)
    for text in others:
        own = shingles(text, words)
        all_pairs = [(at, jaccard(own, shingles(one, words))) for at, one in enumerate(known)]
        assert index.of(text) == [pair for pair in all_pairs if pair[1] >= threshold]


def test_few_of_many_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    vocabulary = [f"w{n}" for n in range(3000)]
    texts = [" ".join(chance.choices(vocabulary, k=40)) for _ in range(2000)]
    index = NearDuplicates(texts[:1000], 0.8)
    compared = 0

    def counted(one: frozenset[int], other: frozenset[int]) -> float:
        nonlocal compared
        compared += 1
        return jaccard(one, other)

    monkeypatch.setattr("retrieval.training.near_duplicates.jaccard", counted)
    assert [index.of(text)[0][0] for text in texts[:1000]] == list(range(1000))
    assert all(index.of(text) == [] for text in texts[1000:])
    assert compared < 2000  # of two million pairs


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan"), True])
def test_a_threshold_out_of_bounds_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidInput, match="threshold"):
        NearDuplicates([], threshold)
