"""The work of a comparison: indexes made, settings searched and timed."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from retrieval.api.compare_cost import (
    LEAST_TIMED,
    TIMED,
    TIMED_SECONDS,
    CorpusSample,
    sample_corpus,
)
from retrieval.api.compare_models import ComparedModels
from retrieval.api.ingest import ingest
from retrieval.errors import CorpusError
from retrieval.evaluation.comparison import SettingResult
from retrieval.evaluation.evaluate import by_key
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.metrics import measure_per_query
from retrieval.evaluation.resolve import resolve
from retrieval.evaluation.settings import Setting
from retrieval.index.store import Store
from retrieval.ingestion import IngestProgressCallback
from retrieval.readers.read import read
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Document, Index, Manifest, Tuning

_AT_ONCE = 16
_SCRATCH = "compare"


@dataclass(slots=True)
class ComparisonJob:
    """What is measured, on what."""

    judged: JudgedQueries
    models: ComparedModels
    measure: str
    depth: int
    language: str
    corpus: str | os.PathLike[str] | None
    manifest: Manifest | None
    store: Store | None
    tenant: str | None
    on_index: IngestProgressCallback | None
    on_search: Callable[[str, int, int], None] | None
    notices: tuple[str, ...] = ()

    def documents(self) -> Iterable[Document]:
        """The corpus, read anew."""
        if self.corpus is not None:
            return read(self.corpus)
        documents = self.judged.documents()
        assert documents is not None  # checked before
        return documents

    def sample(self) -> CorpusSample:
        """A look at what is searched."""
        if self.store is None or self.manifest is None:
            return sample_corpus(self.documents())
        with self.store.open(self.manifest.collection) as index:
            passages = islice(index.passages(tenant=self.tenant), 200)
            return CorpusSample(index.count(tenant=self.tenant), tuple(p.content for p in passages))

    def results(self, settings: Mapping[Setting, str]) -> Iterator[SettingResult]:
        """Each setting measured; those that share an index come one after the other."""
        before, resources = None, contextlib.ExitStack()
        with resources:
            for setting, name in settings.items():
                if _index_of(setting) != before:
                    before = _index_of(setting)
                    resources.close()
                    self.notices = ()
                    index = resources.enter_context(self.index(setting))
                    judged = resolve(self.judged, index, tenant=self.tenant)
                    self._check_known(judged, index)
                yield self._measured(setting, name, judged, index)

    @contextlib.contextmanager
    def index(self, setting: Setting) -> Iterator[Index]:
        """The collection, or the corpus indexed for a setting until the block ends."""
        if self.store is not None and self.manifest is not None:
            with self.store.open(self.manifest.collection) as index:
                yield index
            return
        length = setting.passages
        with tempfile.TemporaryDirectory(prefix="retrieval-compare-") as folder:
            report = ingest(
                self.documents(), _SCRATCH, store=folder, encoder=self.models.encoder(setting),
                max_tokens=length.max_tokens, overlap_tokens=length.overlap,
                lexical=self.models.stores_terms(setting.encoder), language=self.language,
                progress=self.on_index,
            )  # fmt: skip
            self.notices = report.notices
            if report.truncated_passages:
                self.notices += (
                    f"{setting.encoder} read only the beginning of {report.truncated_passages:,} "
                    f"of {report.passages:,} passages ({length}).",
                )
            with Store(folder).open(_SCRATCH) as index:
                yield index

    def _measured(
        self, setting: Setting, name: str, judged: JudgedQueries, index: Index
    ) -> SettingResult:
        encoder = self.models.encoder(setting)
        encoder.instruction = self.models.instruction(setting)
        encoder.remembers = True
        reranker = self.models.reranker(setting)
        options = _search_options(setting)
        retriever = self._retriever(encoder, index, reranker)
        run: dict[str, list[str]] = {}
        cut = 0 if reranker is None else reranker.cut
        ids = list(judged.queries)
        for start in range(0, len(ids), _AT_ONCE):
            if self.on_search is not None:
                self.on_search(name, start, len(ids))
            batch = ids[start : start + _AT_ONCE]
            results = retriever.search_batch(
                [judged.queries[id_] for id_ in batch],
                top_k=self.depth,
                fetch=self.depth,
                **options,
            )
            for id_, result in zip(batch, results, strict=True):
                run[id_] = list(by_key(id_, result.hits, judged.key))
        ranks = {id_: {key: 1.0 / at for at, key in enumerate(own, 1)} for id_, own in run.items()}
        values = measure_per_query(judged.qrels, ranks, [self.measure])[self.measure]
        notices = self.notices
        if reranker is not None and reranker.cut > cut:
            notices += (
                f"{name}: the reranker read only the beginning of {reranker.cut - cut:,} passages, "
                f"which with their queries are over its {reranker.info.max_length:,} tokens.",
            )
        encoder.remembers = False
        alone = self._retriever(encoder, index, self.models.plain_reranker(setting))
        return SettingResult(
            name=name, setting=setting, values={id_: values[id_] for id_ in ids}, run=run,
            milliseconds=_times(alone, list(judged.queries.values()), options),
            model_bytes=self.models.model_bytes(setting), index_bytes=index.status().disk_bytes,
            notices=notices,
        )  # fmt: skip

    def _retriever(self, encoder: Any, index: Index, reranker: Any) -> TwoStageRetriever:
        retriever = TwoStageRetriever(encoder, index, reranker, tenant=self.tenant)
        retriever.tuning = Tuning()  # a setting says all; nothing is left to the collection
        return retriever

    def _check_known(self, judged: JudgedQueries, index: Index) -> None:
        """Judgements of documents that are not there: all of them is a mistake."""
        wanted = {
            key
            for query, grades in judged.qrels.items()
            for key, grade in grades.items()
            if grade > 0 and key not in judged.parts.get(query, {})
        }
        known = index.document_states(sorted(wanted), tenant=self.tenant) if wanted else {}
        missing = sorted(wanted - known.keys())
        if not missing:
            return
        what = "the corpus" if self.store is None else f"the collection {index.collection!r}"
        if len(missing) == len(wanted):
            raise CorpusError(
                f"none of the {len(wanted):,} documents that are judged relevant is in {what}; the "
                f"first is {missing[0]!r}",
                fix="Give the documents that were judged: their ids must be those of the "
                "judgements.",
            )
        self.notices += (
            f"{len(missing):,} of {len(wanted):,} documents that are judged relevant are not in "
            f"{what}, such as {missing[0]!r}: no setting can find them.",
        )


def _search_options(setting: Setting) -> dict[str, Any]:
    options: dict[str, Any] = {"mode": setting.mode, "rerank": setting.reranker is not None}
    if setting.mode == "hybrid":
        options["fusion"] = setting.fusion
    if setting.reranker is not None:
        # said, so that no pace of this machine cuts them
        options |= {"candidates": setting.candidates, "read": setting.read, "blend": setting.blend}
        options["blend_weight"] = setting.blend_weight
    return options


def _times(
    retriever: TwoStageRetriever, queries: Sequence[str], options: Mapping[str, Any]
) -> tuple[float, ...]:
    """Milliseconds of searches alone, of some queries; the first one warms up.

    Slow ones are fewer: their times vary less, by their share, and cost more.
    """
    drawn = random.Random(0).sample(queries, min(len(queries), TIMED))
    milliseconds: list[float] = []
    for query in (drawn[-1], *drawn):
        started = time.perf_counter()
        retriever.search(query, top_k=10, **options)
        milliseconds.append(1000 * (time.perf_counter() - started))
        if len(milliseconds) > LEAST_TIMED and sum(milliseconds) > 1000 * TIMED_SECONDS:
            break
    return tuple(milliseconds[1:])


def in_order(settings: Sequence[Setting]) -> list[Setting]:
    """Settings as they are best measured: those of one encoder together, and of these those that
    share an index."""
    encoders = list(dict.fromkeys((one.encoder, one.dtype) for one in settings))
    indexes = list(dict.fromkeys(map(_index_of, settings)))
    return sorted(
        settings,
        key=lambda one: (encoders.index((one.encoder, one.dtype)), indexes.index(_index_of(one))),
    )


def _index_of(setting: Setting) -> tuple[str, str, str]:
    """Settings of which this is the same share an index."""
    return (setting.encoder, setting.dtype, str(setting.passages))
