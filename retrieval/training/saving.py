"""What stands beside the weights of a model that was trained or merged here: files and card.

    write_encoder_files(folder, spec)     # or write_reranker_files
    write_card(folder, spec, title="…", summary="…", sections=[("Data", table(head, rows))])

With them a folder loads as it is in this library, sentence-transformers, FlagEmbedding and
transformers, and gives the same scores in each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from retrieval._files import atomic_write
from retrieval.models.model_folder import read_folder
from retrieval.models.sentence_files import write_encoder_files, write_reranker_files
from retrieval.types import ModelSpec, ResolvedModel

__all__ = ["base_models", "table", "write_card", "write_encoder_files", "write_reranker_files"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def write_card(
    folder: Path,
    spec: ModelSpec,
    *,
    title: str,
    summary: str,
    sections: Sequence[tuple[str, str]] = (),
    base_models: Sequence[str] = (),
    licence: str = "",
) -> None:
    """Write README.md, the model card: what it is, how it is run, how it was made.

    Args:
        folder: the model's folder; an older card there is replaced.
        spec: what the model takes; its settings become a table and lines of code.
        title: of the card; summary: one paragraph below it.
        sections: (heading, Markdown) in order: data, settings, results.
        base_models: hub ids that it was made from, see `base_models`.
        licence: as in the registry ("MIT"); empty where it is not known.

    Raises:
        OSError: the file cannot be written.
    """
    header = {"library_name": "sentence-transformers", "language": list(spec.languages)}
    is_encoder = spec.kind == "encoder"
    header["pipeline_tag"] = "sentence-similarity" if is_encoder else "text-ranking"
    header["license"] = licence.lower()
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items() if value]
    if base_models:
        lines += ["base_model:", *(f"- {name}" for name in base_models)]
    parts = [
        "\n".join(["---", *lines, "---"]),
        f"# {title}",
        summary,
        "## Use",
        table(("setting", "value"), _settings(spec)),
        _usage(spec),
    ]
    for heading, text in sections:
        parts += [f"## {heading}", text]
    with atomic_write(folder / "README.md") as file:
        file.write("\n\n".join(part.strip("\n") for part in parts) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; what cells hold is shown as it is, bars and line breaks included."""
    ruled = [tuple(head), ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in ruled)


def base_models(models: Sequence[ResolvedModel]) -> list[str]:
    """The hub ids behind models: their own names, or of folders what these say they come from."""
    names: dict[str, None] = {}
    for model in models:
        name = model.spec.name.partition("@")[0]
        own = [name] if _HUB_ID.fullmatch(name) else read_folder(model.path).base_models
        names |= dict.fromkeys(one for one in own if _HUB_ID.fullmatch(one))
    return list(names)


def _settings(spec: ModelSpec) -> list[tuple[str, object]]:
    length = "not limited" if spec.max_length is None else f"{spec.max_length} tokens"
    if spec.kind == "reranker":
        return [("length of a pair", length), ("score", "the raw logit")]
    return [
        ("dimension", spec.dimension),
        ("pooling", spec.pooling),
        ("vectors", "normalised" if spec.normalize else "not normalised: dot product"),
        ("length of a text", length),
        ("before queries", _quoted(spec.query_instruction)),
        ("before passages", _quoted(spec.passage_instruction)),
    ]


def _usage(spec: ModelSpec) -> str:
    if spec.kind == "reranker":
        lines = [
            "from sentence_transformers import CrossEncoder",
            "",
            'CrossEncoder("THIS_FOLDER").predict([("a question", "a passage")])',
            "",
            "import retrieval",
            "",
            'retrieval.open("my-collection", reranker="THIS_FOLDER")',
        ]
    else:
        lines = [
            "from sentence_transformers import SentenceTransformer",
            "",
            'SentenceTransformer("THIS_FOLDER").encode_query(["a question"])',
            "",
            "import retrieval",
            "",
            'retrieval.ingest("my-documents/", collection="docs", encoder="THIS_FOLDER")',
        ]
    return "\n".join(["```python", *lines, "```"])


def _quoted(text: str) -> str:
    return f"`{text}`" if text else "nothing"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\r\n", "\n").replace("\n", "<br>")
