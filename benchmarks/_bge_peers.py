"""The same texts and pairs through every library that reads BGE's folders, in float32.

Each library is used as its documentation shows. Its warnings are its own affair, and silenced.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from _report import Row
from numpy.typing import NDArray

from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION
from retrieval.models.load import load_encoder, load_reranker

Vectors: TypeAlias = Callable[[Sequence[str], bool], NDArray[Any]]
"""(texts, whether they are queries) → (n, dimension)"""

Pairs: TypeAlias = Sequence[tuple[str, str]]
MAX_LENGTH = 512
LANGCHAIN = "langchain_community"


def texts(passages: Sequence[str], queries: Sequence[str]) -> list[str]:
    """What a collection brings, and what is hard to read: nothing, blanks, Chinese, over-long."""
    hard = [
        "",
        " ",
        "\n\n",
        "a",
        "北京是中国的首都，上海是最大的城市。",
        "Größe, naïveté, 🦊",
        "[SEP]",
    ]
    longest = sorted(passages, key=len)[-2:]
    return [*hard, *longest[:1], longest[-1] * 3, *passages[:12], *queries[:20]]


def pairs(passages: Sequence[str], queries: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a collection, among them one in Chinese and one whose passage is cut.

    None is empty: transformers 5 reads a single pair with an empty passage as no pair at all, with
    one [SEP] fewer, and FlagReranker builds on that.
    """
    found = list(zip(queries[:20], passages[:20], strict=False))
    over = " ".join(passages[:4])
    return [*found, ("北京在哪里？", "北京是中国的首都。"), (queries[1], over)]


def agreement(
    encoder: Path, reranker: Path, passages: Sequence[str], queries: Sequence[str]
) -> Iterator[Row]:
    """The least cosine of our vectors and each library's, and the largest difference of scores.

    Args:
        encoder, reranker: folders of the weights.
        passages, queries: of a collection.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()  # the folder has no pooler, and nobody here uses it

    torch.set_num_threads(1)  # nothing is timed, and on a busy machine threads wait for each other
    inputs, tried = texts(passages, queries), pairs(passages, queries)
    ours = load_encoder(encoder, dtype="fp32", device="cpu")
    found = {True: ours.encode_queries(inputs), False: ours.encode_passages(inputs).vectors}
    case = f"vectors, {len(inputs)} texts as queries and as passages"
    for name, make in encoders(encoder).items():
        print(f"  {name}", file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors = make()
            for as_queries, kind in ((True, "queries"), (False, "passages")):
                least = float(cosines(found[as_queries], vectors(inputs, as_queries)).min())
                yield Row(case, name, f"least cosine, {kind}", round(least, 7), "")
    scorer = load_reranker(reranker, dtype="fp32", device="cpu")
    assert scorer is not None
    scores = scorer.score(tried).values
    case = f"scores, {len(tried)} pairs"
    for name, score in rerankers(reranker).items():
        print(f"  {name}", file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw, shown = score(tried)
        for metric, theirs, mine in (
            ("logits, largest difference", raw, scores),
            ("by itself, difference to our score", shown, scores),
            ("by itself, difference to our relevance", shown, scorer.relevance(scores)),
        ):
            yield Row(case, name, metric, round(float(np.abs(theirs - mine).max()), 6), "")


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Of rows, in float64."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(axis=1) / norms)


def encoders(folder: Path) -> dict[str, Callable[[], Vectors]]:
    """The libraries that are installed here."""
    made = {
        "transformers": ("transformers", _plain_vectors),
        "FlagEmbedding FlagModel": ("FlagEmbedding", _flag_vectors),
        "sentence-transformers": ("sentence_transformers", _sentence_vectors),
        "LangChain HuggingFaceBgeEmbeddings": (LANGCHAIN, _langchain_vectors),
    }
    return {
        name: lambda make=make: make(folder)  # type: ignore[misc]
        for name, (package, make) in made.items()
        if importlib.util.find_spec(package) is not None
    }


def _plain_vectors(folder: Path) -> Vectors:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def vectors(texts: Sequence[str], queries: bool) -> NDArray[Any]:
        before = BGE_ENGLISH_INSTRUCTION if queries else ""
        rows = []
        for text in texts:
            ids = tokenizer(
                before + text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            with torch.inference_mode():
                rows.append(model(**ids).last_hidden_state[0, 0].numpy())
        return np.stack(rows)

    return vectors


def _flag_vectors(folder: Path) -> Vectors:
    from FlagEmbedding import FlagModel

    model = FlagModel(
        str(folder),
        query_instruction_for_retrieval=BGE_ENGLISH_INSTRUCTION,
        use_fp16=False,
        devices="cpu",
    )

    def vectors(texts: Sequence[str], queries: bool) -> NDArray[Any]:
        encode = model.encode_queries if queries else model.encode_corpus
        return np.asarray(encode(list(texts), max_length=MAX_LENGTH))

    return vectors


def _sentence_vectors(folder: Path) -> Vectors:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def vectors(texts: Sequence[str], queries: bool) -> NDArray[Any]:
        encode = model.encode_query if queries else model.encode_document
        return np.asarray(encode(list(texts), show_progress_bar=False))

    return vectors


def _langchain_vectors(folder: Path) -> Vectors:
    from langchain_community.embeddings import HuggingFaceBgeEmbeddings

    model = HuggingFaceBgeEmbeddings(
        model_name=str(folder),
        model_kwargs={"device": "cpu"},
        encode_kwargs={"normalize_embeddings": True},
        query_instruction=BGE_ENGLISH_INSTRUCTION,
    )

    def vectors(texts: Sequence[str], queries: bool) -> NDArray[Any]:
        if queries:
            return np.asarray([model.embed_query(text) for text in texts])
        return np.asarray(model.embed_documents(list(texts)))

    return vectors


Scored: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
"""Logits, and what the library gives where nothing is said."""


def rerankers(folder: Path) -> dict[str, Callable[[Pairs], Scored]]:
    """The libraries that are installed here."""
    made = {
        "transformers": ("transformers", _plain_scores),
        "FlagEmbedding FlagReranker": ("FlagEmbedding", _flag_scores),
        "sentence-transformers CrossEncoder": ("sentence_transformers", _cross_encoder_scores),
    }
    return {
        name: lambda pairs, score=score: score(folder, pairs)  # type: ignore[misc]
        for name, (package, score) in made.items()
        if importlib.util.find_spec(package) is not None
    }


def _plain_scores(folder: Path, pairs: Pairs) -> Scored:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    model.eval()
    values = []
    for query, passage in pairs:
        ids = tokenizer(
            query, passage, truncation="only_second", max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.inference_mode():
            values.append(model(**ids).logits.item())
    return np.array(values), np.array(values)


def _flag_scores(folder: Path, pairs: Pairs) -> Scored:
    from FlagEmbedding import FlagReranker

    model = FlagReranker(str(folder), use_fp16=False, devices="cpu", max_length=MAX_LENGTH)
    values = np.asarray(model.compute_score([list(pair) for pair in pairs]))
    return values, values


def _cross_encoder_scores(folder: Path, pairs: Pairs) -> Scored:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", max_length=MAX_LENGTH)
    raw = model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(raw), np.asarray(model.predict(list(pairs), show_progress_bar=False))
