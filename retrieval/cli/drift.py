"""`retrieval drift`: whether searches are still like those a collection was calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.options import ApiKey, AsJson, Store
from retrieval.cli.output import open_store, write, write_json
from retrieval.errors import InvalidInput

LABEL_AGAIN = 3


def drift(
    collection: Annotated[str, typer.Argument(help="Name of the collection.")],
    log: Annotated[
        Path, typer.Option(metavar="FILE", help="The service's log of searches (search_log).")
    ],
    store: Store = ".retrieval",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Only from this date or time on.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 where it is time to label again.")
    ] = False,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Compare today's searches with those at calibration, and say when to label again."""
    from retrieval.evaluation.drift import drift_of, read_search_log

    calibration = open_store(store, api_key).manifest(collection).tuning.calibration
    if calibration is None or calibration.reference is None:
        raise InvalidInput(
            f"the collection {collection!r} has no calibration to compare with",
            fix=f"Calibrate it first: retrieval calibrate JUDGEMENTS --collection {collection}.",
        )
    report = drift_of(calibration.reference, *read_search_log(log, collection, since=since))
    if as_json:
        write_json(report.as_dict())
    else:
        write(report.as_text())
    if check and report.label_again:
        raise typer.Exit(LABEL_AGAIN)
