"""Haystack: one component embeds a query, one documents. Import them from `.haystack`."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from retrieval.integrations._models import check_fingerprint, encoder_from
from retrieval.integrations._search import missing

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing("haystack-ai", "haystack", "haystack") from error

from retrieval.errors import InvalidInput
from retrieval.search.retriever import close_models
from retrieval.types import Encoder


class _LoadedEncoder:
    """An encoder that is loaded when it is first needed."""

    def __init__(
        self, model: str | Encoder, options: dict[str, Any] | None, fingerprint: str | None
    ) -> None:
        self.model = model
        self.options = dict(options or {})
        self.fingerprint = fingerprint
        self._lock = threading.Lock()
        self._loaded: tuple[Encoder, bool] | None = None

    def get(self) -> Encoder:
        with self._lock:
            if self._loaded is None:
                encoder, _, owned = encoder_from(self.model, self.options)
                info = encoder.info
                try:
                    check_fingerprint("encoder", info.model, info.fingerprint, self.fingerprint)
                except InvalidInput:
                    close_models([encoder] if owned else [])
                    raise
                self.fingerprint = info.fingerprint
                self._loaded = encoder, owned
            return self._loaded[0]

    def close(self) -> None:
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded[1]:
            close_models([loaded[0]])

    def saved(self) -> dict[str, Any]:
        return {
            "model": named("model", self.model),
            "model_options": self.options or None,
            "fingerprint": self.fingerprint,
        }


@component
class RetrievalTextEmbedder:
    """Embeds a query, with the instruction that the encoder wants before queries.

    Args:
        model: a name, folder or hub id, "starter", "auto", or an encoder.
        model_options: how a named model runs (`device`, `threads`, `query_instruction` …).
        fingerprint: the weights it must have; saved with the pipeline once they are loaded.
    """

    def __init__(
        self,
        model: str | Encoder = "auto",
        model_options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._encoder = _LoadedEncoder(model, model_options, fingerprint)

    def warm_up(self) -> None:
        """Load the model."""
        self._encoder.get()

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        self._encoder.close()

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """The vector of one query, and which model made it."""
        encoder = self._encoder.get()
        if not isinstance(text, str):
            raise InvalidInput(
                f"text is a {type(text).__name__}, expected a str",
                fix="Embed documents with RetrievalDocumentEmbedder.",
            )
        vector = encoder.encode_queries([text])[0]
        return {"embedding": vector.tolist(), "meta": {"model": encoder.info.model}}

    def to_dict(self) -> dict[str, Any]:
        """What a saved pipeline has of it."""
        saved: dict[str, Any] = default_to_dict(self, **self._encoder.saved())
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RetrievalTextEmbedder:
        """The component from its saved form."""
        made: RetrievalTextEmbedder = default_from_dict(cls, data)
        return made


@component
class RetrievalDocumentEmbedder:
    """Embeds documents, as passages.

    Args:
        model, model_options, fingerprint: see `RetrievalTextEmbedder`.
        meta_fields_to_embed: keys of `meta` whose values are put before the content.
        embedding_separator: between those and the content.
    """

    def __init__(
        self,
        model: str | Encoder = "auto",
        model_options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._encoder = _LoadedEncoder(model, model_options, fingerprint)
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Load the model."""
        self._encoder.get()

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        self._encoder.close()

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Copies of the documents with their vectors.

        `meta` has the model, the tokens read and the ids of documents that were cut off.
        """
        encoder = self._encoder.get()
        if not documents:
            return {"documents": [], "meta": {"model": encoder.info.model}}
        encoding = encoder.encode_passages([self._text(one) for one in documents])
        return {
            "documents": [
                replace(document, embedding=vector.tolist())
                for document, vector in zip(documents, encoding.vectors, strict=True)
            ],
            "meta": {
                "model": encoder.info.model,
                "usage": {"prompt_tokens": int(encoding.tokens.sum())},
                "truncated": [
                    document.id
                    for document, cut in zip(documents, encoding.truncated, strict=True)
                    if cut
                ],
            },
        }

    def _text(self, document: Document) -> str:
        values = (document.meta.get(name) for name in self.meta_fields_to_embed)
        before = [str(value) for value in values if value is not None]
        return self.embedding_separator.join([*before, content_of(document)])

    def to_dict(self) -> dict[str, Any]:
        """What a saved pipeline has of it."""
        saved: dict[str, Any] = default_to_dict(
            self,
            **self._encoder.saved(),
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RetrievalDocumentEmbedder:
        """The component from its saved form."""
        made: RetrievalDocumentEmbedder = default_from_dict(cls, data)
        return made


def content_of(document: Document) -> str:
    """What a document says.

    Raises:
        InvalidInput: it has no text.
    """
    if not isinstance(document.content, str):
        raise InvalidInput(
            f"the document {document.id!r} has no text in `content`",
            fix="Leave it out, or convert it to text first.",
        )
    return document.content


def named(what: str, given: object) -> str:
    """A name, as it can be saved.

    Raises:
        InvalidInput: an object was given instead of a name.
    """
    if isinstance(given, str):
        return given
    raise InvalidInput(
        f"{what} was given as a {type(given).__name__}, which cannot be saved with a pipeline",
        fix=f"Give the {what} by its name.",
    )
