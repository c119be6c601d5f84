"""What the peers make of the same texts: FlagEmbedding, sentence-transformers, plain transformers.

Each is used as its documentation says, on the CPU in float32. Their warnings, and those of what
they import (deprecations, most of them), are theirs to mend: they are silenced here, around their
calls, and nowhere else.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest

from retrieval.types import FloatArray

Pairs: TypeAlias = Sequence[tuple[str, str]]


@contextmanager
def silenced() -> Iterator[None]:
    """No warnings from the peers and their dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def flag_embedding() -> Any:
    """The module FlagEmbedding; the test skips where it is not installed. It takes 6 s, once."""
    with silenced():
        return pytest.importorskip("FlagEmbedding", reason="FlagEmbedding is not installed")


def flag_model(path: Path, *, pooling: str, max_length: int, instruction: str | None = None) -> Any:
    """`FlagModel` in float32 on the CPU."""
    module = flag_embedding()
    with silenced():
        return module.FlagModel(
            str(path),
            pooling_method=pooling,
            query_instruction_for_retrieval=instruction,
            use_fp16=False,
            devices="cpu",
            batch_size=16,  # all texts of a batch are padded to its longest
            query_max_length=max_length,
            passage_max_length=max_length,
        )


def flag_vectors(model: Any, texts: Sequence[str], kind: Literal["query", "passage"]) -> FloatArray:
    """float32 (n, dimension) of a `FlagModel`."""
    encode = model.encode_queries if kind == "query" else model.encode_corpus
    with silenced():
        vectors: FloatArray = encode(list(texts))
    return vectors


