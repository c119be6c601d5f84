"""`retrieval documents`: what a collection holds, by the ids that judgements can name."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.cli.options import ApiKey, Collection, Store, Tenant
from retrieval.cli.output import open_store, write, write_json_line

if TYPE_CHECKING:
    from retrieval.maintenance.documents import StoredDocument


def documents(
    collection: Collection = "docs",
    like: Annotated[
        str, typer.Option(metavar="TEXT", help="Only those with it in their id, source or title.")
    ] = "",
    headings: Annotated[
        bool, typer.Option("--headings", help="Show the pages and headings of each, too.")
    ] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N.", min=1)] = None,
    store: Store = ".retrieval",
    tenant: Tenant = None,
    api_key: ApiKey = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON each (stable, see docs/json.md).")
    ] = False,
) -> None:
    """List a collection's documents by id: what judgements may name, and filters ask for."""
    from retrieval.maintenance.documents import stored_documents

    found = 0
    with open_store(store, api_key).open(collection) as index:
        for one in islice(stored_documents(index, like=like, tenant=tenant), limit):
            found += 1
            if as_json:
                write_json_line(_as_dict(one, headings))
            else:
                write(_as_text(one, headings))
    if not found:
        which = f" with {like!r} in id, source or title" if like else ""
        typer.echo(f"No documents{which} in {collection}.", err=True)


def _as_dict(one: StoredDocument, headings: bool) -> dict[str, object]:
    told: dict[str, object] = {
        "id": one.id, "source": one.source, "title": one.title, "passages": one.passages,
        "pages": one.pages or None,
    }  # fmt: skip
    return {**told, "parts": list(one.parts)} if headings else told


def _as_text(one: StoredDocument, headings: bool) -> str:
    from retrieval.cli.render import plain

    counts = "1 passage" if one.passages == 1 else f"{one.passages:,} passages"
    if one.pages:
        counts += ", 1 page" if one.pages == 1 else f", {one.pages:,} pages"
    lines = ["  ".join(plain(part) for part in (one.id, one.title, f"({counts})") if part)]
    if one.source not in ("", one.id):
        lines.append(f"    from {plain(one.source)}")
    if headings:
        named = one.parts[one.pages :]
        if one.pages:
            lines.append("    #page=1" + (f" to #page={one.pages}" if one.pages > 1 else ""))
        lines += [f"    #{plain(heading)}" for heading in named]
    return "\n".join(lines)
