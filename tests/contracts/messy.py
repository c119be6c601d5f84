"""Passages with the metadata that real files have, and filters to ask of it, from one seed."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.types import FloatArray, IndexQuery, LexicalWeights, Passage

DIMENSION = 16
TOKEN_DIMENSION = 12

_PARTS = [0.5] * 3 + [0.25] * 3 + [0.125] * 4

WORDS = ["cat", "dog", "running", "naïve", "zebra", "house", "北京", "x1", "the", "engine", "blue"]
TEXTS: list[Any] = ["en", "EN", "de", "", "true", "1", "naïve", "北京", 'say "hi"', "a b",
                    "d3225403-3c8a-5b4a-80b1-72fb3836b9a1"]  # fmt: skip
NUMBERS: list[Any] = [0, 1, 2, -3, 2000, 2000.0, 0.5, 1999.5, -0.5, 2**53, 2**53 + 1, 1704067200]
DATES: list[Any] = ["2023-12-31", "2024-01-01", "2024-01-01T12:00:00Z", "2024-01-01T12:00:00+02:00",
                    "2024-06-30T23:59:59.5Z", "2024-01-01T12:00:00"]  # fmt: skip
OTHERS: list[Any] = [None, True, False]
ALL = TEXTS + NUMBERS + DATES + OTHERS

FIELDS = {
    "lang": "keyword",
    "year": "number",
    "published": "datetime",
    "mixed": "keyword",
    "o.x": "keyword",
    "people[].name": "keyword",
    "people[].age": "number",
    "source": "keyword",
}
"""Payload indexes for this metadata; each kind has values that it is not for."""

KEYS = {
    "lang": TEXTS + OTHERS,
    "year": NUMBERS + TEXTS[-3:],
    "published": DATES + TEXTS[-3:],
    "mixed": ALL,
    "o.x": ALL,
    "plain": ALL,
    '"dot.ted"': ALL,
    "tags[]": ALL,
    "tags": ALL,
    "people[].name": ["Ann", "Bo", None, 7],
    "people[].age": [30, 41.5, "old"],
    "people[0].name": ["Ann", "Bo"],
    "missing": [1, None, "en"],
}


@dataclass(frozen=True)
class Corpus:
    """Passages with everything that a collection with all vectors keeps of them."""

    passages: list[Passage]
    vectors: FloatArray
    lexical: list[LexicalWeights]
    token_vectors: list[FloatArray]


def unit_rows(rng: np.random.Generator, rows: int, dimension: int) -> FloatArray:
    """Random rows of length 1 whose products are whole 64ths, exact in whatever order they are
    summed: engines and machines that differ in the last bit could not agree on near ties."""
    values = np.zeros((rows, dimension), dtype=np.float32)
    for row in values:
        places = rng.choice(dimension, len(_PARTS), replace=False)
        row[places] = _PARTS * rng.choice([-1.0, 1.0], len(_PARTS))
    return values


def weights(rng: random.Random, count: int) -> LexicalWeights:
    """Term weights over a vocabulary of 40."""
    indices = sorted(rng.sample(range(40), count))
    values = [rng.randrange(1, 64) / 64 for _ in indices]
    return LexicalWeights(np.array(indices, dtype=np.int32), np.array(values, dtype=np.float32))


def corpus(size: int, seed: int) -> Corpus:
    """Messy passages; every seventh has the vectors and text of the one before it."""
    rng, arrays = random.Random(seed), np.random.default_rng(seed)
    vectors = unit_rows(arrays, size, DIMENSION)
    passages: list[Passage] = []
    lexical: list[LexicalWeights] = []
    tokens: list[FloatArray] = []
    for number in range(size):
        text = " ".join(rng.choices(WORDS, k=rng.randrange(1, 9)))
        lexical.append(weights(rng, rng.randrange(0, 6)))
        tokens.append(unit_rows(arrays, rng.randrange(1, 5), TOKEN_DIMENSION))
        if number % 7 == 6:
            text, lexical[-1], tokens[-1] = passages[-1].text, lexical[-2], tokens[-2]
            vectors[number] = vectors[number - 1]
        document, position = f"d{number // 4}", number % 4
        passages.append(
            Passage(
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{document}#{position}")),
                document_id=document,
                position=position,
                text=text,
                start=0,
                end=len(text),
                title=rng.choice(["", "A", "B"]),
                source=f"s{number // 4 % 3}",
                metadata=metadata(rng),
                document_hash="h",
                document_passages=4,
            )
        )
    return Corpus(passages, vectors, lexical, tokens)


def metadata(rng: random.Random) -> dict[str, Any]:
    """One passage's metadata: fields missing, of mixed types, lists, objects, lists of objects."""
    found: dict[str, Any] = {}
    for name in ("lang", "year", "published", "mixed", "plain", "dot.ted", "tags"):
        if rng.random() < 0.8:
            found[name] = value(rng, KEYS.get(name, ALL))
    if rng.random() < 0.7:
        found["o"] = {"x": value(rng, ALL)} if rng.random() < 0.8 else rng.choice([{}, [], "text"])
    if rng.random() < 0.6:
        found["people"] = [
            {
                key: rng.choice(KEYS[f"people[].{key}"])
                for key in ("name", "age")
                if rng.random() < 0.8
            }
            for _ in range(rng.randrange(4))
        ]
    return found


def value(rng: random.Random, choices: list[Any]) -> Any:
    """One of the choices, or sometimes a list of them."""
    if rng.random() < 0.25:
        return [rng.choice(choices) for _ in range(rng.randrange(4))]
    return rng.choice(choices)


def where(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random filter in the mapping language."""
    kind = rng.random()
    if depth and kind < 0.2:
        return {"and": [where(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    if depth and kind < 0.45:
        return {"or": [where(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    if depth and kind < 0.6:
        return {"not": where(rng, depth - 1)}
    found: dict[str, Any] = {}
    for _ in range(1 if rng.random() < 0.75 else 2):
        if rng.random() < 0.15:
            found |= rng.choice(
                [{"document_id": f"d{rng.randrange(60)}"}, {"title": ["", "A"]}, {"source": "s1"},
                 {"position": {"gte": rng.choice([1, 0.5, 2])}}, {"position": [0, 3]}]
            )  # fmt: skip
            continue
        key = rng.choice(list(KEYS))
        found[key] = condition(rng, KEYS[key])
    return found


def condition(rng: random.Random, choices: list[Any]) -> Any:
    """What is asked of one field: a value, several, a range, or whether there is one."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(choices)
    if kind < 0.45:
        return [rng.choice(choices) for _ in range(rng.randrange(1, 5))]
    if kind < 0.6:
        return {"exists": rng.random() < 0.5}
    # the client's in-memory engine tells 2**53 and 2**53 + 1 apart in ranges; Qdrant does not
    numbers = [item for item in NUMBERS if item < 2**53]
    bounds = DATES if choices is KEYS["published"] or rng.random() < 0.3 else numbers
    names = rng.sample(["gt", "gte", "lt", "lte"], rng.randrange(1, 3))
    found = {name: rng.choice(bounds) for name in names}
    return {**found, "exists": True} if rng.random() < 0.1 else found


def query(rng: random.Random, arrays: np.random.Generator) -> IndexQuery:
    """A query with all that any mode reads."""
    return IndexQuery(
        vector=unit_rows(arrays, 1, DIMENSION)[0],
        text=" ".join(rng.choices(WORDS, k=rng.randrange(1, 4))),
        lexical=weights(rng, rng.randrange(1, 6)),
        token_vectors=unit_rows(arrays, rng.randrange(1, 4), TOKEN_DIMENSION),
    )
