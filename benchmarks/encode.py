"""How fast are passages encoded, beside FlagEmbedding, sentence-transformers and ONNX Runtime?

Models of real sizes with random weights, or one with trained weights (`--model`), read texts of a
length mix; every system in its own process
and, where it must, its own interpreter; they take turns and the median round counts. FlagEmbedding
runs twice: with its default batch of 256 and with 32, which serves a CPU better. It forwards its
first batch twice, to see whether memory suffices; that is counted as waste, and weighs the more the
fewer texts there are. Vectors are compared with those of plain transformers in fp32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _compare import Figures, compare, notes, speed_rows
from _report import Row, machine, parser, report
from _shapes import SHAPES, Shape, make, models_folder, names, real
from _systems import add_options, choose, on_gpu
from _texts import MAX_LENGTH, MIXES, SHARED_DATA, source, texts

from retrieval.models.tokenization.tokenizer import Tokenizer

# So that the slowest peer has its turn in well under a minute on two cores.
TEXTS = {"tiny": 512, "minilm-l6": 256, "bge-small": 160, "bge-base": 64}
ON_GPU = 4096


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--shape", choices=names("encode"), help="bge-small, or tiny with --quick")
    result.add_argument(
        "--model", help="a trained CLS-pooled model in place of a shape: name or folder"
    )
    result.add_argument("--mix", choices=MIXES, default="real")
    result.add_argument("--texts", type=int, help="how many; by default by shape and mix")
    result.add_argument("--rounds", type=int, help="turns of each system at most; 5, 2 if quick")
    result.add_argument(
        "--minutes", type=float, default=5.0, help="of all turns together, one each at least"
    )
    result.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with scifact/")
    add_options(result)
    return result


def how_many(shape: Shape, mix: str, *, gpu: bool, quick: bool) -> int:
    """Texts of a run where none are asked for."""
    if gpu:
        return ON_GPU // (4 if quick else 1)
    number = 32 if quick else TEXTS.get(shape.name, 160 if shape.width <= 384 else 32)
    return {"short": 8 * number, "real": number, "long": max(number // 2, 16)}[mix]


def cosine_rows(case: str, figures: Figures) -> list[Row]:
    rows = []
    for name, vectors in figures.outputs.items():
        count = len(figures.reference)
        part = np.asarray(vectors[:count], dtype=np.float64)
        cosines = (part * figures.reference).sum(axis=1) / np.linalg.norm(part, axis=1)
        rows.append(Row(case, name, "least cosine to fp32", float(cosines.min()), ""))
    return rows


def main() -> int:
    arguments = options().parse_args()
    before = machine()
    choice = choose(arguments)
    origin = source(arguments.data)
    with models_folder(arguments.models_dir) as root:
        if arguments.model:
            shape, folder = real(arguments.model, "encode", root)
        else:
            shape = SHAPES[arguments.shape or ("tiny" if arguments.quick else "bge-small")]
            folder = make(shape, root)
        count = arguments.texts or how_many(
            shape, arguments.mix, gpu=on_gpu(), quick=arguments.quick
        )
        passages = texts(origin, arguments.mix, count)
        lengths = Tokenizer(folder, MAX_LENGTH, cache_dir=root / "cache").encode(passages).lengths
        case = f"{shape.name}, {arguments.mix}"
        mean = float(lengths.mean())
        print(f"{case}: {count} texts of {mean:.0f} tokens from {origin.name}", flush=True)
        figures = compare(
            shape,
            folder,
            passages,
            choice,
            seconds=60 * (0.2 if arguments.quick else arguments.minutes),
            rounds=arguments.rounds or (2 if arguments.quick else 5),
        )
    rows = speed_rows(case, shape, figures, lengths, "passages") + cosine_rows(case, figures)
    report(
        rows,
        file=arguments.json,
        packages=("FlagEmbedding", "sentence-transformers"),
        at_start=before,
        notes=notes(
            figures,
            choice,
            texts=count,
            source=origin.name,
            mean_tokens=mean,
            shape=shape.name,
            weights="trained" if arguments.model else "random",
            isa=arguments.isa or "all of the CPU's",
        ),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
