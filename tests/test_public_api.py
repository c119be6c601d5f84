"""The public names are a reviewed list; importing them is cheap and pulls in nothing heavy."""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys

import pytest

import retrieval

PUBLIC = {
    "BiEncoder",
    "CrossEncoderReranker",
    "Document",
    "FollowingRetriever",
    "Hit",
    "IngestProgress",
    "IngestReport",
    "LateInteractionReranker",
    "Passage",
    "RetrievalError",
    "SearchOptions",
    "SearchResult",
    "Store",
    "TwoStageRetriever",
    "__version__",
    "evaluate",
    "ingest",
    "open",
    "parse_where",
    "read_documents",
    "result_as_dict",
}


def test_the_public_names_are_these_and_few() -> None:
    assert set(retrieval.__all__) == PUBLIC
    assert len(PUBLIC) <= 21


def test_every_public_name_can_be_had() -> None:
    for name in retrieval.__all__:
        assert getattr(retrieval, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        retrieval.nonsense  # noqa: B018


def test_import_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, retrieval\n"
        "heavy = {'torch', 'transformers', 'openvino', 'qdrant_client', 'qdrant_edge', 'gradio',"
        " 'FlagEmbedding', 'sentence_transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_searching_needs_no_package_that_is_only_for_other_work() -> None:
    """The command line's help must not wait for models to be imported."""
    code = (
        "import sys, retrieval.cli.main\n"
        "heavy = {'torch', 'transformers', 'openvino', 'gradio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_costs_less_than_300_ms() -> None:
    code = "import time; a = time.perf_counter(); import retrieval; print(time.perf_counter() - a)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    assert statistics.median(seconds) < 0.3


def test_errors_are_drawn_as_they_are() -> None:
    """The tree in the docstring of errors.py is the tree of the classes."""
    errors = importlib.import_module("retrieval.errors")
    depth_of: dict[str, int] = {}
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        name = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        word = name.split()[0] if name.split() else ""
        if hasattr(errors, word):
            depth_of[word] = (len(name) - len(name.lstrip())) // 4
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.RetrievalError)
    }
    assert set(depth_of) == set(classes)
    for name, value in classes.items():
        parents = [base for base in value.__mro__ if issubclass(base, errors.RetrievalError)]
        assert len(parents) == depth_of[name], f"{name} is drawn at the wrong depth"
