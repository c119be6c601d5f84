"""How other tools read a folder: their vectors and scores of the same texts, without warnings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.models.resolve import resolve

EXACT: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
QUERIES = ["what is a bi-encoder?", "北京是中国的首都吗", "the lazy dog"]
PASSAGES = [
    "A cross-encoder reads the query and the passage together and gives one score.",
    "上海是中国最大的城市。",
    "def copy(source, target): copies a whole directory tree " * 20,
]
PAIRS = [(query, passage) for query in QUERIES for passage in PASSAGES]


def our_encoder(folder: Path, **settings: Any) -> BiEncoder:
    return BiEncoder(resolve(folder, "encoder", **settings), **EXACT)


def our_reranker(folder: Path, **settings: Any) -> CrossEncoderReranker:
    return CrossEncoderReranker(resolve(folder, "reranker", **settings), **EXACT)


def sentence_vectors(folder: Path, texts: Sequence[str], prompt_name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
        return model.encode(list(texts), prompt_name=prompt_name, show_progress_bar=False)


def sentence_scores(folder: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import CrossEncoder

        return CrossEncoder(str(folder), device="cpu").predict(list(pairs), show_progress_bar=False)


def flag_vectors(folder: Path, texts: Sequence[str], instruction: str, pooling: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from FlagEmbedding import FlagModel

        model = FlagModel(
            str(folder),
            query_instruction_for_retrieval=instruction or None,
            use_fp16=False,
            devices="cpu",
            pooling_method=pooling,
        )
        return model.encode_queries(list(texts), max_length=128)


def flag_scores(folder: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from FlagEmbedding import FlagReranker

        model = FlagReranker(str(folder), use_fp16=False, devices="cpu", max_length=128)
        return np.array(model.compute_score([list(pair) for pair in pairs]))


def transformers_scores(folder: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    first, second = zip(*pairs, strict=True)
    with torch.inference_mode():
        batch = tokenizer(
            list(first), list(second), truncation="only_second", max_length=128, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        return model(**batch).logits.squeeze(-1).float().numpy()
