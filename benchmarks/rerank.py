"""How fast are (query, passage) pairs re-ranked, beside FlagReranker and sentence-transformers?

The same random-weight BERT cross-encoder (bge-reranker-base's size; MiniLM-L6's with --quick) and
the same 100 pairs of mixed lengths go through each system with its own defaults on this device, in
interleaved rounds; medians. What the speed costs is measured too: the largest difference of a
logit from plain transformers in fp32, and how many pairs of scores keep their order.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _report import OURS, Row, in_turns, machine, median, parser, report
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.models.reranker import CrossEncoderReranker
from retrieval.models.resolve import resolve
from retrieval.types import ModelSpec, ResolvedModel

CASE_NAMES = {True: "MiniLM-L6 size", False: "BERT-base size"}
OTHERS = {"FlagEmbedding": "FlagEmbedding", "sentence-transformers": "sentence_transformers"}

Pairs = list[tuple[str, str]]
Scorer = Callable[[Pairs], NDArray[np.float64]]

MAX_LENGTH = 512
MODULES = ("argparse", "collections", "json", "logging", "os", "pathlib", "random", "re")
MODULES += ("shutil", "statistics", "string", "subprocess", "tempfile", "threading", "zipfile")
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}


def save_model(folder: Path, shape: dict[str, int]) -> None:
    """A cross-encoder with random weights and the starter's tokeniser."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(resolve("starter", "encoder").path)
    config = BertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=4 * shape["hidden_size"],
        max_position_embeddings=MAX_LENGTH,
        num_labels=1,
        initializer_range=0.05,  # wide enough for the logits of different pairs to differ
        **shape,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(folder)


def docstring_words() -> list[str]:
    """Real words, on every machine: the docstrings of the standard library."""
    docs: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        docs += [
            value.__doc__
            for _, value in sorted(vars(module).items())
            if callable(value) and isinstance(value.__doc__, str)
        ]
    return [word for text in dict.fromkeys(docs) for word in text.split()]


def make_pairs(n: int, seed: int = 0) -> Pairs:
    """`n` pairs: queries of 4 to 14 words, passages of 10 to 350, most of them near 80."""
    rng = random.Random(seed)
    words = docstring_words()

    def slice_of(size: int) -> str:
        start = rng.randrange(len(words) - size)
        return " ".join(words[start : start + size])

    queries = [slice_of(rng.randint(4, 14)) for _ in range(max(n // 20, 1))]
    sizes = [min(max(int(rng.lognormvariate(4.4, 0.8)), 10), 350) for _ in range(n)]
    return [(queries[i % len(queries)], slice_of(size)) for i, size in enumerate(sizes)]


def flag_embedding(folder: Path) -> Scorer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, while they are imported
        from FlagEmbedding import FlagReranker

        # 32 pairs a batch serve it better on a CPU than its default of 128.
        model = FlagReranker(str(folder), max_length=MAX_LENGTH, devices=device(), batch_size=32)
    return lambda pairs: np.array(model.compute_score([list(pair) for pair in pairs]))


def sentence_transformers(folder: Path) -> Scorer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(str(folder), max_length=MAX_LENGTH, device=device())
    identity = torch.nn.Identity()
    return lambda pairs: np.asarray(
        model.predict(pairs, activation_fn=identity, batch_size=32, show_progress_bar=False),
        dtype=np.float64,
    )


def plain_fp32(folder: Path, pairs: Pairs) -> NDArray[np.float64]:
    """The reference: transformers alone, in fp32."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    with torch.inference_mode():
        for start in range(0, len(pairs), 10):
            batch = [list(texts) for texts in zip(*pairs[start : start + 10], strict=True)]
            inputs = tokenizer(
                *batch, padding=True, truncation="only_second", max_length=MAX_LENGTH,
                return_tensors="pt",
            )  # fmt: skip
            logits.append(model(**inputs).logits.squeeze(-1).double().numpy())
    return np.concatenate(logits)


def same_order(scores: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The share of pairs of pairs that both put in the same order."""
    upper = np.triu_indices(len(scores), 1)
    one = np.sign(scores[:, None] - scores[None, :])[upper]
    other = np.sign(reference[:, None] - reference[None, :])[upper]
    return float((one == other).mean())


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def measure(folder: Path, case: str, pairs: Pairs, rounds: int) -> list[Row]:
    spec = ModelSpec("random", "reranker", max_length=MAX_LENGTH, score_head="classification")
    ours = CrossEncoderReranker(
        ResolvedModel(spec, folder, fingerprint=""), cache_dir=folder.parent / "cache"
    )
    print(f"{OURS}: {ours.engine}; {len(pairs)} pairs, {rounds} rounds", flush=True)
    scorers: dict[str, Scorer] = {OURS: lambda pairs: ours.score(pairs).values}
    for name, load in (
        ("FlagEmbedding", flag_embedding),
        ("sentence-transformers", sentence_transformers),
    ):
        if importlib.util.find_spec(OTHERS[name]) is None:
            print(f"{name} is not installed: measured without it")
        else:
            scorers[name] = load(folder)
    reference = plain_fp32(folder, pairs)
    scores: dict[str, NDArray[np.float64]] = {}
    systems = {
        name: lambda name=name, score=score: scores.update({name: score(pairs)})
        for name, score in scorers.items()
    }
    # Once before it counts: all memory is then allocated, all kernels are chosen.
    for name, run in systems.items():
        if rounds > 1 or name == OURS:
            run()
    seconds = in_turns(systems, rounds)
    rows = []
    for name, times in seconds.items():
        rows.append(Row(case, name, "throughput", len(pairs) / median(times), "pairs/s"))
        error = float(np.abs(scores[name] - reference).max())
        rows.append(Row(case, name, "largest difference to fp32", error, "logit"))
        order = 100 * same_order(scores[name], reference)
        rows.append(Row(case, name, "pairs of scores in the order of fp32", order, "%"))
    for name in seconds:
        if name != OURS:
            ratio = median(seconds[name]) / median(seconds[OURS])
            rows.append(Row(case, OURS, f"throughput against {name}", ratio, "×"))
    rows.append(Row(case, OURS, "spread of the logits", float(np.ptp(reference)), "logit"))
    return rows


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--pairs", type=int, help="how many pairs; 100, or 40 with --quick")
    result.add_argument("--rounds", type=int, help="turns of each system; 5, or 1 with --quick")
    return result


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "cross-encoder"
        save_model(folder, SMALL if arguments.quick else BASE)
        pairs = make_pairs(arguments.pairs or (40 if arguments.quick else 100))
        case = f"{CASE_NAMES[arguments.quick]}, {len(pairs)} pairs of mixed lengths"
        rows = measure(folder, case, pairs, arguments.rounds or (1 if arguments.quick else 5))
    report(
        rows,
        file=arguments.json,
        packages=("FlagEmbedding", "sentence-transformers"),
        at_start=before,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
