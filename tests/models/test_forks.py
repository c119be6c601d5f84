"""A process that was forked after a model was loaded is told so within a second."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import retrieval
from retrieval import BiEncoder, CrossEncoderReranker, Document, LateInteractionReranker
from retrieval.errors import RetrievalError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork"),
    # that threads are running is what is tested
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
SECONDS = 10.0


def in_a_fork(call: Callable[[], object]) -> str:
    """What a call says in a child: its error, or "done"; fails where it does not end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = "done"
            try:
                call()
            except RetrievalError as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    until = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            pytest.fail(f"it does not end within {SECONDS:g} s")
        time.sleep(0.01)
    with os.fdopen(reading) as file:
        return file.read()


def test_encoders_and_rerankers_say_so(tiny_bert_encoder: Path, tiny_bert_reranker: Path) -> None:
    with BiEncoder(str(tiny_bert_encoder)) as encoder:
        reranker = CrossEncoderReranker(str(tiny_bert_reranker))
        late = LateInteractionReranker(encoder)
        calls: list[Callable[[], object]] = [
            lambda: encoder.encode_queries(["a"]),
            lambda: encoder.encode_passages(["a"]),
            lambda: encoder.encode_tokens(["a"], "query"),
            lambda: reranker.score([("a", "b")]),
            lambda: late.score([(f"{time.monotonic()}", "b")]),  # what is cached works
        ]
        for call in calls:
            call()
            said = in_a_fork(call)
            assert said.startswith("ModelFault: "), said
            assert "a fork of it, cannot run it" in said
            assert "worker_process_init" in said
            call()
        reranker.close()


def test_a_retriever_says_so(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    documents = [Document("a", "The gate."), Document("b", "Soup.")]
    retrieval.ingest(documents, "c", store=tmp_path, encoder=str(tiny_bert_encoder))
    with retrieval.open("c", store=tmp_path, reranker="none") as retriever:
        for call in (
            lambda: retriever.search("gate"),
            lambda: retriever.search("gate", mode="sparse"),
            lambda: retriever.search_batch(["gate", "soup"]),
            lambda: retriever.count(),
            lambda: list(retriever.index.passages()),
            lambda: retriever.index.delete_documents(["a"]),
        ):
            said = in_a_fork(call)
            assert said.startswith(("ModelFault", "StoreFault")), said
        assert in_a_fork(retriever.close) == "done"
        assert retriever.search("gate").hits
