"""Texts that models are compared on: mixed lengths and scripts, and what is hard to read."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from retrieval.types import FloatArray

SENTENCES = (
    "the query and passage are read together return path of file raise an error when the "
    "directory does not exist copy whole tree to another place quick brown fox jumps over lazy "
    "dog vector model language machine number sentence searching relevant"
)
WORDS = SENTENCES.split()
HAN = "北京是中国的首都上海最大城市机器学习模型可以把文本变成向量"

SPECIAL_TOKENS = [
    "[CLS] the dog [SEP] the fox [MASK] [PAD] [UNK]",
    "<s> the dog </s> the fox <mask> <unk>",
    "the dog <pad> the fox <pad><pad> path",
    "<pad>",
    "[PAD]",
    "[SEP]</s>",
]
"""Text that spells special tokens: tokenisers read them as such, and so do the peers."""


def words(rng: random.Random, least: int, most: int) -> str:
    """A text of `least` to `most` words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def mixed_texts(*, longest: int = 512, seed: int = 0) -> list[str]:
    """Short, long and over-long texts, empty ones, Chinese, signs, odd blanks, special tokens."""
    rng = random.Random(seed)
    texts = ["", " ", "dog", "a", "  the  lazy\tdog\n\nsleeps  ", "Return the path!", "1 + 2 = 3?"]
    texts += ["北京在哪里？", HAN, HAN * (longest // len(HAN) + 2), "the 模型 model 北京 dog"]
    texts += ["()[]{}<>@#%&*_-+=/|", "ⅷ ﬁ Å é É 🦊 ½", *SPECIAL_TOKENS]
    texts += [words(rng, 2, 40) for _ in range(8)]
    texts += [words(rng, longest // 4, longest // 2) for _ in range(3)]
    # Exactly full, one more, far more.
    texts += [" ".join(["dog"] * n) for n in (longest - 3, longest - 2, longest - 1, longest)]
    texts += [words(rng, longest + 8, 2 * longest) for _ in range(2)]
    return texts


def mixed_pairs(*, longest: int = 512, seed: int = 0, count: int = 60) -> list[tuple[str, str]]:
    """(query, passage) pairs that fit into `longest` tokens of a word-level vocabulary."""
    rng = random.Random(seed)
    pairs = [(words(rng, 2, 8), words(rng, 3, longest // 5)) for _ in range(count - 8)]
    pairs += [(words(rng, 3, 6), words(rng, longest // 5, longest // 4)) for _ in range(3)]
    pairs += [("北京在哪里？", HAN), ("what is it?", "path"), ("dog", "dog"), ("🦊", "the fox")]
    return [*pairs, ("[MASK] <mask> dog", "the [SEP] </s> dog <pad> fox")]


def long_pairs(*, longest: int = 512, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs of which the passage, the query or both are cut."""
    rng = random.Random(seed)
    over = [words(rng, longest + 8, 2 * longest) for _ in range(4)]
    query_limit = longest * 3 // 4
    return [
        ("where is the file", over[0]),
        ("北京在哪里", HAN * (longest // len(HAN) + 2)),
        (over[1], over[2]),
        (over[3], "the fox"),
        *((" ".join(["dog"] * n), "fox " * longest) for n in (query_limit, query_limit + 1)),
        (words(rng, longest // 2, longest // 2), words(rng, longest // 2, longest // 2)),
    ]


def cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """Of rows, in float64: at 0.99999 the last bits of float32 matter."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    result: FloatArray = (x * y).sum(-1) / norms
    return result


def spread(vectors: FloatArray, texts: Sequence[str]) -> float:
    """The largest cosine between vectors of different texts of more than four words.

    Agreement shows something only where other texts would not have agreed as well.
    """
    long = [row for row, text in enumerate(texts) if len(set(text.split())) > 4]
    unit = vectors[long] / np.linalg.norm(vectors[long], axis=1, keepdims=True)
    return float((unit @ unit.T - 2 * np.eye(len(long))).max())
