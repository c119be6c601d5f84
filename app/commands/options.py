"""The options that the app's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODELS = "Models"
"""The part of the help that holds the options of models."""

Store = Annotated[
    str | None, typer.Option(help="Folder of the store, or URL of a Qdrant server. [.retrieval]")
]
Reranker = Annotated[
    str | None,
    typer.Option(
        help="Second stage: auto, none, a model's name or folder. [auto]",
        rich_help_panel=MODELS,
    ),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [7860]")]
Public = Annotated[
    bool, typer.Option("--public", help="Allow an address that other machines can reach.")
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps. [auto]", rich_help_panel=MODELS)
]
Devices = Annotated[
    str | None,
    typer.Option(help="Several, joined by commas: cuda:0,cuda:1.", rich_help_panel=MODELS),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto, packed, openvino or transformers. [auto]",
        rich_help_panel=MODELS,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="auto, fp32, bf16, fp16 or, on CPUs, int8. [auto]",
        rich_help_panel=MODELS,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="CPU threads of a model.", rich_help_panel=MODELS),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Each text alone: the same bits whatever else is in the batch; slower.",
        rich_help_panel=MODELS,
    ),
]
LongPassages = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Passages over a cross-encoder's length: truncate, windows (the best one counts), "
        "or error. [truncate]",
        rich_help_panel=MODELS,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(help="Milliseconds for re-ranking at first; the page can change it. [no limit]"),
]
Browser = Annotated[bool, typer.Option(help="Open the page in a browser where there is a desktop.")]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Settings in TOML. [$RETRIEVAL_CONFIG, or retrieval.toml if it exists]"
    ),
]
KeysFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="API keys, made by `retrieval keys create`.")
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Refuse every change to collections.")]
