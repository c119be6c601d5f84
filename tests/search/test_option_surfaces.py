"""An option of a search is declared once and offered everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from retrieval.search.options import SearchArguments, SearchOptions, Surface, search_options

ROOT = Path(__file__).resolve().parents[2]

ADD_AND_LOOK = '''
"""Declares one more option before anything else is imported, and looks where it is offered."""
import json, sys
from dataclasses import dataclass
from typing import Literal

import retrieval.search.options as options

@dataclass(frozen=True, slots=True, kw_only=True)
class More(options.SearchOptions):
    colour: Literal["red", "blue"] | None = options._option(None, "The colour of hits.")

options.SearchOptions = More

from fastapi import FastAPI
from typer.testing import CliRunner

from app.protocols.mcp.tools import TOOLS
from app.answering.answer import Answering
from app.protocols.native import answer, search
from app.protocols.openai import chat
from app.settings.settings import Settings
from hashing_encoder import HashingEncoder
from retrieval.cli.main import build
from retrieval.errors import InvalidInput
from retrieval.index.bm25 import bm25_info
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.integrations.haystack import TwoStageHaystackRetriever
from retrieval.integrations.langchain import TwoStageLangChainRetriever
from retrieval.integrations.llama_index import TwoStageLlamaIndexRetriever
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Manifest, SplitterInfo

encoder = HashingEncoder()
manifest = Manifest("docs", encoder.info, SplitterInfo(64, 0), bm25_info("en"))
retriever = TwoStageRetriever(encoder, EmbeddedIndex.create(sys.argv[1], "docs", manifest))

def checks(call):
    """Whether the call takes the option, and refuses a value that is not one of it."""
    call("red")
    try:
        call("green")
    except InvalidInput as error:
        return "colour is 'green', expected one of red, blue" in str(error)
    return False

service = FastAPI()
service.include_router(search.router(None, Settings()))
answering = Answering(None, Settings(), None)
service.include_router(answer.router(answering))
service.include_router(chat.router(answering))
bodies = service.openapi()["components"]["schemas"]

def described(properties):
    return properties["colour"]["description"] == "The colour of hits."

print(json.dumps({
    "search": checks(lambda value: retriever.search("a", colour=value)),
    "search_batch": checks(lambda value: retriever.search_batch(["a"], colour=value)),
    "command line": all(
        text in CliRunner().invoke(
            build(["search"]), ["search", "--help"], env={"COLUMNS": "200"}
        ).output
        for text in ("--colour", "auto|red|blue", "The colour of hits.")
    ),
    "/v1/search": described(bodies["SearchRequest"]["properties"]),
    "/v1/search/batch": described(bodies["BatchRequest"]["properties"]),
    "/v1/answer": described(bodies["AnswerRequest"]["properties"]),
    "/v1/chat/completions": described(bodies["RetrievalFields"]["properties"]),
    "MCP": described(TOOLS[0].input.model_json_schema()["properties"]),
    "LangChain": checks(lambda value: TwoStageLangChainRetriever(retriever, colour=value))
    and "colour" in TwoStageLangChainRetriever.model_fields,
    "LlamaIndex": checks(lambda value: TwoStageLlamaIndexRetriever(retriever, colour=value)),
    "Haystack": checks(
        lambda value: TwoStageHaystackRetriever(retriever, search_options={"colour": value})
    ),
}))
'''


def test_an_option_that_is_declared_is_offered_everywhere(tmp_path: Path) -> None:
    for framework in ("fastapi", "langchain_core", "llama_index", "haystack"):
        pytest.importorskip(framework)
    command = [sys.executable, "-c", ADD_AND_LOOK, str(tmp_path / "store")]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    offered = json.loads(done.stdout.splitlines()[-1])
    assert [surface for surface, found in offered.items() if not found] == []


def test_the_arguments_that_editors_show_are_the_options() -> None:
    arguments = {
        name: hint.__forward_arg__ for name, hint in SearchArguments.__annotations__.items()
    }
    assert arguments == {one.name: one.type for one in fields(SearchOptions)}


@pytest.mark.parametrize(
    ("surface", "hidden"),
    [
        ("python", set()),
        ("cli", {"fetch"}),
        ("http", {"fetch"}),
        ("answers", {"fetch", "offset"}),
        (
            "mcp",
            {
                "fetch", "candidates", "rerank", "read", "blend", "blend_weight", "budget_ms",
                "cascade", "diversity", "min_score", "fusion", "refine", "exact",
            },
        ),
    ],
)  # fmt: skip
def test_what_a_surface_leaves_out_is_reviewed(surface: Surface, hidden: set[str]) -> None:
    every = {option.name for option in search_options()}
    assert every - {option.name for option in search_options(surface)} == hidden


def test_defaults_of_surfaces_are_values_of_the_options() -> None:
    for surface in ("python", "cli", "http", "answers", "mcp"):
        for option in search_options(surface):
            option.check(option.default)
            if option.most is not None:
                assert option.default is None or option.default <= option.most