def flag_rows(model: Any, texts: Sequence[str], instruction: str = "") -> list[list[int]]:
    """The token ids that `FlagModel` gives its network, of each text, seen at the network.

    One text a call: the order of its batches is its own.
    """
    seen: list[list[int]] = []

    def look(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        seen.append(inputs["input_ids"][0].tolist())

    hook = model.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        rows = []
        for text in texts:
            with silenced():
                model.encode([instruction + text])
            rows.append(seen[-1])
    finally:
        hook.remove()
    return rows


def sentence_vectors(
    path: Path, texts: Sequence[str], *, prompt_name: str | None = None
) -> FloatArray:
    """float32 (n, dimension) of a `SentenceTransformer`, as the folder's own files configure it."""
    with silenced():
        from sentence_transformers import SentenceTransformer

        vectors: FloatArray = SentenceTransformer(str(path), device="cpu").encode(
            list(texts),
            prompt_name=prompt_name,
            show_progress_bar=False,
            normalize_embeddings=True,
        )
    return vectors


def langchain_vectors(
    path: Path, texts: Sequence[str], kind: Literal["query", "passage"], instruction: str
) -> FloatArray:
    """float32 (n, dimension): the calls of LangChain's `HuggingFaceBgeEmbeddings`, without it.

    As its documentation makes one, `encode_kwargs={"normalize_embeddings": True}`: a query goes
    alone, passages together, and line breaks become blanks first. benchmarks/bge.py asks the class
    itself, where langchain-community is installed.
    """
    with silenced():
        from sentence_transformers import SentenceTransformer

        client = SentenceTransformer(str(path), device="cpu")
        encode = functools.partial(
            client.encode, show_progress_bar=False, normalize_embeddings=True
        )
        plain = [text.replace("\n", " ") for text in texts]
        vectors: FloatArray
        if kind == "query":
            vectors = np.stack([encode(instruction + text) for text in plain])
        else:
            vectors = encode(plain)
    return vectors


def plain_vectors(path: Path, texts: Sequence[str], *, pooling: str, max_length: int) -> FloatArray:
    """float32 (n, dimension), not normalised: transformers alone, a text at a time, no padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state[0]
            pooled = {"cls": hidden[0], "mean": hidden.mean(0), "last": hidden[-1]}[pooling]
            rows.append(pooled.numpy())
    return np.stack(rows)


# --- pairs ----------------------------------------------------------------------------------


def flag_reranker(path: Path, max_length: int) -> Any:
    """`FlagReranker` in float32 on the CPU."""
    module = flag_embedding()
    with silenced():
        return module.FlagReranker(
            str(path), use_fp16=False, devices="cpu", batch_size=16, max_length=max_length
        )


def flag_scores(reranker: Any, pairs: Pairs, *, normalize: bool = False) -> FloatArray:
    """float64 (n,): raw logits of a `FlagReranker`, or with its sigmoid."""
    with silenced():
        scores = reranker.compute_score([list(pair) for pair in pairs], normalize=normalize)
    return np.asarray(scores)


def flag_pair_rows(reranker: Any, pairs: Pairs) -> list[list[int]]:
    """The token ids that `FlagReranker` gives its network, of each pair, seen at the network."""
    seen: list[list[int]] = []

    def look(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        seen.append(inputs["input_ids"][0].tolist())

    hook = reranker.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        rows = []
        for pair in pairs:
            flag_scores(reranker, [pair])
            rows.append(seen[-1])
    finally:
        hook.remove()
    return rows


def cross_encoder_scores(
    path: Path, pairs: Pairs, max_length: int, *, raw: bool = True
) -> FloatArray:
    """float32 (n,): of sentence-transformers' `CrossEncoder`; raw logits, or as it is by itself.

    By itself it puts one logit through a sigmoid, unless the folder's `config.json` names another
    activation.
    """
    with silenced():
        import torch
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(str(path), device="cpu", max_length=max_length)
        scores: FloatArray = model.predict(
            list(pairs),
            activation_fn=torch.nn.Identity() if raw else None,
            show_progress_bar=False,
        )
    return scores


def pair_ids(tokenizer: Any, pair: tuple[str, str], max_length: int) -> list[int]:
    """Token ids of a pair as `prepare_for_model(…, truncation="only_second")` laid them out.

    That is what FlagReranker calls with transformers 4; transformers 5 has it no more. The query is
    cut to three quarters of `max_length` before.
    """
    query, passage = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair)
    query = query[: max_length * 3 // 4]
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    middle = [end, end] if type(tokenizer).__name__.startswith("XLM") else [end]
    room = max_length - len(query) - len(middle) - 2
    return [start, *query, *middle, *passage[:room], end]


def plain_logits(path: Path, pairs: Pairs, max_length: int, dtype: str = "float32") -> FloatArray:
    """float32 (n,): transformers alone, one pair at a time, no padding, cut as FlagReranker does.

    In its own attention ("eager") in float32; as it comes in other number formats.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, attn_implementation="eager", dtype=getattr(torch, dtype)
    ).eval()
    logits = []
    with torch.inference_mode():
        for pair in pairs:
            ids = pair_ids(tokenizer, pair, max_length)
            inputs = {"input_ids": torch.tensor([ids])}
            if model.config.type_vocab_size > 1:
                first = tokenizer(pair[0], add_special_tokens=False)["input_ids"]
                kept = min(len(first), max_length * 3 // 4) + 2
                inputs["token_type_ids"] = torch.tensor([[0] * kept + [1] * (len(ids) - kept)])
            logits.append(model(**inputs).logits.float().item())
    return np.asarray(logits, dtype=np.float32)


class FlagRun:
    """FlagReranker's scores and token ids, and the pairs of which it reads the ids it means.

    With transformers 5 it turns cut ids into text and reads that again, because ids can no longer
    be paired: a word cut in two may come back as other tokens. Those pairs are held to what it does
    with transformers 4, `pair_ids`.
    """

    def __init__(self, path: Path, pairs: Pairs, max_length: int) -> None:
        model = flag_reranker(path, max_length)
        self.scores = flag_scores(model, pairs)
        self.rows = flag_pair_rows(model, pairs)
        self.meant = [pair_ids(model.tokenizer, pair, max_length) for pair in pairs]
        self.same = np.array([a == b for a, b in zip(self.rows, self.meant, strict=True)])
