"""Mine hard negatives: from a collection with its first stages, or from plain texts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retrieval.api.mine_collection import CollectionCandidates, judged_queries
from retrieval.api.mine_source import Source, examples_of, judged_of, passages_of
from retrieval.api.models import load_encoder_named, load_reranker_named
from retrieval.api.open import open
from retrieval.errors import InvalidInput
from retrieval.evaluation.resolve import resolve
from retrieval.index.store import DEFAULT_STORE, StoreLike
from retrieval.models.defaults import NONE
from retrieval.search.retriever import close_models
from retrieval.training.mining.job import MiningJob, Progress
from retrieval.training.mining.pool import PlainPool, check_sources
from retrieval.training.mining.report import MiningReport
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.mining.teachers import (
    Bm25Teacher,
    EncoderTeacher,
    EnsembleTeacher,
    RerankerTeacher,
    Teacher,
)
from retrieval.types import Bm25Info, Encoder, Reranker, Where

BM25 = "bm25"
ENCODER = "encoder"
_SAMPLE = 20_000
"""Passages that BM25 as a teacher learns from how often words occur."""


def mine(
    source: Source,
    output: str | os.PathLike[str],
    *,
    collection: str | None = None,
    corpus: str | os.PathLike[str] | None = None,
    encoder: str | Encoder = "auto",
    teacher: str | Reranker | None = "auto",
    settings: MiningSettings | None = None,
    split: str = "train",
    store: StoreLike = DEFAULT_STORE,
    where: Where | None = None,
    tenant: str | None = None,
    api_key: str | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> MiningReport:
    """Find passages that look like answers and are none, and write them as training data.

    A candidate becomes a negative unless labels, its text or the teacher say that it answers the
    query, or may; `MiningSettings` says how that is decided. The output is FlagEmbedding's JSONL
    with the teacher's scores. Beside it lie `OUTPUT.report.json` and `.txt`. A killed run goes on
    where it was; the same run gives the same bytes.

    Args:
        source: training examples in any format that `retrieval.training.data` reads, or, with a
            collection, judged queries as for `load_judgements`; or either of them as objects.
        output: a file ending in .jsonl.
        collection: where candidates come from.
        corpus: or texts to find them in: FlagEmbedding's candidate pool (`{"text"}` a line) or a
            BEIR folder. With neither, the documents of the source's folder, or the passages of
            the examples themselves.
        encoder: of plain texts; a collection has its own.
        teacher: "auto" (the reranker that a search would take), "none" or None, a reranker by
            name or as an object, "encoder" (the first stage's own cosines), "bm25", or several
            names joined by +: the mean of their scores, each z-normalised over a query's
            candidates, as in "bm25+maxsim".
        settings: what is mined.
        split: of a folder of judgements.
        store, where, tenant, api_key: of the collection, and which of its passages.
        restart: begin anew, whatever lies at the output.
        progress: called with (what, done, total).
        on_notice: gets a sentence on each thing of the source that was left out.
        model_options: how the models run, as for `open`.

    Returns:
        What was taken and what was left out, why, and samples to look at.

    Raises:
        InvalidInput: a setting that does not fit, an output of another run, a source without
            queries.
        CorpusError: the source or the corpus cannot be read.
        CollectionNotFound, ModelNotFound: see `open`.
        StoreLocked: another process mines to the output, or has the store open.

    Example:
        >>> from retrieval.api.mine import mine
        >>> from retrieval.training.examples import TrainingExample
        >>> examples = [TrainingExample("when does it close?", ("The gate closes at ten.",)),
        ...             TrainingExample("when is lunch?", ("Soup is served at noon.",))]
        >>> report = mine(examples, "mined.jsonl", encoder="starter", teacher="none")
        >>> report.negatives
        2
        >>> from pathlib import Path
        >>> Path("mined.jsonl").read_text().splitlines()[1][:81]
        '{"query": "when is lunch?", "pos": ["Soup is served at noon."], "neg": ["The gate'
    """
    chosen = settings or MiningSettings()
    _check(chosen, collection, corpus, encoder, teacher)
    for read in (source, corpus):
        if isinstance(read, str | os.PathLike) and Path(read).resolve() == Path(output).resolve():
            raise InvalidInput(
                f"the output {str(output)!r} would overwrite what is mined from",
                fix="Give it another name.",
            )
    options = dict(model_options or {})
    with MiningJob(output, restart=restart) as job, contextlib.ExitStack() as models:
        if collection is None:
            queries = examples_of(source, split, on_notice)
            loaded = _encoder(encoder, options, models)
            texts = passages_of(corpus, source, queries)
            pool = PlainPool(texts, job.folder, loaded, chosen)
            models.callback(pool.close)
            judge = _teacher(teacher, loaded, pool, None, options, models)
            return job.run(queries, loaded, pool, chosen, judge, progress=progress)
        retriever = models.enter_context(
            open(
                collection, store=store, reranker=NONE, tenant=tenant, api_key=api_key,
                **_of_encoder(options),
            )
        )  # fmt: skip
        judged = None
        if (known := judged_of(source, split)) is not None:
            judged = resolve(known, retriever.index, tenant=tenant)
            queries = judged_queries(judged, chosen.grade)
        else:
            queries = examples_of(source, split, on_notice)
        candidates = CollectionCandidates(retriever, chosen, judged, where=where, tenant=tenant)
        info = retriever.index.manifest.bm25
        judge = _teacher(teacher, retriever.encoder, candidates, info, options, models)
        return job.run(
            queries, retriever.encoder, candidates, chosen, judge,
            notices=retriever.notices, progress=progress,
        )  # fmt: skip


def _check(
    settings: MiningSettings,
    collection: str | None,
    corpus: str | os.PathLike[str] | None,
    encoder: str | Encoder,
    teacher: str | Reranker | None,
) -> None:
    """Before anything is loaded."""
    if collection is not None and corpus is not None:
        raise InvalidInput(
            f"the collection {collection!r} and the corpus {str(corpus)!r} were both given",
            fix="Give one of the two, or index the corpus into the collection.",
        )
    if collection is not None and encoder != "auto":
        raise InvalidInput(
            "an encoder was given beside a collection, which has its own",
            fix="Leave the encoder out.",
        )
    if collection is None:
        check_sources(settings)
    bounds = {
        name: getattr(settings, name) for name in ("absolute_margin", "max_score", "min_score")
    }
    given = [name for name, value in bounds.items() if value is not None]
    if given and teacher in (None, NONE):
        raise InvalidInput(
            f"{given[0]} was given, and no teacher, whose scores it would be compared with",
            fix="Give a teacher, such as starter or encoder, or leave it out.",
        )


def _of_encoder(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "long_passages"}


def _encoder(
    encoder: str | Encoder, options: Mapping[str, Any], models: contextlib.ExitStack
) -> Encoder:
    if not isinstance(encoder, str):
        return encoder
    loaded, _ = load_encoder_named(encoder, **_of_encoder(options))
    models.callback(close_models, [loaded])
    return loaded


def _teacher(
    teacher: str | Reranker | None,
    encoder: Encoder,
    candidates: CollectionCandidates | PlainPool,
    bm25: Bm25Info | None,
    options: Mapping[str, Any],
    models: contextlib.ExitStack,
) -> Teacher | None:
    """The teacher of that name: one model, or several whose scores are joined."""
    if teacher is None or teacher == NONE:
        return None
    if not isinstance(teacher, str):
        return RerankerTeacher(teacher)
    members: list[Teacher] = []
    for name in (part.strip() for part in teacher.split("+")):
        if name == BM25:
            members.append(Bm25Teacher(candidates.sample(_SAMPLE), bm25))
        elif name == ENCODER:
            members.append(EncoderTeacher(encoder, candidates.vectors))
        else:
            loaded, _ = load_reranker_named(name, encoder, **options)
            if loaded is None:
                raise InvalidInput(
                    f"no reranker can be had as the teacher {name!r}",
                    fix="Name one (retrieval models), or give the teacher encoder or none.",
                )
            models.callback(close_models, [loaded])
            members.append(RerankerTeacher(loaded))
    return members[0] if len(members) == 1 else EnsembleTeacher(members)
