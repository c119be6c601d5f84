"""The endpoint's settings; what it does and does wrong is tested over HTTP in test_answers."""

from __future__ import annotations

import asyncio

import pytest

from app.answering.llm_client import LanguageModel, language_model
from app.settings.settings import Settings
from retrieval.errors import InvalidInput


def test_none_is_configured() -> None:
    assert language_model(Settings()) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"llm_url": "http://127.0.0.1:1/v1"}, "llm_model is not"),
        ({"llm_model": "m"}, "llm_url is not"),
        ({"llm_url": "ftp://u:geheim@x/v1", "llm_model": "m"}, "expected an http or https"),
        ({"llm_url": "127.0.0.1:1/v1", "llm_model": "m"}, "expected an http or https"),
        (
            {
                "llm_url": "http://x/v1",
                "llm_model": "m",
                "llm_context_tokens": 512,
                "llm_answer_tokens": 512,
            },
            "leaves nothing for the prompt",
        ),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        language_model(Settings(**options))  # type: ignore[arg-type]
    assert "geheim" not in str(caught.value)


def test_no_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    model = LanguageModel("http://127.0.0.1:1/v1", "m")
    assert model._client.api_key == "none"
    assert (model.prompt_tokens, model.answer_tokens) == (7168, 1024)
    asyncio.run(model.close())
