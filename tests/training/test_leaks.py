"""What training and evaluation have in common, and what is held out of training."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.training.data.leaks import check_leaks, find_leaks, without_leaks
from retrieval.training.data.reading import load_examples
from retrieval.training.data.split import split_dev
from retrieval.training.examples import TrainingExample
from retrieval.training.near_duplicates import normalised
from retrieval.types import Document


def _example(query: str, *positives: str) -> TrainingExample:
    return TrainingExample(query, positives or ("At ten.",), where="own.jsonl:1")


def _judged(*queries: str, documents: dict[str, tuple[str, str]] | None = None) -> JudgedQueries:
    texts = {f"q{n}": text for n, text in enumerate(queries)}
    grades = {key: 1 if key != "wrong" else 0 for key in documents or {"d": ("", "")}}

    def corpus() -> list[Document]:
        return [Document(key, text, title) for key, (title, text) in (documents or {}).items()]

    return JudgedQueries(
        "faq", "test", texts, dict.fromkeys(texts, grades), corpus=lambda: iter(corpus())
    )


@pytest.mark.parametrize(
    ("query", "other", "how"),
    [
        ("when does it close", "When does it close?", "is"),
        ("图书馆几点关门", "图书馆几点关门？", "is"),
        ("Quand ça ferme ?", "quand c\u0327a ferme", "is"),
        ("please, when does it close today", "when does it close today?", "is nearly"),
        ("请问北京市图书馆几点关门", "问北京市图书馆几点关门", "is nearly"),
        ("when does it close", "does it close when", "is nearly"),
        ("when does it close", "when does it open", None),
        ("图书馆几点关门", "图书馆几点开门", None),
        ("???", "???", "is"),
    ],
)
def test_which_queries_are_one(query: str, other: str, how: str | None) -> None:
    found = find_leaks([_example("unrelated words here"), _example(query)], [_judged(other)])
    said = [] if how is None else [f"own.jsonl:1: {query!r} {how} {other!r} (faq test, query q0)"]
    assert list(map(str, found.queries)) == said
    assert found.examples == len(said)


def test_leaks_are_refused_allowed_or_left_out() -> None:
    examples = [_example(f"which gate closes at {n}") for n in range(9)] + [_example("why")]
    evaluation = [_judged("Which gate closes at 3?", "else"), _judged("which gate closes at 4")]
    with pytest.raises(InvalidInput) as caught:
        check_leaks(examples, evaluation, threshold=1.0)
    assert "2 of 10 training queries" in caught.value.problem
    assert "(2 pairs are the same)" in caught.value.problem
    assert "'which gate closes at 4' is 'which gate closes at 4' (faq" in caught.value.problem
    assert "--drop-leaks" in caught.value.fix
    with pytest.raises(InvalidInput, match="and 1 more pairs"):
        check_leaks(examples[:3] * 2, [_judged("which gate closes at")], threshold=0.7)
    leaks = check_leaks(examples, evaluation, allow=True, threshold=1.0)
    kept = without_leaks(examples, leaks)
    assert [one.query[-1] for one in kept] == [*"0125678", "y"]
    assert check_leaks(kept, evaluation, threshold=1.0).queries == ()


def test_shared_passages_are_counted_and_are_no_leak() -> None:
    documents = {
        "a": ("Gate", "Closes at ten."),
        "b": ("", "Only  its TEXT."),
        "wrong": ("", "Judged to be wrong."),
    }
    texts = ["Gate closes at ten", "only its text", "Judged to be wrong.", "Something else."]
    examples = [_example(f"{text} {n}", text) for n, text in enumerate(texts)]
    assert check_leaks(examples, [_judged("unlike", documents=documents)]).passages == 2
    assert check_leaks(examples, []).passages == 0


_TEXTS = st.sampled_from(["a", "A!", "b", "c", "d", "e", "f", "g", "h"])


@given(
    st.lists(st.tuples(_TEXTS, st.lists(_TEXTS, min_size=1, max_size=2)), max_size=30),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    st.integers(0, 3),
)
def test_nothing_is_shared_across_the_split(
    rows: list[tuple[str, list[str]]], share: float, seed: int
) -> None:
    examples = [TrainingExample(query, tuple(positives)) for query, positives in rows]
    try:
        train, dev = split_dev(examples, share, seed)
    except InvalidInput:  # everything hangs together, or the share is less than one example
        return
    assert 0 < len(dev) <= round(share * len(examples))
    assert sorted(map(repr, train + dev)) == sorted(map(repr, examples))
    for of in ("query", "positives"):
        seen = [
            {
                normalised(text)
                for one in part
                for text in ([one.query] if of == "query" else one.positives)
            }
            for part in (train, dev)
        ]
        assert seen[0].isdisjoint(seen[1])
    assert split_dev(examples, share, seed) == (train, dev)


def test_ids_and_seeds_of_a_split() -> None:
    same = [
        TrainingExample(f"q{n}", (f"seen differently {n}",), positive_ids=("d",)) for n in (0, 1)
    ]
    others = [TrainingExample(f"other {n}", (f"text {n}",)) for n in range(18)]
    parts = [split_dev(same + others, 0.3, seed) for seed in range(30)]
    assert {sum(one in dev for one in same) for _, dev in parts} == {0, 2}
    assert len({tuple(one.query for one in dev) for _, dev in parts}) > 10
    with pytest.raises(InvalidInput, match="at least 2 share"):
        split_dev(same, 0.5)
    for share in (0, 1, float("nan")):
        with pytest.raises(InvalidInput, match="share"):
            split_dev(others, share)


@pytest.mark.shared_data
def test_scifacts_splits_overlap(shared_data: Path) -> None:
    folder = shared_data / "scifact"
    examples, test = load_examples(folder), load_judgements(folder)
    leaks = find_leaks(examples, [test])
    assert sum(leak.exact for leak in leaks.queries) == 2
    assert len(leaks.queries) > 50
    assert leaks.passages > 100
