from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import structlog
from guard_help import guarded
from service_help import running

from app.observability import logging as app_logging
from app.security import api_keys
from app.security.api_keys import KeyRing
from app.settings.settings import Settings


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    names = (None, "app", "retrieval")
    handlers, levels = root.handlers[:], [logging.getLogger(name).level for name in names]
    yield
    root.handlers[:] = handlers
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    # in the module alone: pytest puts its own in place again before a test begins
    stream = io.StringIO()
    monkeypatch.setattr(app_logging, "sys", SimpleNamespace(stderr=stream))
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(stderr: io.StringIO) -> None:
    app_logging.setup(Settings())
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logging.getLogger("app.x").info(
            "two\nlines %s \u2028", "and more", extra={"route": "/v1/é"}
        )
        structlog.get_logger("ignored")
    [line] = lines(stderr)
    assert line.pop("timestamp")
    assert line == {
        "level": "info",
        "event": "two\nlines and more \u2028",
        "logger": "app.x",
        "route": "/v1/é",
        "request_id": "r1",
    }


def test_levels(stderr: io.StringIO) -> None:
    app_logging.setup(Settings(log_level="debug"))
    app_logging.setup(Settings(log_level="info"))
    logging.getLogger("app").debug("no")
    logging.getLogger("retrieval.x").info("yes")
    logging.getLogger("httpx").info("no: it would show what was sent where")
    logging.getLogger("openai").warning("yes")
    assert [line["event"] for line in lines(stderr)] == ["yes", "yes"], "and each once"
    app_logging.setup(Settings(log_level="error"))
    logging.getLogger("app").warning("no")
    assert len(lines(stderr)) == 2


def test_text_for_people(stderr: io.StringIO) -> None:
    app_logging.setup(Settings(log_format="text"))
    try:
        raise ValueError("inside tsr_" + "T" * 43)
    except ValueError:
        hidden_local = "a local variable"
        logging.getLogger("app").exception("failed", extra={"ms": 1.5})
    text = stderr.getvalue()
    assert "failed" in text
    assert "ms=1.5" in text
    assert "ValueError" in text
    assert "T" * 43 not in text
    assert text.count(hidden_local) <= 1, "the line of source, and no values"


SECRETS = [
    "tsr_abcdefghijklmnopqrstuvwxyz0123456789",
    "sk-proj-abcdefghijklmnopqrst",
    'quo"te\\back\nline',
    "plain-password-of-qdrant",
]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_taken_out_wherever_they_stand(
    stderr: io.StringIO, secret: str, form: str
) -> None:
    app_logging.setup(Settings(log_format=form, api_key=secret, llm_key=SECRETS[3]))  # type: ignore[arg-type]
    log = logging.getLogger("app")
    log.info("in the text %s", secret)
    log.info("in a field", extra={"headers": {"x": [secret]}})
    log.info("in a field", extra={"given": secret})
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("in a traceback")
    text = stderr.getvalue()
    assert text.count(app_logging.MASK) >= 4
    for shape in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert shape not in text


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Authorization: Bearer abcdefgh12345", "Authorization: "),
        ("{'x-api-key': 'abcdefgh12345', 'a': 1}", "'a': 1"),
        ("[(b'authorization', b'abcdefgh12345')]", "authorization"),
        ("http://user:abcdefgh12345@host:6333/path", "@host:6333/path"),
        ("basic abcdefgh12345==", "basic "),
        ('api_key="abcdefgh12345"', "api_key="),
    ],
)
def test_what_looks_like_a_secret_is_one(line: str, kept: str) -> None:
    cleaned = app_logging.Redactor().clean(line)
    assert "abcdefgh12345" not in cleaned
    assert kept in cleaned


def test_what_is_none_is_left() -> None:
    for line in ("the basic idea", "bearer of news", "tsr_short", "see https://example.org/a@b"):
        assert app_logging.Redactor(("abc", "")).clean(line) == line


def test_a_service_logs_requests_and_no_secrets_or_questions(
    tmp_path: Path, stderr: io.StringIO
) -> None:
    token, _ = api_keys.create(tmp_path / "keys", "bot")
    model_key, store_key = "a-key-of-a-language-model", "a-key-of-qdrant"
    options = {"llm_key": model_key, "api_key": store_key, "log_level": "debug"}
    app, _ = guarded(keys=KeyRing.load(tmp_path / "keys"), **options)

    @app.get("/v1/leak")
    async def leak() -> None:
        raise RuntimeError(f"cannot log in with {model_key} or {store_key} or {token}")

    app_logging.setup(Settings(**options))  # type: ignore[arg-type]
    basic = base64.b64encode(f"me:{token}".encode()).decode()
    bearer = {"authorization": f"Bearer {token}", "x-request-id": "req-1"}
    bodies = []
    with running(app) as url:
        for path, headers in (
            ("/v1/items/secret-question?q=what+is+asked", bearer),
            ("/v1/leak", bearer),
            ("/v1/who", {"x-api-key": token + "x"}),
            ("/v1/who", {"authorization": f"Bearer {token} {token}"}),
            ("/", {"authorization": f"Basic {basic}"}),
        ):
            bodies.append(httpx.get(f"{url}{path}", headers=headers).text)
        httpx.post(f"{url}/v1/echo", json={"query": "secret-question"}, headers=bearer)
    text = stderr.getvalue()
    for secret in (token, model_key, store_key, basic, token[:20]):
        assert secret not in text
        assert not any(secret in body for body in bodies)
    assert "cannot log in with [secret] or [secret] or [secret]" in text
    assert "secret-question" not in text
    assert "what+is+asked" not in text
    requests = [line for line in lines(stderr) if line["event"] == "request"]
    assert len(requests) == 6
    first = requests[0]
    assert first["route"] == "/v1/items/{item}"
    assert first["status"] == 200
    assert first["request_id"] == "req-1"
    assert first["key_id"] == "bot"
    assert isinstance(first["ms"], float)
    assert first["sent_bytes"] == len(bodies[0])
    assert requests[1]["status"] == 500
    assert requests[2]["key_id"] == "-"
    assert requests[5]["received_bytes"] == len('{"query":"secret-question"}')
