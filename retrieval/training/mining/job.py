"""A run of mining: finished queries are kept beside the output, so that a killed run goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from retrieval._files import atomic_write, os_errors
from retrieval.errors import InvalidInput, StoreLocked
from retrieval.evaluation.lines import records
from retrieval.training.data.flag_jsonl import SUFFIXES, write_flag_jsonl
from retrieval.training.examples import TrainingExample
from retrieval.training.mining.candidates import Candidates, Mined, MiningQuery, Text
from retrieval.training.mining.choosing import choose
from retrieval.training.mining.exact import QUERIES, VectorFile
from retrieval.training.mining.false_negatives import OtherPositives
from retrieval.training.mining.report import MiningReport, Tally
from retrieval.training.mining.settings import MiningSettings
from retrieval.training.mining.teachers import Teacher
from retrieval.types import Encoder, FloatArray

BATCH = 32
"""Queries that are mined together. A run that was killed goes on at the beginning of a batch, so
that models see the same texts together, and give the same bits, as in a run that was not."""

LOCK = "lock"
RUN = "run.json"

Progress = Callable[[str, int, int], None]


class MiningJob:
    """A run with its folder `OUTPUT.mining`, which one process at a time has.

        with MiningJob("mined.jsonl") as job:
            candidates = PlainPool(passages, job.folder, encoder, settings)
            report = job.run(queries, encoder, candidates, settings, teacher)

    The folder is deleted when the run is through. It holds `run.json` (what the run is of),
    `done.jsonl` (finished queries), and vectors.

    Args:
        output: the file that is going to be written, ending in .jsonl.
        restart: whether to begin anew, whatever is there.

    Raises:
        InvalidInput: the output cannot be such a file.
        StoreLocked: another process mines to it.
        DiskFull, StoreDenied, StoreFault: the folder cannot be made.
    """

    def __init__(self, output: str | os.PathLike[str], *, restart: bool = False) -> None:
        self.output = Path(output)
        _check_output(self.output)
        self.folder = self.output.with_name(f"{self.output.name}.mining")
        self._restart = restart
        with os_errors(f"make {self.folder}"):
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / LOCK).open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise StoreLocked(
                    f"another process is mining to {self.output}",
                    fix="Wait for it, or give another output.",
                ) from None
            if restart:
                self._empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.folder / RUN).exists():  # without it, nothing is gone on with
            with os_errors(f"delete {self.folder}"):
                shutil.rmtree(self.folder)
        self._lock.close()

    def run(
        self,
        queries: Sequence[MiningQuery],
        encoder: Encoder,
        candidates: Candidates,
        settings: MiningSettings,
        teacher: Teacher | None,
        *,
        notices: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> MiningReport:
        """Mine what is missing, and write the output and its reports.

        Where the same run was finished before, its report is returned as it is.

        Raises:
            InvalidInput: a run with other settings, input or models was begun or finished there.
            DiskFull, StoreDenied, StoreFault: something cannot be written.
        """
        run = {
            "settings": settings.as_dict(),
            "input": input_digest(queries),
            "candidates": candidates.fingerprint,
            "encoder": [encoder.info.model, _digest([repr(encoder.info)])],
            "teacher": None if teacher is None else [teacher.name, teacher.fingerprint],
        }
        finished = None if self._restart else self._finished(run)
        if finished is not None:
            self._empty()
            return finished
        done = self._begin(run)
        vectors = self._query_vectors(queries, encoder, progress)
        candidates.prepare(vectors, progress)
        others = OtherPositives(queries, vectors, settings)
        with os_errors(f"write {self._done}"), self._done.open("ab") as file:
            for first in range(done, len(queries), BATCH):
                batch = candidates.find(queries[first : first + BATCH], first)
                mined = choose(batch, first, settings, others, teacher)
                lines = (json.dumps(asdict(one)) + "\n" for one in mined)
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
                if progress is not None:
                    progress("mining", min(first + BATCH, len(queries)), len(queries))
        report = self._write(queries, settings, run, notices)
        self._empty()
        return report

    @property
    def _done(self) -> Path:
        return self.folder / "done.jsonl"

    def _begin(self, run: Mapping[str, Any]) -> int:
        """How many queries an earlier run has finished."""
        state = self.folder / RUN
        if state.exists():
            with os_errors(f"read {state}"):
                self._compare(json.loads(state.read_text(encoding="utf-8")), run, "begun")
        else:
            _write_json(state, run)
        if not self._done.exists():
            return 0
        with os_errors(f"repair {self._done}"), self._done.open("r+b") as file:
            ends = [0]
            for line in file:
                if line.endswith(b"\n"):
                    ends.append(ends[-1] + len(line))
            whole = len(ends) - 1
            # the last batch may be short, and is then the end
            whole -= whole % BATCH
            file.truncate(ends[whole])
        return whole

    def _finished(self, run: Mapping[str, Any]) -> MiningReport | None:
        """The report of the run that wrote the output; None where it is yet to be written.

        Raises:
            InvalidInput: something else wrote it.
        """
        if not self.output.exists() or (self.folder / RUN).exists():
            return None
        path = report_path(self.output)
        if path.exists():
            with os_errors(f"read {path}"):
                report = MiningReport.of_dict(json.loads(path.read_text(encoding="utf-8")))
            self._compare(report.run, run, "written")
            if report.output_sha256 == _file_digest(self.output):
                return report
        raise InvalidInput(
            f"{self.output} is there already, and not as mining wrote it",
            fix="Give another output, or --restart (restart=True) to write it anew.",
        )

    def _compare(self, before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
        old, new = ({**run, **run["settings"]} for run in (before, now))
        changed = [
            f"{name} was {_shown(old.get(name))}, is {_shown(new[name])}"
            for name in new
            if name != "settings" and old.get(name) != new[name]
        ]
        if changed:
            raise InvalidInput(
                f"{self.output} was {what} by another run: {'; '.join(changed)}",
                fix="Mine as before, give another output, or --restart (restart=True) to begin "
                "anew.",
            )

    def _mined(self) -> Iterator[Mined]:
        for _, record in records(self._done):
            for key in ("positives", "negatives"):
                record[key] = [Text(**one) for one in record[key]]
            yield Mined(**record)

    def _write(
        self,
        queries: Sequence[MiningQuery],
        settings: MiningSettings,
        run: Mapping[str, Any],
        notices: Sequence[str],
    ) -> MiningReport:
        tally = Tally(settings.seed, settings.negatives)

        def examples() -> Iterator[TrainingExample]:
            for query, mined in zip(queries, self._mined(), strict=True):
                tally.add(query, mined)
                if mined.positives:
                    yield _example(query, mined)

        write_flag_jsonl(self.output, examples())
        report = tally.report(run, _file_digest(self.output), notices)
        _write_json(report_path(self.output), report.as_dict())
        text = f"{report.as_text()}\n\nSamples\n\n{report.samples_as_text()}\n"
        target = report_path(self.output).with_suffix(".txt")
        with os_errors(f"write {target}"), atomic_write(target) as file:
            file.write(text)
        return report

    def _query_vectors(
        self, queries: Sequence[MiningQuery], encoder: Encoder, progress: Progress | None
    ) -> VectorFile:
        file = VectorFile(self.folder / "queries.f32", encoder.info.dimension, dtype="float32")
        file.fill(
            len(queries),
            lambda start, stop: _unit(
                encoder.encode_queries([one.text for one in queries[start:stop]])
            ),
            block=QUERIES,
            progress=None if progress is None else partial(progress, "encoding queries"),
        )
        return file

    def _empty(self) -> None:
        with os_errors(f"empty {self.folder}"):
            # what the run is of goes first: without it, nothing is gone on with
            for path in sorted(self.folder.iterdir(), key=lambda one: one.name != RUN):
                if path.name != LOCK:
                    path.unlink()


def report_path(output: Path) -> Path:
    """Where the report of a run lies: `mined.report.json` beside `mined.jsonl`."""
    return output.with_name(f"{output.stem}.report.json")


def input_digest(queries: Sequence[MiningQuery]) -> str:
    """Another where the queries, or what is known of them, are others."""
    return _digest(
        json.dumps([asdict(query) | {"relevant": sorted(query.relevant), "where": ""}])
        for query in queries
    )


def _example(query: MiningQuery, mined: Mined) -> TrainingExample:
    first = len(mined.positives)
    return TrainingExample(
        query=query.text,
        positives=tuple(one.text for one in mined.positives),
        negatives=tuple(one.text for one in mined.negatives),
        positive_scores=tuple(mined.scores[:first]) if mined.scores else None,
        negative_scores=tuple(mined.scores[first:]) if mined.scores else None,
        prompt=query.prompt,
        query_id=query.id,
        positive_ids=_ids(mined.positives),
        negative_ids=_ids(mined.negatives),
    )


def _unit(vectors: FloatArray) -> FloatArray:
    """Vectors of length 1: the order of passages stays, and queries compare by their cosine."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = vectors / np.maximum(lengths, 1e-12)
    return unit


def _ids(passages: Sequence[Text]) -> tuple[str, ...]:
    """Their ids, where all are known: a file has one for each, or none."""
    return tuple(one.id for one in passages) if all(one.id for one in passages) else ()


def _check_output(output: Path) -> None:
    if output.suffix not in SUFFIXES:
        raise InvalidInput(
            f"the output is {str(output)!r}, expected a name that ends in .jsonl, as FlagEmbedding "
            "reads it",
            fix=f"Call it {output.name}.jsonl, for example.",
        )
    if not output.parent.is_dir() or output.is_dir():
        raise InvalidInput(
            f"the output {str(output)!r} cannot be a file there",
            fix="Give the name of a file in a folder that exists.",
        )


def _digest(parts: Iterator[str] | Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with os_errors(f"read {path}"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    with os_errors(f"write {path}"), atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _shown(value: Any) -> str:
    text = value[0] if isinstance(value, list | tuple) and value else value
    return f"{text[:12]}…" if isinstance(text, str) and len(text) > 40 else repr(text)
