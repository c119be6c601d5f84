"""Token ids: the model's own, cut where promised, and hard text survived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidInput, ModelNotFound
from retrieval.models.tokenization.token_batch import Slices
from retrieval.models.tokenization.tokenizer import Tokenized, Tokenizer, cuts

FAMILIES = ["tiny_bert_encoder", "tiny_xlmr_encoder"]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "北京是中国的首都 and Beijing is its name",
    "",
    "   \n\t ",
    "a",
    "word " * 300,
    "Zoë's café – naïve ﬁnance 𝒳 😀",
    "\x00\x01 control \x7f characters \u200b\ufeff",
]


@pytest.fixture(params=FAMILIES)
def path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path, 128)


def reference(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def rows(tokenized: Tokenized) -> list[list[int]]:
    return [tokenized.row(i).tolist() for i in range(len(tokenized))]


def test_same_ids_as_transformers(path: Path, tokenizer: Tokenizer) -> None:
    expected = reference(path)(TEXTS, truncation=True, max_length=128)["input_ids"]
    uncut = reference(path)(TEXTS, truncation=False, verbose=False)["input_ids"]
    ours = tokenizer.encode(TEXTS)
    assert rows(ours) == expected
    assert ours.lengths.tolist() == [len(ids) for ids in expected]
    assert ours.full_lengths.tolist() == [len(ids) for ids in uncut]
    assert ours.truncated.tolist() == [len(ids) > 128 for ids in uncut]
    assert ours.truncated.sum() == 1


def test_same_pairs_as_transformers(path: Path, tokenizer: Tokenizer) -> None:
    pairs = [("what is a fox?", text) for text in TEXTS] + [("", "dog"), ("", "")]
    expected = reference(path)(
        [query for query, _ in pairs],
        [passage for _, passage in pairs],
        truncation="only_second",
        max_length=128,
    )
    ours = tokenizer.encode_pairs(pairs)
    assert rows(ours) == expected["input_ids"]
    if "token_type_ids" in expected:
        assert ours.type_ids is not None
        flat = [kind for kinds in expected["token_type_ids"] for kind in kinds]
        assert ours.type_ids.tolist() == flat
        assert 1 in flat
    else:
        assert ours.type_ids is None


@pytest.mark.parametrize("max_length", [8, 9, 16, 40, 128])
def test_a_cut_pair_keeps_its_query_and_its_end(path: Path, max_length: int) -> None:
    tokenizer = Tokenizer(path, max_length)
    whole = rows(Tokenizer(path, 128).encode(["fox dog"]))[0]
    query, end = whole[1:-1], whole[-1]
    ours = tokenizer.encode_pairs(
        [("fox dog", "the lazy dog " * 200), ("fox " * 200, "dog " * 200)]
    )
    short, long = rows(ours)
    assert len(short) == len(long) == max_length
    assert short[-1] == long[-1] == end
    room = max_length * 3 // 4
    assert short[1 : 1 + min(len(query), room)] == query[:room]
    specials = tokenizer.encode_pairs([("", "")]).lengths[0]
    kept_of_query = min(room, max_length - specials - 1)
    # What is left for the passage is at least one token.
    assert max_length - specials - kept_of_query >= 1
    fox = rows(Tokenizer(path, 128).encode(["fox " * 20]))[0][1:-1]
    assert long[1 : 1 + kept_of_query][: len(fox)] == fox[:kept_of_query]
    assert ours.truncated.tolist() == [True, True]


def test_pairs_agree_with_flag_reranker(path: Path, tokenizer: Tokenizer) -> None:
    """What FlagReranker does, in its own steps: query to 3/4, passage to all, then only_second."""
    theirs = reference(path)
    pairs = [("fox " * 200, "the lazy dog " * 200), ("fox " * 90, "dog"), ("fox", "dog " * 127)]
    for pair, ours in zip(pairs, rows(tokenizer.encode_pairs(pairs)), strict=True):
        query, passage = (
            theirs(text, add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
            for text, length in zip(pair, (96, 128), strict=True)
        )
        template = theirs([""], [""])["input_ids"][0]
        passage = passage[: 128 - len(template) - len(query)]
        expected = [template[0], *query, *template[1:-1], *passage, template[-1]]
        assert ours == expected


def test_cut_texts_keep_their_final_special_token(path: Path) -> None:
    tokenizer = Tokenizer(path, 16)
    cut, whole = rows(tokenizer.encode(["dog " * 500, "dog"]))
    assert len(cut) == 16
    assert cut[0] == whole[0]
    assert cut[-1] == whole[-1]


def test_prefix_is_part_of_the_text(path: Path, tokenizer: Tokenizer) -> None:
    ours = tokenizer.encode(["dog", "fox"], prefix="Represent this sentence: ")
    plain = tokenizer.encode(["Represent this sentence: dog", "Represent this sentence: fox"])
    assert rows(ours) == rows(plain)
    assert ours.lengths[0] > tokenizer.encode(["dog"]).lengths[0]


def test_an_instruction_that_leaves_no_room_is_refused(path: Path) -> None:
    tokenizer = Tokenizer(path, 16)
    with pytest.raises(InvalidInput, match=r"instruction .* has \d+ tokens, but max_length=16"):
        tokenizer.encode(["dog"], prefix="dog " * 14)
    assert len(tokenizer.encode(["dog"], prefix="dog " * 5)) == 1


def test_offsets_are_of_the_text(path: Path, tokenizer: Tokenizer) -> None:
    text = "The quick 中国 fox\ud800 jumps"
    offsets = tokenizer.token_offsets(text)
    assert offsets.dtype == np.int64
    assert offsets.shape[1] == 2
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert offsets[-1, 1] == len(text)
    assert len(offsets) + tokenizer.special_tokens == tokenizer.encode([text]).full_lengths[0]
    assert tokenizer.token_offsets("").shape == (0, 2)


def test_places_tell_where_words_start(tokenizer: Tokenizer) -> None:
    text = "The quick jumps,  fox"
    offsets, starts = tokenizer.token_places(text)
    np.testing.assert_array_equal(offsets, tokenizer.token_offsets(text))
    words = {text[start:].split()[0] for start in offsets[starts, 0]}
    assert {"The", "quick", "fox"} <= words
    assert not starts.all() or "," in words
    inside = np.flatnonzero(~starts)
    assert not any(text[offsets[place, 0] - 1].isspace() for place in inside)
    empty, none = tokenizer.token_places("")
    assert (empty.shape, none.shape) == ((0, 2), (0,))


@pytest.mark.parametrize("sizes", [[], [5], [1, 1, 1], [3, 9, 1, 1, 9], [0, 0, 0, 0]])
def test_cuts_are_bounded_and_complete(sizes: list[int]) -> None:
    ranges = list(cuts(sizes, 2, 4))
    assert [place for start, stop in ranges for place in range(start, stop)] == [*range(len(sizes))]
    for start, stop in ranges:
        assert 1 <= stop - start <= 2
        assert sum(sizes[start:stop]) <= 4 or stop - start == 1


def test_parts_of_a_passage_are_laid_out(tokenizer: Tokenizer) -> None:
    pairs = [("fox", "the lazy dog jumps"), ("dog", "a")]
    ids = tokenizer.read_pairs(pairs)
    whole = rows(tokenizer.encode_pairs(pairs))
    parts = Slices(np.array([0, 1, 0]), np.array([1, 2, 0]))
    ours = rows(tokenizer.join_pairs(ids, np.array([0, 0, 1]), parts))
    query, passage = (tokenizer.bare_ids([text])[0].tolist() for text in pairs[0])
    start = whole[0].index(passage[0], 1 + len(query))
    head, tail = whole[0][:start], whole[0][start + len(passage) :]
    assert ours[0] == [*head, passage[0], *tail]
    assert ours[1] == [*head, *passage[1:3], *tail]
    assert ours[2] == rows(tokenizer.encode_pairs([("dog", "")]))[0]


def test_lone_surrogates_are_read_as_unknown_characters(tokenizer: Tokenizer) -> None:
    broken, mended = rows(tokenizer.encode(["dog \ud800\udfff fox", "dog \ufffd\ufffd fox"]))
    assert broken == mended
    assert rows(tokenizer.encode_pairs([("\ud800", "dog")])) == rows(
        tokenizer.encode_pairs([("\ufffd", "dog")])
    )


def test_a_megabyte_is_cut_and_counted(tokenizer: Tokenizer) -> None:
    ours = tokenizer.encode(["the quick brown fox " * 50_000, "x" * 1_000_000])
    assert ours.lengths[0] == 128
    assert ours.full_lengths[0] >= 200_000
    assert ours.truncated[0]
    assert ours.lengths[1] <= 128


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(st.characters(), max_size=300), max_size=8))
def test_any_text_is_within_bounds(tiny_xlmr_encoder: Path, texts: list[str]) -> None:
    tokenizer = _cached(tiny_xlmr_encoder)
    ours = tokenizer.encode(texts)
    assert len(ours) == len(texts)
    assert ((ours.lengths >= 2) & (ours.lengths <= 32)).all()
    assert ((ours.full_lengths > 32) == ours.truncated).all()
    assert rows(ours) == [rows(tokenizer.encode([text]))[0] for text in texts]


_tokenizers: dict[Path, Tokenizer] = {}


def _cached(path: Path) -> Tokenizer:
    if path not in _tokenizers:
        _tokenizers[path] = Tokenizer(path, 32)
    return _tokenizers[path]


def test_padding_is_masked(tokenizer: Tokenizer) -> None:
    tokenized = tokenizer.encode(["dog", "the quick brown fox", ""])
    batch = tokenizer.pad(np.array([2, 1]), tokenized)
    assert batch.input_ids.shape == (2, tokenized.lengths[1])
    assert batch.attention_mask.sum(axis=1).tolist() == tokenized.lengths[[2, 1]].tolist()
    assert (batch.input_ids[0, tokenized.lengths[2] :] == tokenizer.pad_id).all()
    assert batch.input_ids[1].tolist() == tokenized.row(1).tolist()
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64


def test_no_texts(tokenizer: Tokenizer) -> None:
    for empty in (tokenizer.encode([]), tokenizer.encode_pairs([])):
        assert len(empty) == 0
        assert len(empty.lengths) == len(empty.full_lengths) == len(empty.truncated) == 0


def test_baked_in_truncation_and_padding_are_ignored(starter_path: Path) -> None:
    """all-MiniLM-L6-v2's tokenizer.json comes with both, set to 128."""
    tokenizer = Tokenizer(starter_path, 256)
    ours = tokenizer.encode(["dog " * 400, "dog"])
    assert ours.lengths.tolist() == [256, 3]
    assert ours.full_lengths.tolist() == [402, 3]


