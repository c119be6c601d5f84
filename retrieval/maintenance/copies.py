"""What the doctor says of copies that are not the same, and what `--repair` does about them."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.index.copy_check import CopyCheck, Owned
from retrieval.maintenance.findings import Finding

_CHECK = "copies"
_EXAMPLES = 3


def compare_copies(check: CopyCheck, name: str, *, repair: bool) -> Finding:
    """Compare the copies of all passages; with `repair`, make them the same.

    Nothing should write meanwhile: what is written just now is on some copies before others.
    """
    again = "Index the source again, or write what is whole to all: "
    again += f"retrieval doctor {name} --repair"
    unfinished = check.unfinished()
    if repair:
        check.resume()
    differing = sorted(set(check.differing()))
    cut = ""
    if unfinished:
        were = "deletion was" if unfinished == 1 else "deletions were"
        cut = f"; {unfinished:,} {were} cut off" + (" and sent again" if repair else "")
    if not repair and (differing or unfinished):
        what = f"documents that are not the same on all: {_named(differing)}{cut}"
        return Finding(_CHECK, "error", f"{what}{_by_node(check)}", again)
    if not differing:
        # a node that is away is a warning of its own, see the cluster's finding
        answer = " that answer" if None in check.by_node().values() else ""
        return Finding(_CHECK, "ok", f"the same on all{answer}{cut}{_by_node(check)}")
    broken = check.mend(differing)
    left = sorted(set(check.differing()))
    mended = [one for one in differing if one not in set(left)]
    said = f"documents sent to all again: {_named(mended)}{cut}{_by_node(check)}"
    if not left:
        return Finding(_CHECK, "ok", said)
    reason = "no copy has a whole version of them" if broken else "something writes to them"
    fix = "Index the source again, with --prune if they have left it: retrieval index PATH"
    if broken and len(check.by_node()) == 1:
        fix = f"Give the addresses of all nodes (--store http://a:6333,http://b:6333). {fix}"
    return Finding(
        _CHECK,
        "error",
        f"{said}; not the same still: {_named(left)}, as {reason}",
        fix,
    )


def _by_node(check: CopyCheck) -> str:
    counts = check.by_node()
    if len(counts) == 1:
        return "; one address was given: what its node shows of no copy is not seen"
    shown = (f"{url} {'no answer' if n is None else f'{n:,}'}" for url, n in counts.items())
    return f"; passages by node: {', '.join(shown)}"


def _named(documents: Sequence[Owned]) -> str:
    names = [
        repr(one.document_id) + (f" of {one.tenant!r}" if one.tenant else "")
        for one in documents[:_EXAMPLES]
    ]
    more = ", …" if len(documents) > _EXAMPLES else ""
    return f"{len(documents):,} ({', '.join(names)}{more})" if documents else "none"
