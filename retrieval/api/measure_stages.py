"""How good an encoder and a reranker are on judged sets: dense, hybrid, both stages together.

What tuning needs after every change of a model: the same searches as `retrieval eval` makes, a
value for each query, and nothing computed twice that has not changed.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from retrieval._validate import one_of, whole_number
from retrieval.api.ingest import ingest
from retrieval.api.lent_models import EncoderLike, RerankerLike, loaded_encoder, loaded_reranker
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.coverage import missing_documents
from retrieval.evaluation.evaluate import evaluate
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.metrics import display_name
from retrieval.evaluation.resolve import resolve
from retrieval.index.store import Store
from retrieval.ingestion import IngestProgressCallback
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import BlendChoice, Encoder, Index, Reranker, Tuning

System: TypeAlias = Literal["dense", "hybrid", "two-stage"]
"""What is searched with: the encoder alone; with BM25; and that re-ranked."""

SYSTEMS: tuple[System, ...] = get_args(System)

_SCRATCH = "measured"


@dataclass(frozen=True, slots=True)
class JudgedCollection:
    """Judged queries of a collection, searched in the version that an encoder built.

    Attributes:
        judged: its queries; what they name is looked up in the collection.
        store: where it is.
        versions: by the engine's own names, such as docs@v1, one for each encoder.
        tenant: whose passages, where the collection keeps tenants apart.
    """

    judged: JudgedQueries
    store: Store
    versions: tuple[str, ...]
    tenant: str | None = None

    @contextlib.contextmanager
    def index(self, encoder: Encoder) -> Iterator[Index]:
        """The version that an encoder built, until the block ends.

        Raises:
            InvalidInput: none of them.
        """
        for version in self.versions:
            if self.store.manifest(version).encoder.fingerprint == encoder.info.fingerprint:
                with self.store.open(version) as index:
                    yield index
                return
        raise InvalidInput(
            f"{encoder.info.model} built none of {', '.join(self.versions)}",
            fix="Build a version with it (retrieval reindex --encoder), and name that, too.",
        )

    def first(self, most: int | None) -> JudgedCollection:
        """Only the first so many queries; all for None."""
        return replace(self, judged=self.judged.first(most))


@dataclass(frozen=True, slots=True)
class StageScores:
    """One system on one judged set.

    Attributes:
        set, split: the judged set's name, and which of its judgements.
        system: what was searched with.
        encoder, reranker: their names; None where the system has no reranker.
        measure: by its display name.
        per_query: query id → value.
        notices: what is to be said of the searches, in sentences.
    """

    set: str
    split: str
    system: System
    encoder: str
    reranker: str | None
    measure: str
    per_query: Mapping[str, float] = field(repr=False)
    notices: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The mean over the queries."""
        return statistics.fmean(self.per_query.values())


def measure_stages(
    sets: Sequence[JudgedQueries | JudgedCollection],
    *,
    encoder: EncoderLike,
    reranker: RerankerLike | Sequence[RerankerLike] | None = None,
    systems: Sequence[System] = SYSTEMS,
    measure: str = "nDCG@10",
    candidates: int = 50,
    blend: BlendChoice = "auto",
    options: Mapping[str, Any] | None = None,
    on_index: IngestProgressCallback | None = None,
    on_search: Callable[[str, int, int], None] | None = None,
) -> list[StageScores]:
    """Index each set's documents with an encoder, search every judged query, and measure.

    Documents are indexed whole, as published figures do, in a temporary collection; sets that
    share their documents share it. The candidates of two-stage are hybrid's.

    Args:
        sets: with their documents, as `load_judgements` reads them; or of a collection, which is
            searched as it is.
        encoder: a name, a folder, or an encoder.
        reranker: likewise; several are each measured on the same candidates. A
            `RememberingReranker` keeps its scores from call to call.
        systems: which of dense, hybrid and two-stage; two-stage needs a reranker.
        measure: see `retrieval.evaluation.metrics`.
        candidates: how many passages are re-ranked.
        blend: how both orders are joined, see `SearchOptions`.
        options: how models run that are loaded here, as for `retrieval.open`.
        on_index, on_search: progress of indexing, and of searching as (set and system, done,
            total).

    Returns:
        In the order of the sets, of each its systems, of two-stage its rerankers.

    Raises:
        CorpusError: a set has no documents, or none of those that are judged relevant.
        InvalidInput: no set or system, two-stage without a reranker, or an unknown measure.
        ModelNotFound, ModelFault: see `retrieval.open`.

    Example:
        >>> from retrieval import Document
        >>> from retrieval.evaluation.judged import JudgedQueries
        >>> documents = [Document("a", "Red apples."), Document("b", "Rain all day.")]
        >>> fruit = JudgedQueries(
        ...     "fruit", "dev", {"1": "fruit"}, {"1": {"a": 1}}, corpus=lambda: iter(documents)
        ... )
        >>> [one] = measure_stages([fruit], encoder="starter", systems=["dense"])
        >>> one.set, one.system, one.measure, one.value
        ('fruit', 'dense', 'nDCG@10', 1.0)
    """
    name = display_name(measure)
    whole_number(candidates, "candidates")
    given = _rerankers(reranker)
    _check(sets, systems, given)
    options = options or {}
    found: dict[tuple[int, System], list[StageScores]] = {}
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(loaded_encoder(encoder, options))
        rerankers = [
            stack.enter_context(loaded_reranker(one, loaded, options))
            for one in (given if "two-stage" in systems else ())
        ]
        for group in _sharing(sets):
            with _indexed(sets[group[0]], loaded, on_index) as index:
                for place in group:
                    judged, tenant = _judged(sets[place])
                    judged = resolve(judged, index, tenant=tenant)
                    notices = missing_documents(judged, index, tenant=tenant)
                    search = _Search(
                        judged, index, loaded, tenant, name, candidates, blend, on_search
                    )
                    for system in systems:
                        own = rerankers if system == "two-stage" else [None]
                        found[place, system] = [search(system, one, notices) for one in own]
    return [one for place in range(len(sets)) for system in systems for one in found[place, system]]


