"""Which files of a model folder hold its weights and its tokeniser."""

from __future__ import annotations

from pathlib import Path

from retrieval.errors import ModelFault, ModelNotFound
from retrieval.models.model_folder import read_json

# Tokenisers come as one file, or as a vocabulary of one of these kinds.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def weight_files(transformer: Path) -> list[Path]:
    """The weight files transformers would load: safetensors first, shards in order.

    Raises:
        ModelNotFound: there are none, or a shard is missing.
        ModelFault: an index is damaged, or a file is only a git-lfs pointer.
    """
    for name in _SINGLE_WEIGHTS:
        if (transformer / name).is_file():
            return [_real_weights(transformer / name)]
        index = read_json(transformer / f"{name}.index.json")
        if index is not None:
            names = sorted(set(map(str, index.get("weight_map", {}).values())))
            missing = [shard for shard in names if not (transformer / shard).is_file()]
            if missing or not names:
                raise ModelNotFound(
                    f"the weights in {transformer} are incomplete: "
                    f"{', '.join(missing) or 'no shards are listed'} of {len(names)} missing",
                    fix="Fetch the model again; an interrupted download leaves this behind.",
                )
            return [_real_weights(transformer / shard) for shard in names]
    raise ModelNotFound(
        f"the folder {transformer} has no weights: neither {' nor '.join(_SINGLE_WEIGHTS)}",
        fix="Give a folder saved by transformers or sentence-transformers, weights included.",
    )


def has_tokenizer(transformer: Path) -> bool:
    """Whether a tokeniser's vocabulary is there."""
    return any((transformer / name).is_file() for name in TOKENIZER_FILES)


def _real_weights(path: Path) -> Path:
    with path.open("rb") as stream:
        if stream.read(32).startswith(b"version https://git-lfs"):
            raise ModelFault(
                f"{path} is only a git-lfs pointer, not the weights themselves",
                fix="Run `git lfs pull` in that folder.",
            )
    return path
