"""The suites of `langchain-tests` that apply, all of their tests, run with the starter models."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from retrieval import TwoStageRetriever

pytest.importorskip("langchain_tests", reason="the package langchain-tests is not installed")

from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from retrieval.integrations.langchain import RetrievalEmbeddings, TwoStageLangChainRetriever

# Some of the suites' tests are coroutines, and none may be overridden; anyio's plugin, which
# comes with httpx, runs them.
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return RetrievalEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "all-MiniLM-L6-v2", "threads": 2}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    encoder: ClassVar[Any]

    @pytest.fixture(autouse=True)
    def _model(self, office: TwoStageRetriever) -> None:
        type(self).encoder = office.encoder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return RetrievalEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.encoder}


class TestRetriever(RetrieversIntegrationTests):
    office: ClassVar[Any]

    @pytest.fixture(autouse=True)
    def _collection(self, office: TwoStageRetriever) -> None:
        type(self).office = office

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return TwoStageLangChainRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"retriever": self.office}

    @property
    def retriever_query_example(self) -> str:
        return "when are travel costs paid back?"

    @property
    def num_results_arg_name(self) -> str:
        return "top_k"
