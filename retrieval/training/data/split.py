"""A part of the examples held out, of which the rest has seen neither query nor answer."""

from __future__ import annotations

import random
from collections.abc import Sequence

from retrieval._validate import number, whole_number
from retrieval.errors import InvalidInput
from retrieval.training.examples import TrainingExample
from retrieval.training.near_duplicates import normalised


def split_dev(
    examples: Sequence[TrainingExample], share: float, seed: int = 0
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Examples to train on, and others to measure on while training.

    Examples with the same query, or with a positive in common (by its text or its id), stay
    together: no answer of the second part was ever a positive in training.

    Args:
        examples: all of them.
        share: of the examples that are held out, above 0 and below 1. At most that: what belongs
            together is not divided to reach it.
        seed: of the choice; the same examples and seed give the same parts.

    Returns:
        The examples to train on and those held out, each in the order given.

    Raises:
        InvalidInput: a share or seed that cannot be used, or everything belongs together.

    Example:
        >>> from retrieval.training.data.split import split_dev
        >>> from retrieval.training.examples import TrainingExample
        >>> examples = [TrainingExample(f"query {n}", (f"answer {n // 2}",)) for n in range(10)]
        >>> train, dev = split_dev(examples, 0.2)
        >>> len(train), [one.positives for one in dev]
        (8, [('answer 2',), ('answer 2',)])
    """
    number(
        share, "share", above=0.0, most=0.999, expected="a number above 0 and below 1",
        fix="Hold out 0.1, for example.",
    )  # fmt: skip
    whole_number(seed, "seed", least=0)
    groups = _groups(examples)
    random.Random(seed).shuffle(groups)
    room = round(share * len(examples))
    held_out: set[int] = set()
    for group in groups:
        if len(held_out) + len(group) <= room:
            held_out.update(group)
    if not held_out:
        smallest = min(map(len, groups), default=0)
        raise InvalidInput(
            f"of {len(examples):,} examples {room:,} are to be held out, and at least "
            f"{smallest:,} share their queries or positives with each other",
            fix="Hold out a greater share, or give the examples to measure on in a file of their "
            "own.",
        )
    parts: tuple[list[TrainingExample], list[TrainingExample]] = ([], [])
    for at, one in enumerate(examples):
        parts[at in held_out].append(one)
    return parts


def _groups(examples: Sequence[TrainingExample]) -> list[list[int]]:
    """Places of the examples that belong together, by a forest over what they share."""
    parents = list(range(len(examples)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    first: dict[tuple[str, str], int] = {}
    for at, one in enumerate(examples):
        shared = [("query", normalised(one.query))]
        shared += [("text", normalised(text)) for text in one.positives]
        shared += [("id", id_) for id_ in one.positive_ids]
        for key in shared:
            other, own = root(first.setdefault(key, at)), root(at)
            parents[max(other, own)] = min(other, own)
    groups: dict[int, list[int]] = {}
    for at in range(len(examples)):
        groups.setdefault(root(at), []).append(at)
    return list(groups.values())
