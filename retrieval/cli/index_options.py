"""Options of the commands that index: how files are read, words made, a collection laid out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

STORAGE_PANEL = "Storage (of a new collection)"
FILES = "Files"
MACHINES = "Many machines (extra `scale`)"

READING: dict[str, Any] = {
    "encoding": Annotated[
        str | None,
        typer.Option(help="Encoding of text files that are not UTF-8.", rich_help_panel=FILES),
    ],
    "text_column": Annotated[
        list[str] | None,
        typer.Option(
            help="Column of a table that is the text; can be repeated.", rich_help_panel=FILES
        ),
    ],
    "title_column": Annotated[
        str | None, typer.Option(help="Column that is the title.", rich_help_panel=FILES)
    ],
    "id_column": Annotated[
        str | None, typer.Option(help="Column that is the id.", rich_help_panel=FILES)
    ],
    "all_files": Annotated[
        bool | None,
        typer.Option(
            "--all-files",
            help="Read hidden files, packages, builds and what .gitignore names, too.",
            rich_help_panel=FILES,
        ),
    ],
    "follow_links": Annotated[
        bool | None,
        typer.Option(
            "--follow-links",
            help="Follow links that lead out of the folder.",
            rich_help_panel=FILES,
        ),
    ],
}
WORDS: dict[str, Any] = {
    "fold_accents": Annotated[
        bool | None,
        typer.Option(
            "--fold-accents/--keep-accents",
            help="Whether BM25 finds café by cafe. Default: as readers of the language do.",
        ),
    ],
}
SPLITTING: dict[str, Any] = {
    "max_tokens": Annotated[
        int | None, typer.Option(help="Longest passage in the encoder's tokens.", min=8)
    ],
    "overlap_tokens": Annotated[
        int | None, typer.Option(help="Tokens repeated from passage to passage.", min=0)
    ],
}
STORAGE: dict[str, Any] = {
    "quantization": Annotated[
        Literal["none", "int8", "binary"] | None,
        typer.Option(
            metavar="FORMAT",
            help="none, int8 or binary: search short vectors, re-score with whole ones.",
            rich_help_panel=STORAGE_PANEL,
        ),
    ],
    "on_disk": Annotated[
        bool | None,
        typer.Option(
            "--on-disk/--in-memory",
            help="Read vectors and graph from disk as needed: less memory, slower.",
            rich_help_panel=STORAGE_PANEL,
        ),
    ],
}
LAYOUT: dict[str, Any] = {
    "field": Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KIND",
            help="Index metadata for filters, as keyword, number or datetime; can be repeated. "
            "Default: chosen from the first documents.",
            rich_help_panel=STORAGE_PANEL,
        ),
    ],
    "lexical": Annotated[
        bool | None,
        typer.Option(
            "--lexical",
            help="Store the encoder's term weights too (bge-m3).",
            rich_help_panel=STORAGE_PANEL,
        ),
    ],
    "token_vectors": Annotated[
        bool | None,
        typer.Option(
            "--token-vectors",
            help="Store a vector for each token too, for MaxSim.",
            rich_help_panel=STORAGE_PANEL,
        ),
    ],
}
SERVER: dict[str, Any] = {
    "shards": Annotated[
        int | None,
        typer.Option(
            help="Shards of a collection on a server.", min=1, rich_help_panel=STORAGE_PANEL
        ),
    ],
    "replicas": Annotated[
        int | None,
        typer.Option(help="Copies of each shard.", min=1, rich_help_panel=STORAGE_PANEL),
    ],
    "write_consistency": Annotated[
        int | None,
        typer.Option(
            help="Copies that must confirm a write.",
            min=1,
            rich_help_panel=STORAGE_PANEL,
        ),
    ],
}
CLUSTER: dict[str, Any] = {
    "ray_address": Annotated[
        str | None,
        typer.Option(
            help="Address of the cluster; auto for this machine's.", rich_help_panel=MACHINES
        ),
    ],
    "workers": Annotated[
        int | None,
        typer.Option(help="How many encoders run at a time.", min=1, rich_help_panel=MACHINES),
    ],
    "gpus_per_worker": Annotated[
        float | None,
        typer.Option(help="GPUs of each encoder; 0.5 is half of one.", rich_help_panel=MACHINES),
    ],
    "cpus_per_worker": Annotated[
        float | None, typer.Option(help="CPUs of each encoder.", rich_help_panel=MACHINES)
    ],
}


def how_read(given: dict[str, Any]) -> dict[str, Any]:
    """The options of reading as `ingest` takes them."""
    columns = {
        key: value for key in ("text", "title", "id") if (value := given.pop(f"{key}_column", None))
    }
    return {**given, **({"columns": columns} if columns else {})}
