"""Each case of cases.toml as a test of pytest's: `pytest docs/samples/cases`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import retrieval
from retrieval.api.case_file import load_cases
from retrieval.api.run_cases import run_case
from retrieval.evaluation.cases import Case

FOLDER = Path(__file__).parent
CASES = load_cases(FOLDER / "cases.toml")


@pytest.fixture(scope="module")
def retriever(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[retrieval.TwoStageRetriever]:
    store = tmp_path_factory.mktemp("store")
    retrieval.ingest(FOLDER / "handbook", "handbook", store=str(store))
    with retrieval.open("handbook", store=str(store)) as opened:
        yield opened


@pytest.mark.parametrize("case", CASES.cases, ids=lambda case: case.name)
def test_retrieval(case: Case, retriever: retrieval.TwoStageRetriever) -> None:
    outcome = run_case(case, retriever)
    assert outcome.state == "ok", outcome.why
