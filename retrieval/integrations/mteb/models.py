"""The two models as mteb's `EncoderProtocol` and `CrossEncoderProtocol`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.integrations._models import reranker_from
from retrieval.integrations._search import missing
from retrieval.integrations.sentence_transformers import EncoderLikeST

try:
    from mteb.models import ModelMeta
    from mteb.types import PromptType
except ImportError as error:
    raise missing("mteb", "mteb", "mteb") from error

from retrieval.errors import InvalidInput
from retrieval.models.options import SETTINGS
from retrieval.search.retriever import close_models
from retrieval.types import Encoder, FloatArray, Reranker

if TYPE_CHECKING:
    import torch

__all__ = ["MtebCrossEncoder", "MtebEncoder"]

_TELLING = (*SETTINGS, "dtype", "truncate_dim", "long_passages", "window_overlap")


class MtebEncoder:
    """A bi-encoder as mteb's `EncoderProtocol`.

    Args:
        model_name: a name, folder or hub id, "starter", "auto", or an encoder such as
            `retriever.encoder`.
        revision: not used; the results name the fingerprint of the weights instead.
        device: where a named model runs; None chooses.
        options: how it runs otherwise, see `retrieval.BiEncoder`.

    Raises:
        InvalidInput: a model or an option that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    def __init__(
        self,
        model_name: str | Encoder = "auto",
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        del revision
        self._like = EncoderLikeST(model_name, **_with_device(options, device))
        info = self._like.encoder.info
        self.notices = self._like.notices
        self.mteb_model_meta = _meta(
            info.model,
            info.fingerprint,
            max_tokens=info.max_length,
            embed_dim=info.dimension,
            use_instructions=bool(info.query_instruction or info.passage_instruction),
            similarity_fn_name="cosine",
            model_type=["dense"],
            experiment_kwargs=_experiment(options),
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        prompt_type: PromptType | None = None,
        **about: Any,
    ) -> FloatArray:
        """Vectors of all texts of all batches, float32 (n, dimension).

        Args:
            inputs: batches with the key "text".
            prompt_type: query puts the instruction for queries before each text.
            about: what else mteb says of the task; ignored.
        """
        del about
        kind = "query" if prompt_type == PromptType.query else "document"
        vectors: FloatArray = self._like.encode(_texts(inputs), prompt_name=kind)
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosine of each of n vectors with each of m."""
        return self._like.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosine of each of n vectors with the one at its place."""
        return self._like.similarity_pairwise(embeddings1, embeddings2)

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        self._like.close()


class MtebCrossEncoder:
    """A reranker as mteb's `CrossEncoderProtocol`.

    Args:
        model_name: a name, folder or hub id, "starter", "auto", or a reranker such as
            `retriever.reranker`.
        revision: not used; the results name the fingerprint of the weights instead.
        device: where a named model runs; None chooses.
        options: how it runs otherwise, see `retrieval.CrossEncoderReranker`.

    Raises:
        InvalidInput: a model or an option that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    def __init__(
        self,
        model_name: str | Reranker = "auto",
        revision: str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        del revision
        options = _with_device(options, device)
        self.reranker, self.notices, self._owned = reranker_from(model_name, options)
        info = self.reranker.info
        self.mteb_model_meta = _meta(
            info.model,
            info.fingerprint,
            max_tokens=info.max_length,
            use_instructions=False,
            model_type=["cross-encoder"],
            experiment_kwargs=_experiment(options),
        )

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        **about: Any,
    ) -> NDArray[np.float64]:
        """Raw scores of pairs, float64 (n,); the order follows them.

        Args:
            inputs1: batches of queries with the key "text".
            inputs2: batches of as many documents.
            about: what else mteb says of the task; ignored.

        Raises:
            InvalidInput: not as many of one as of the other.
        """
        del about
        queries, documents = _texts(inputs1), _texts(inputs2)
        if len(queries) != len(documents):
            raise InvalidInput(
                f"{len(queries)} queries and {len(documents)} documents cannot be paired",
                fix="Give as many of one as of the other.",
            )
        if not queries:
            return np.zeros(0)
        return self.reranker.score(list(zip(queries, documents, strict=True))).values

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        if self._owned:
            close_models([self.reranker])


def _texts(batches: Iterable[Mapping[str, Any]]) -> list[str]:
    texts: list[str] = []
    for batch in batches:
        if "text" not in batch:
            raise InvalidInput(
                f"a batch has the keys {sorted(batch)}, expected 'text'",
                fix="Choose tasks whose modality is text.",
            )
        texts += batch["text"]
    return texts


def _with_device(options: dict[str, Any], device: str | None) -> dict[str, Any]:
    return options if device is None else {**options, "device": device}


def _experiment(options: Mapping[str, Any]) -> dict[str, str] | None:
    """What was chosen that changes vectors or scores: mteb keeps such results by themselves."""
    chosen = {name: options[name] for name in _TELLING if options.get(name) is not None}
    return {name: str(value) or "none" for name, value in chosen.items()} or None


def _meta(model: str, fingerprint: str, **known: Any) -> ModelMeta:
    """What results say of a model; mteb wants names with one slash."""
    name = model.partition("@")[0].rstrip("/")
    if name.count("/") != 1 or name.startswith("/"):
        name = "local/" + re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition("/")[2])
    return ModelMeta.create_empty(
        overwrites={"name": name, "revision": fingerprint.removeprefix("sha256:")[:40], **known}
    )