@dataclass(frozen=True, slots=True)
class _Search:
    """The searches of one set."""

    judged: JudgedQueries
    index: Index
    encoder: Encoder
    tenant: str | None
    measure: str
    candidates: int
    blend: BlendChoice
    progress: Callable[[str, int, int], None] | None

    def __call__(
        self, system: System, reranker: Reranker | None, notices: tuple[str, ...]
    ) -> StageScores:
        judged, progress = self.judged, self.progress
        retriever = TwoStageRetriever(self.encoder, self.index, reranker, tenant=self.tenant)
        retriever.tuning = Tuning()
        report = evaluate(
            retriever, judged.queries, judged.qrels, key=judged.key, measures=[self.measure],
            modes=["dense" if system == "dense" else "hybrid"], rerank=reranker is not None,
            candidates=self.candidates, blend=self.blend,
            progress=None if progress is None
            else lambda _, done, total: progress(f"{judged.name}: {system}", done, total),
        )  # fmt: skip
        return StageScores(
            set=judged.name,
            split=judged.split,
            system=system,
            encoder=self.encoder.info.model,
            reranker=None if reranker is None else reranker.info.model,
            measure=self.measure,
            per_query=report.rows[-1].per_query[self.measure],
            notices=(*notices, *report.notices),
        )


def _rerankers(given: RerankerLike | Sequence[RerankerLike] | None) -> list[RerankerLike]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]


def _judged(given: JudgedQueries | JudgedCollection) -> tuple[JudgedQueries, str | None]:
    """The queries of a set, and the tenant that they are of."""
    if isinstance(given, JudgedCollection):
        return given.judged, given.tenant
    return given, None


def _check(
    sets: Sequence[JudgedQueries | JudgedCollection],
    systems: Sequence[System],
    rerankers: Sequence[RerankerLike],
) -> None:
    if not sets or not systems:
        raise InvalidInput(
            "nothing was given to be measured: no judged set, or no system",
            fix=f"Give a judged set, and systems among {', '.join(SYSTEMS)}.",
        )
    for system in systems:
        one_of(system, System, "the system")
    if "two-stage" in systems and not rerankers:
        raise InvalidInput(
            "two-stage was to be measured, and no reranker was given",
            fix="Give a reranker, or leave two-stage out of the systems.",
        )
    for given in sets:
        one, _ = _judged(given)
        if one is given and one.documents() is None:
            raise CorpusError(
                f"the judged queries of {one.name!r} come without documents",
                fix="Give a set that has them, such as a BEIR folder with its corpus.jsonl.",
            )
        if not one.queries:
            raise InvalidInput(f"{one.name!r} has no judged query", fix="Choose another split.")


def _sharing(sets: Sequence[JudgedQueries | JudgedCollection]) -> list[list[int]]:
    """Places of sets, those together that have the same file of documents."""
    groups: dict[Path | int, list[int]] = {}
    for place, one in enumerate(sets):
        file = one.corpus_file if isinstance(one, JudgedQueries) else None
        groups.setdefault(file or place, []).append(place)
    return list(groups.values())


@contextlib.contextmanager
def _indexed(
    judged: JudgedQueries | JudgedCollection,
    encoder: Encoder,
    progress: IngestProgressCallback | None,
) -> Iterator[Index]:
    """The documents in a collection of their own, which is deleted after the block; or the
    collection that was judged."""
    if isinstance(judged, JudgedCollection):
        with judged.index(encoder) as index:
            yield index
        return
    source = judged.corpus_file or judged.documents()
    assert source is not None  # checked before
    with tempfile.TemporaryDirectory(prefix="retrieval-measure-") as folder:
        ingest(
            source, _SCRATCH, store=folder, encoder=encoder, max_tokens=None, progress=progress
        )  # fmt: skip
        with Store(folder).open(_SCRATCH) as index:
            yield index