def test_a_kept_tokenizer_is_the_same(path: Path, tmp_path: Path) -> None:
    first = Tokenizer(path, 64, cache_dir=tmp_path)
    entries = list(tmp_path.glob("tokenizer-*"))
    assert len(entries) == 1
    second = Tokenizer(path, 64, cache_dir=tmp_path)
    assert rows(first.encode(TEXTS)) == rows(second.encode(TEXTS))
    assert (first.pad_id, first.special_tokens) == (second.pad_id, second.special_tokens)
    (entries[0] / "tokenizer.json").write_text("{", encoding="utf-8")
    third = Tokenizer(path, 64, cache_dir=tmp_path)  # of another size than was noted: made again
    assert rows(third.encode(TEXTS)) == rows(first.encode(TEXTS))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("dog", "a value of type str was given where a list of texts is expected"),
        (b"dog", "type bytes"),
        (None, "type NoneType was given where a list of texts"),
        (["dog", None], "text 1 is of type NoneType, expected str"),
        ([b"dog"], "text 0 is of type bytes"),
        ({"dog": 1}, "type dict"),
        ((text for text in ["dog"]), "type generator"),
    ],
)
def test_what_is_not_text_is_named(tokenizer: Tokenizer, texts: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tokenizer.encode(texts)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("ab", "type str was given where a list of"),
        (["ab"], "pair 0 is a value of type str"),
        ([("a", "b"), ("a",)], "pair 1 is a tuple of 1"),
        ([("a", None)], "passage of pair 0 is of type NoneType"),
        ([(3, "b")], "query of pair 0 is of type int"),
    ],
)
def test_what_is_not_a_pair_is_named(tokenizer: Tokenizer, pairs: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tokenizer.encode_pairs(pairs)


@pytest.mark.parametrize("max_length", [0, 7, 129, 100_000])
def test_lengths_the_model_has_no_positions_for(path: Path, max_length: int) -> None:
    with pytest.raises(InvalidInput, match="which reads 8 to 128 tokens"):
        Tokenizer(path, max_length)


def test_folders_without_a_tokenizer(tmp_path: Path, make_tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelNotFound):
        Tokenizer(tmp_path, 128)
    path = make_tiny_model("bert", "encoder")
    for file in path.glob("*token*"):
        file.unlink()
    for file in path.glob("vocab*"):
        file.unlink()
    with pytest.raises(ModelNotFound, match="tokeniser"):
        Tokenizer(path, 128)
