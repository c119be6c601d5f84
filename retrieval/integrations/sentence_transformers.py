"""The two models in the shape of sentence-transformers: `encode`, and `predict` and `rank`.

    from retrieval.integrations.sentence_transformers import EncoderLikeST, RerankerLikeST

    model = EncoderLikeST("starter")
    queries = model.encode_query(["how are invoices approved?"])
    passages = model.encode_document(["Invoices are approved by two people."])
    print(model.similarity(queries, passages))

For code that expects a `SentenceTransformer` or a `CrossEncoder` and only calls it. It needs
nothing beside this library. Arguments that would change nothing here (`batch_size`, `device`)
are taken and ignored: batches are made by tokens, and the device is chosen when a model is loaded.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import query_text, whole_number
from retrieval.errors import InvalidInput
from retrieval.integrations._models import encoder_from, reranker_from
from retrieval.models.tensors import as_tensor
from retrieval.search.retriever import close_models
from retrieval.types import Encoder, FloatArray, ProgressCallback, Reranker
from retrieval.types.closing import Closing

if TYPE_CHECKING:
    import torch

__all__ = ["EncoderLikeST", "RerankerLikeST"]

_PASSAGES = ("document", "passage", "corpus")


class EncoderLikeST(Closing):
    """A bi-encoder that is called like a `SentenceTransformer`.

    Args:
        model: a name, folder or hub id, "starter", "auto", or an encoder such as
            `retriever.encoder`.
        options: how a named model runs (`device`, `threads`, `query_instruction` …), see
            `retrieval.BiEncoder`.

    Raises:
        InvalidInput: a model or an option that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    similarity_fn_name = "cosine"

    def __init__(self, model: str | Encoder = "auto", **options: Any) -> None:
        self.encoder, self.notices, self._owned = encoder_from(model, options)
        self.prompts = {"query": self.encoder.info.query_instruction}
        self.prompts |= dict.fromkeys(_PASSAGES, self.encoder.info.passage_instruction)

    @property
    def max_seq_length(self) -> int:
        """The longest text in tokens, special tokens included."""
        return self.encoder.info.max_length

    def encode(
        self,
        inputs: str | Sequence[str] | NDArray[Any] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding"] = "sentence_embedding",
        precision: Literal["float32"] = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        sentences: str | Sequence[str] | None = None,
    ) -> Any:
        """Vectors: float32 (n, dimension), or (dimension,) for one text.

        Args:
            inputs: one text or several. `sentences` is the older name.
            prompt_name: "query" or "document" (also "passage", "corpus"); None is a passage.
            prompt: put before each text as it is, instead of the model's own; for models that
                put nothing before passages.
            show_progress_bar: True shows one on stderr.
            convert_to_numpy: False gives a list of tensors.
            convert_to_tensor: one torch tensor on the CPU.
            normalize_embeddings: to length 1; most models' vectors are that anyhow.
            truncate_dim: how many numbers of each vector are kept, the first ones.

        Raises:
            InvalidInput: what is given cannot be encoded, or cannot be done here.
        """
        del batch_size, device
        if output_value != "sentence_embedding" or precision != "float32":
            raise InvalidInput(
                f"output_value={output_value!r} and precision={precision!r} were given; only "
                "'sentence_embedding' and 'float32' are given out here",
                fix="Leave them out.",
            )
        given = sentences if inputs is None else inputs
        single = isinstance(given, str)
        texts: list[str] = (
            [given] if isinstance(given, str) else list(given if given is not None else ())
        )
        vectors = self._encoded(texts, prompt_name, prompt, _shown(show_progress_bar))
        if truncate_dim is not None:
            vectors = vectors[:, : whole_number(truncate_dim, "truncate_dim")]
        if normalize_embeddings:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return _converted(vectors, single, convert_to_numpy, convert_to_tensor)

    def encode_query(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """`encode`, with the instruction for queries."""
        return self.encode(inputs, **{"prompt_name": "query", **options})

    def encode_document(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """`encode`, as passages."""
        return self.encode(inputs, **{"prompt_name": "document", **options})

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosine of each of n vectors with each of m: a float32 tensor (n, m)."""
        first, second = _unit(embeddings1), _unit(embeddings2)
        return as_tensor(first @ second.T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosine of each of n vectors with the one at its place: a float32 tensor (n,)."""
        first, second = _unit(embeddings1), _unit(embeddings2)
        if first.shape != second.shape:
            raise InvalidInput(
                f"vectors of the shapes {first.shape} and {second.shape} cannot be paired",
                fix="Give as many of one as of the other.",
            )
        return as_tensor(np.sum(first * second, axis=1))

    def get_sentence_embedding_dimension(self) -> int:
        """How many numbers a vector has."""
        return self.encoder.info.dimension

    get_embedding_dimension = get_sentence_embedding_dimension

    def get_max_seq_length(self) -> int:
        """The longest text in tokens, special tokens included."""
        return self.max_seq_length

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        if self._owned:
            close_models([self.encoder])

    def _encoded(
        self,
        texts: list[str],
        prompt_name: str | None,
        prompt: str | None,
        progress: ProgressCallback | None,
    ) -> FloatArray:
        if not texts:
            return np.zeros((0, self.encoder.info.dimension), dtype=np.float32)
        if prompt is not None:
            own = self.encoder.info.passage_instruction
            if own and prompt != own:
                raise InvalidInput(
                    f"the prompt {prompt!r} was given, but {self.encoder.info.model} puts "
                    f"{own!r} before passages itself",
                    fix="Leave prompt out, or load the model with that passage_instruction.",
                )
            before = "" if own else prompt
            texts = [before + _checked(text) for text in texts]
        elif prompt_name == "query":
            return self.encoder.encode_queries(texts, progress=progress)
        elif prompt_name is not None and prompt_name not in _PASSAGES:
            raise InvalidInput(
                f"there is no prompt {prompt_name!r}; expected one of {', '.join(self.prompts)}",
                fix="Name one of them, or give the prompt itself.",
            )
        return self.encoder.encode_passages(texts, progress=progress).vectors


class RerankerLikeST(Closing):
    """A reranker that is called like a `CrossEncoder`.

    Args:
        model: a name, folder or hub id, "starter", "auto", or a reranker such as
            `retriever.reranker`.
        options: how a named model runs (`device`, `threads`, `long_passages` …), see
            `retrieval.CrossEncoderReranker`.

    Raises:
        InvalidInput: a model or an option that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    num_labels = 1

    def __init__(self, model: str | Reranker = "auto", **options: Any) -> None:
        self.reranker, self.notices, self._owned = reranker_from(model, options)

    @property
    def max_length(self) -> int:
        """The longest pair in tokens, special tokens included."""
        return self.reranker.info.max_length

    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        *,
        sentences: Sequence[Any] | None = None,
    ) -> Any:
        """Scores of (query, passage) pairs: float32 (n,), or one number for one pair.

        Relevance from 0 to 1, as a `CrossEncoder` with one label gives it; with `activation_fn`,
        what that makes of the raw scores (a tensor), as in `activation_fn=torch.nn.Identity()`.

        Raises:
            InvalidInput: something else than pairs of texts.
        """
        del batch_size, device, apply_softmax  # one label has nothing to be normalised over
        given = sentences if inputs is None else inputs
        pairs: list[Any] = list(given if given is not None else ())
        single = len(pairs) == 2 and all(isinstance(text, str) for text in pairs)
        if single:
            pairs = [tuple(pairs)]
        values = self._scores([tuple(pair) for pair in pairs], activation_fn, show_progress_bar)
        return _converted(values, single, convert_to_numpy, convert_to_tensor)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        device: Any = None,
    ) -> list[dict[str, Any]]:
        """`corpus_id`, `score` and, if asked for, `text` of each document, best first.

        The order is that of the raw scores; equal ones stay as they were given.

        Raises:
            InvalidQuery: the query is empty.
        """
        del batch_size, device
        query_text(query)
        pairs = [(query, document) for document in documents]
        if not pairs:
            return []
        raw = self.reranker.score(pairs, progress=_shown(show_progress_bar)).values
        values = self._activated(raw, activation_fn)
        limit = None if top_k is None else whole_number(top_k, "top_k")
        order = np.argsort(-raw, kind="stable")[:limit].tolist()
        return [
            {"corpus_id": at, "score": float(values[at])}
            | ({"text": documents[at]} if return_documents else {})
            for at in order
        ]

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        if self._owned:
            close_models([self.reranker])

    def _scores(
        self,
        pairs: list[tuple[str, str]],
        activation_fn: Callable[[Any], Any] | None,
        show_progress_bar: bool | None,
    ) -> FloatArray:
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        raw = self.reranker.score(pairs, progress=_shown(show_progress_bar)).values
        return self._activated(raw, activation_fn)

    def _activated(
        self, raw: NDArray[np.float64], activation_fn: Callable[[Any], Any] | None
    ) -> FloatArray:
        if activation_fn is None:
            return self.reranker.relevance(raw).astype(np.float32)
        scores = as_tensor(raw.astype(np.float32))
        return np.asarray(activation_fn(scores), dtype=np.float32)


def _converted(
    values: FloatArray, single: bool, convert_to_numpy: bool, convert_to_tensor: bool
) -> Any:
    """Values in the form that was asked for; the one that there is for a single text or pair."""
    found: Any = np.ascontiguousarray(values, dtype=np.float32)
    if convert_to_tensor or not convert_to_numpy:
        found = as_tensor(found)
        if not convert_to_tensor:
            found = list(found)
    return found[0] if single else found


def _unit(embeddings: Any) -> FloatArray:
    """float32 (n, dimension), rows of length 1."""
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu().float().numpy()
    rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidInput(
            f"a text is a {type(text).__name__}, expected a str", fix="Give texts only."
        )
    return text


def _shown(show: bool | None) -> ProgressCallback | None:
    """A line on stderr that counts, or None."""
    if not show:
        return None
    lock = threading.Lock()

    def progress(done: int, total: int) -> None:
        with lock:
            sys.stderr.write(f"\r{done:,} of {total:,}" + ("\n" if done >= total else ""))

    return progress
