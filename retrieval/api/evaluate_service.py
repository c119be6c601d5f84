"""Evaluate a running service of ours (`retrieval serve`) over HTTP: what its clients see."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from retrieval.api.evaluation_origin import origin
from retrieval.api.given_runs import Places, Runs
from retrieval.api.service_client import ServiceClient
from retrieval.evaluation.evaluate import EvaluationReport, check_settings, evaluate
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.metrics import DEFAULT_MEASURES, display_name
from retrieval.evaluation.resolve import names
from retrieval.types import BlendChoice, Fusion, Mode, Passage, Reading

_WHOLE_ORDER = 100
"""Hits that are asked for where a measure has no cutoff."""


def evaluate_service(
    folder: str | os.PathLike[str],
    service: str,
    *,
    split: str = "test",
    qrels: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    tenant: str | None = None,
    api_key: str | None = None,
    modes: Sequence[Mode] = ("dense", "sparse", "hybrid"),
    rerank: bool = True,
    read: Reading | None = None,
    blend: BlendChoice | None = None,
    blend_weight: float | None = None,
    fusion: Fusion | None = None,
    candidates: int | None = None,
    budget_ms: float | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    beside: Places | None = None,
    limit: int | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
) -> EvaluationReport:
    """Measure the searches of a running service, one request at a time, as a client sends them.

    A search asks for as many hits as the largest cutoff of the measures; a service re-ranks at
    least as many as it is asked for, so `recall@100` measures a slower search than `nDCG@10`. With
    `rerank` each query is asked twice, without and with the second stage, and `ms_per_query` is
    the median wall time of the request.

    Args:
        folder, split, qrels: judged queries, see `load_judgements`. What a file of one's own
            names as relevant is compared with each hit (`retrieval.evaluation.resolve.names`): a
            service does not list its documents, so nothing can be looked up before.
        service: its address, such as http://127.0.0.1:7860.
        collection, tenant: of the service; None takes its default.
        api_key: of the service, where it has keys.
        modes, rerank: what is measured.
        read, blend, blend_weight, fusion, candidates, budget_ms: sent with each search where given.
        measures, beside, limit, on_search: as `evaluate_folder`.

    Raises:
        InvalidInput: no service answers there, it is another one, or it refuses the key or an
            option.
        CollectionNotFound: the service has no such collection.
        CorpusError: a file is missing or bad, see `load_judgements`.
        Fault: the service failed, or had no time for us.
    """
    parameters = {name: value for name, value in locals().items() if name != "on_search"}
    check_settings(modes, measures, without_modes=bool(beside))
    judged = load_judgements(folder, split, qrels=qrels).first(limit)
    others = Runs.read({}, beside or {})
    notices = others.notices(judged)
    depth = _depth(measures)
    fields = {
        "collection": collection, "tenant": tenant, "read": read, "blend": blend,
        "blend_weight": blend_weight, "candidates": candidates, "budget_ms": budget_ms,
        "top_k": depth,
    }  # fmt: skip
    key = _NamedParts(judged)
    with ServiceClient(service, api_key, fields, fusion) as searcher:
        report = evaluate(
            searcher, judged.queries, judged.qrels, modes=modes, rerank=rerank, depth=depth,
            candidates=candidates or 1, measures=measures, batch_size=1, progress=on_search,
            key=key, runs=others.given(None, {}),
        )  # fmt: skip
        about = searcher.about()
    report = replace(report, candidates=searcher.reranked, depth=depth)
    return replace(
        report,
        notices=(*notices, *report.notices, *key.notices()),
        origin=origin(
            judged, {**parameters, "top_k": depth, "about": about}, [*(beside or {}).values()]
        ),
    )


def _depth(measures: Sequence[str]) -> int:
    """The largest cutoff of the measures."""
    cutoffs = [re.search(r"@(\d+)$", display_name(name)) for name in measures]
    return max(_WHOLE_ORDER if found is None else int(found[1]) for found in cutoffs)


class _NamedParts:
    """What a hit counts as where nothing could be looked up: what was typed for it, if anything."""

    def __init__(self, judged: JudgedQueries) -> None:
        self._judged = judged
        self._met: set[str] = set()

    def __call__(self, query_id: str, passage: Passage) -> str:
        if not self._judged.typed:
            return self._judged.key(query_id, passage)
        grades = self._judged.qrels[query_id]
        meant = [one for one in grades if names(one, passage)]
        self._met.update(meant)
        if meant:
            return max(meant, key=lambda one: grades[one])
        return f"{passage.document_id}#passage={passage.position}"

    def notices(self) -> tuple[str, ...]:
        """On what was typed and never met."""
        missing = [one for one in self._judged.typed if one not in self._met]
        if not missing:
            return ()
        return (
            f"{len(missing):,} of {len(self._judged.typed):,} names of relevant documents were "
            f"never met among the hits (such as {missing[0]!r}, {self._judged.typed[missing[0]]}). "
            "A service does not list its documents, so whether it has them is not known.",
        )
