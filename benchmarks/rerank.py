"""How fast are (query, passage) pairs re-ranked, beside FlagReranker and sentence-transformers?

Cross-encoders of real sizes with random weights score pairs of a length mix: 100 pairs of one
query, as a search has them, or of many. Every system in its own process and, where it must, its own
interpreter; they take turns and the median round counts. FlagReranker runs twice: with its default
batch of 128 and with 32, which serves a CPU better. It forwards its first batch twice; that is
counted as waste. With `--model` a real cross-encoder runs in place of a shape, and of this library
also what searches on a CPU do by default: of each passage an excerpt is chosen and read. What speed
costs is measured, too: the largest difference of a logit from plain
transformers in fp32, and how many scores that are 5% of the spread apart keep their order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _compare import Figures, compare, notes, speed_rows
from _report import Row, machine, parser, report
from _shapes import SHAPES, make, models_folder, names, real
from _systems import System, add_options, choose
from _texts import MAX_LENGTH, MIXES, SHARED_DATA, pairs, source

from retrieval.models.tokenization.tokenizer import Tokenizer

APART = 0.05
"""Scores closer than this part of their spread are no order: random weights tell little apart."""
QUERIES = {"one": 1, "many": 20}
EXCERPTS = "excerpts"


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument(
        "--shape", choices=names("rerank"), help="reranker-base, or tiny-reranker with --quick"
    )
    result.add_argument(
        "--model", help="a real cross-encoder in place of a shape: a name or a folder"
    )
    result.add_argument("--mix", choices=MIXES, default="real")
    result.add_argument("--pairs", type=int, help="how many; 100, or 32 with --quick")
    result.add_argument(
        "--queries", choices=QUERIES, default="one", help="pairs of one query, or of 20"
    )
    result.add_argument("--rounds", type=int, help="turns of each system at most; 5, 2 if quick")
    result.add_argument(
        "--minutes", type=float, default=5.0, help="of all turns together, one each at least"
    )
    result.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with scifact/")
    add_options(result)
    return result


def same_order(
    scores: NDArray[np.float64], reference: NDArray[np.float64], *, apart: float = 0.0
) -> float:
    """The share of two scores that both put in the same order.

    Only those are counted whose reference scores are further apart than `apart`.
    """
    upper = np.triu_indices(len(scores), 1)
    one = (scores[:, None] - scores[None, :])[upper]
    other = (reference[:, None] - reference[None, :])[upper]
    counted = np.abs(other) > apart
    return float((np.sign(one) == np.sign(other))[counted].mean())


def quality_rows(case: str, figures: Figures) -> list[Row]:
    reference = figures.reference
    rows = []
    for name, output in figures.outputs.items():
        if name.endswith(EXCERPTS):
            continue  # it scores other texts; what that costs is measured by reading.py
        scores: NDArray[Any] = np.asarray(output, dtype=np.float64)[: len(reference)]
        error = float(np.abs(scores - reference).max())
        rows.append(Row(case, name, "largest difference to fp32", error, "logit"))
        order = 100 * same_order(scores, reference, apart=APART * float(np.ptp(reference)))
        rows.append(Row(case, name, "in the order of fp32", order, "%"))
    return rows


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    shape = SHAPES[arguments.shape or ("tiny-reranker" if arguments.quick else "reranker-base")]
    choice = choose(arguments)
    if arguments.model:
        own = [one for one in choice.systems if one.settings["system"] == "retrieval"]
        choice.systems += [
            System(f"{one.name}, {EXCERPTS}", {**one.settings, "read": EXCERPTS}, one.python)
            for one in own
        ]
    origin = source(arguments.data)
    count = arguments.pairs or (32 if arguments.quick else 100)
    queries = min(QUERIES[arguments.queries], count)
    inputs = pairs(origin, arguments.mix, count, queries=queries)
    with models_folder(arguments.models_dir) as root:
        if arguments.model:
            shape, folder = real(arguments.model, "rerank", root)
        else:
            folder = make(shape, root)
        tokenizer = Tokenizer(folder, MAX_LENGTH, cache_dir=root / "cache")
        lengths = tokenizer.encode_pairs(inputs).lengths
        mean = float(lengths.mean())
        case = f"{shape.name}, {arguments.mix}, {queries} queries"
        print(f"{case}: {count} pairs of {mean:.0f} tokens from {origin.name}", flush=True)
        figures = compare(
            shape,
            folder,
            inputs,
            choice,
            seconds=60 * (0.2 if arguments.quick else arguments.minutes),
            rounds=arguments.rounds or (2 if arguments.quick else 5),
        )
    speed = [
        row
        for row in speed_rows(case, shape, figures, lengths, "pairs")
        # Tokens are counted in whole pairs.
        if not row.system.endswith(EXCERPTS) or row.unit not in ("tokens/s", "%")
    ]
    report(
        speed + quality_rows(case, figures),
        file=arguments.json,
        packages=("FlagEmbedding", "sentence-transformers"),
        at_start=before,
        notes=notes(
            figures,
            choice,
            pairs=count,
            source=origin.name,
            mean_tokens=mean,
            shape=shape.name,
            spread_of_logits=float(np.ptp(figures.reference)),
        ),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
