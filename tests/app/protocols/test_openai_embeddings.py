"""`/v1/embeddings`, through the `openai` package against the whole service with a real model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from protocol_service import INSTRUCTION, QUESTION, instructed_service
from service_help import DOCUMENTS, Service

import retrieval
from app.protocols.openai.embeddings import MOST_TEXTS

TEXTS = ["Travel costs are paid back.", "Soup and bread.", "Grün ist die Hoffnung. 希望"]
# The service may put texts into other batches than the encoder alone does.
CLOSE = 2e-3


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder: retrieval.BiEncoder
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("embeddings")
    with instructed_service(
        folder,
        encoder,
        {"docs": DOCUMENTS[:1]},
        reranker="none",
        model_aliases={"text-embedding-3-small": "encoder"},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors(response: Any) -> Any:
    assert [row.index for row in response.data] == list(range(len(response.data)))
    return np.array([row.embedding for row in response.data], dtype=np.float64)


def post(service: Service, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else None
    return httpx.post(
        f"{service.url}/v1/embeddings",
        json=None if content else body,
        content=content,
        headers={"content-type": "application/json"},
    )


def test_texts_are_passages_by_default(client: openai.OpenAI, encoder: retrieval.BiEncoder) -> None:
    response = client.embeddings.create(input=TEXTS, model=encoder.info.model)
    expected = encoder.encode_passages(TEXTS)
    assert vectors(response) == pytest.approx(expected.vectors, abs=CLOSE)
    assert response.usage.prompt_tokens == int(expected.tokens.sum())
    assert response.usage.total_tokens == response.usage.prompt_tokens
    assert response.object == "list"
    assert response.model == encoder.info.model
    assert response.input_type == "passage"
    assert response.truncated == []


def test_base64_and_numbers_are_the_same_floats(
    client: openai.OpenAI, service: Service, encoder: retrieval.BiEncoder
) -> None:
    model = encoder.info.model
    numbers = client.embeddings.create(input=QUESTION, model=model, encoding_format="float")
    coded = client.embeddings.create(input=QUESTION, model=model)  # the package asks for base64
    raw = post(service, {"input": QUESTION, "encoding_format": "base64"}).json()
    own = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), dtype="<f4")
    assert own.shape == (encoder.info.dimension,)
    assert np.array_equal(np.float32(vectors(coded)[0]), own)
    assert np.array_equal(np.float32(vectors(numbers)[0]), own)
    assert isinstance(post(service, {"input": QUESTION}).json()["data"][0]["embedding"], list)


@pytest.mark.parametrize("input_type", ["query", "search_query"])
def test_questions_get_the_instruction(
    client: openai.OpenAI, encoder: retrieval.BiEncoder, input_type: str
) -> None:
    response = client.embeddings.create(
        input=QUESTION, model=encoder.info.model, extra_body={"input_type": input_type}
    )
    expected = encoder.encode_queries([QUESTION])
    assert vectors(response) == pytest.approx(expected, abs=CLOSE)
    passage = encoder.encode_passages([QUESTION]).vectors
    assert np.abs(passage - expected).max() > 10 * CLOSE, "the instruction must make a difference"
    assert response.input_type == "query"


@pytest.mark.parametrize("input_type", ["passage", "document", "search_document", None])
def test_passages_by_any_of_their_names(
    client: openai.OpenAI, encoder: retrieval.BiEncoder, input_type: str | None
) -> None:
    response = client.embeddings.create(
        input=[QUESTION], model=encoder.info.model, extra_body={"input_type": input_type}
    )
    assert vectors(response) == pytest.approx(
        encoder.encode_passages([QUESTION]).vectors, abs=CLOSE
    )


def test_the_models_name_can_say_what_texts_are(
    client: openai.OpenAI, encoder: retrieval.BiEncoder
) -> None:
    name = f"{encoder.info.model}:query"
    response = client.embeddings.create(input=QUESTION, model=name)
    assert vectors(response) == pytest.approx(encoder.encode_queries([QUESTION]), abs=CLOSE)
    assert response.model == name
    assert response.encoder == encoder.info.model
    passage = client.embeddings.create(input=QUESTION, model=f"{encoder.info.model}:document")
    assert passage.input_type == "passage"
    with pytest.raises(openai.BadRequestError, match="contradict"):
        client.embeddings.create(input="x", model=name, extra_body={"input_type": "passage"})


def test_an_alias_of_the_settings(client: openai.OpenAI, encoder: retrieval.BiEncoder) -> None:
    for name, kind in [("", "passage"), (":query", "query")]:
        model = f"text-embedding-3-small{name}"
        response = client.embeddings.create(input=QUESTION, model=model)
        assert (response.model, response.input_type) == (model, kind)
        assert response.encoder == encoder.info.model


def test_longer_texts_than_the_model_reads_are_told(
    client: openai.OpenAI, encoder: retrieval.BiEncoder
) -> None:
    longest = encoder.info.max_length
    response = client.embeddings.create(
        input=["short", "word " * (longest + 50)], model=encoder.info.model
    )
    assert response.truncated == [
        {"index": 1, "tokens": longest + 52, "max_tokens": longest},
    ]
    assert response.usage.prompt_tokens == longest + 52 + 3


@pytest.mark.parametrize("tokens", [[101, 2054, 102], [[101, 2054, 102], [101, 102]]])
def test_tokens_of_another_tokenizer_are_refused(
    client: openai.OpenAI, encoder: retrieval.BiEncoder, tokens: Any
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(input=tokens, model=encoder.info.model)
    assert "check_embedding_ctx_length=False" in raised.value.message
    assert "token ids" in raised.value.message
    assert raised.value.code == "bad_request"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "empty text"),
        (["good", ""], r"input\[1\] is an empty text"),
        ([], "empty list"),
        (["x"] * (MOST_TEXTS + 1), "at most 2,048"),
        ("a\0b", "NUL"),
    ],
)
def test_what_cannot_be_embedded_is_told(
    client: openai.OpenAI, encoder: retrieval.BiEncoder, given: Any, says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.embeddings.create(input=given, model=encoder.info.model)


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": "\\ud800"}',
        b'{"input": ["ok", "\\udfff x"]}',
        b'{"input": "   "}',
        b'{"input": 5.5}',
        b'{"input": null}',
        b'{"input": [["a"]]}',
        b'{"input": [1, "a"]}',
        b'{"input": {"a": 1}}',
        b'{"input": [true, false]}',
        b"{}",
        b"[]",
        b"",
        b"null",
        b'"text"',
        b'{"input": "x", "encoding_format": "int8"}',
        b'{"input": "x", "dimensions": 0}',
        b'{"input": "x", "dimensions": NaN}',
        b'{"input": "x", "dimensions": 1e999}',
        b'{"input": "x", "input_type": "clustering"}',
        b'{"input": "x", "model": "\\ud800"}',
        b'{"input": "x", "model": "a\\u0000b"}',
        b'{"input": "x", "instruction": "\\ud800"}',
        b'{"input": "x", "instruction": "a\\u0000b"}',
        b'{"input": "x", "model": 7}',
        b'{"input": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
)
def test_malformed_bodies_are_the_clients_fault(service: Service, body: bytes) -> None:
    response = post(service, body)
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")


def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(input="x", model="text-embedding-9")
    assert raised.value.code == "model_not_found"
    assert "text-embedding-9" in raised.value.message


def test_dimensions_that_the_model_was_not_trained_for(
    client: openai.OpenAI, encoder: retrieval.BiEncoder
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(input="x", model=encoder.info.model, dimensions=64)
    assert raised.value.status_code in (400, 422)
    assert "64" in raised.value.message
    whole = client.embeddings.create(
        input="x", model=encoder.info.model, dimensions=encoder.info.dimension
    )
    assert vectors(whole).shape == (1, encoder.info.dimension)


def test_unknown_fields_and_the_user_are_ignored(service: Service) -> None:
    body = {"input": "x", "user": "someone", "truncate": "END", "model": None}
    assert post(service, body).status_code == 200


def test_many_at_once_from_the_async_client(service: Service, encoder: retrieval.BiEncoder) -> None:
    model = encoder.info.model

    async def ask() -> Any:
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(
                *(
                    client.embeddings.create(input=[f"text {at}", TEXTS[0]], model=model)
                    for at in range(8)
                )
            )

    answers = asyncio.run(ask())
    expected = encoder.encode_passages([f"text {at}" for at in range(8)]).vectors
    assert np.array([vectors(one)[0] for one in answers]) == pytest.approx(expected, abs=CLOSE)
    alike = np.array([vectors(one)[1] for one in answers])
    assert alike == pytest.approx(np.repeat(alike[:1], 8, axis=0), abs=CLOSE)


def test_a_free_instruction_stands_before_each_text(
    client: openai.OpenAI, encoder: retrieval.BiEncoder
) -> None:
    response = client.embeddings.create(
        input=[QUESTION, TEXTS[0]],
        model=encoder.info.model,
        extra_body={"instruction": INSTRUCTION, "input_type": "query"},
    )
    expected = encoder.encode_queries([QUESTION, TEXTS[0]])
    assert vectors(response) == pytest.approx(expected, abs=CLOSE)
    assert response.input_type == "query"


@pytest.mark.parametrize("known", ["passage: ", None])
def test_a_free_instruction_where_the_encoder_has_its_own(
    service: Service, monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    models = service.backend.models
    infos = [replace(info, passage_instruction=known) for info in models.infos()]
    monkeypatch.setattr(models, "infos", lambda: infos)
    refused = post(service, {"input": QUESTION, "instruction": "Find: "})
    assert refused.status_code == 400
    assert "instruction" in refused.json()["error"]["message"]
