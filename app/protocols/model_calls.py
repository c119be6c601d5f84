"""What embedding and re-ranking formats share: checks of texts, models, usage, truncation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.backend.backend import Backend
from app.errors import BadRequest
from app.protocols.json_limits import plain_text
from app.types import ModelInfo


class PromptUsage(BaseModel):
    """Tokens of all texts, instructions and special tokens included, before truncation."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, tokens: NDArray[np.int64]) -> PromptUsage:
        """The usage of a request from the tokens of each of its texts, int64 (n,)."""
        total = int(tokens.sum())
        return cls(prompt_tokens=total, total_tokens=total)


class TruncatedText(BaseModel):
    """A text that is longer than the model reads (of a pair: with the query); its end is lost."""

    index: int = Field(description="which of the texts, from 0")
    tokens: int = Field(description="how long it is; in re-ranking together with the query")
    max_tokens: int | None = Field(description="how many of them the model reads")


def truncated_texts(
    truncated: NDArray[np.bool_], tokens: NDArray[np.int64], info: ModelInfo | None
) -> list[TruncatedText]:
    """The truncated ones of n texts.

    Args:
        truncated: bool (n,).
        tokens: int64 (n,), before truncation.
        info: of the model that read them, where it is known.
    """
    most = None if info is None else info.max_length
    return [
        TruncatedText(index=at, tokens=int(tokens[at]), max_tokens=most)
        for at in np.flatnonzero(truncated).tolist()
    ]


def model_info(
    backend: Backend, kind: Literal["encoder", "reranker"], name: str | None
) -> ModelInfo | None:
    """The model of that name, for None the default one; None where there is no such model."""
    known = (info for info in backend.models.infos() if info.kind == kind)
    return next(
        (info for info in known if (info.default if name is None else name in info.names)), None
    )


def check_text(name: str, text: str, *, may_be_blank: bool = False) -> None:
    """Refuse what no model can read.

    Raises:
        BadRequest: the text is blank, holds a NUL character or half of a surrogate pair.
    """
    if not (may_be_blank or text.strip()):
        raise BadRequest(
            f"{name} is blank, expected a text of at least one word", fix="Send the text itself."
        )
    try:
        plain_text(text)
    except ValueError as error:
        raise BadRequest(
            f"{name} {error}",
            fix="Send whole Unicode characters: in JSON, both escapes of a surrogate pair.",
        ) from None


def json_of_numbers(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response that may hold NumPy arrays; nothing in it is validated one by one.

    A batch of vectors holds hundreds of thousands of numbers.
    """
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),
        media_type="application/json",
        headers=headers,
    )
