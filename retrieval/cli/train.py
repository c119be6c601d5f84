"""`retrieval train …`: data, encoder, reranker."""

from __future__ import annotations

import typer

from retrieval.cli import train_data, train_gate

train = typer.Typer(name="train", help="Tune either stage on one's own data.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Give the command line its group `train`."""
    train_data.add_to(train)
    train_gate.add_to(train)
    app.add_typer(train)
