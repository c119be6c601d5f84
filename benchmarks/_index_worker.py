"""One system of `index.py` in its own process: makes its index, or opens it and searches.

    python _index_worker.py '{"do": "build", "system": "hnswlib", "made": …, "folder": …}'

The answer is one line of JSON, and what was found lies beside it in `found.npz`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from _judged import manifest
from _made import DEPTH, SHARES, Made, read, where
from _mixture import DIMENSION
from numpy.typing import NDArray

from retrieval.types import FloatArray, Passage

BUILD_THREADS = 2
M, EF_CONSTRUCT = 16, 128
"""Of every graph: links a point (twice as many on the ground level), and width while building."""

UPSERT = 1_000
EXACT_QUERIES = 20
TEXTS = 200

Found = list[int]
"""Positions of passages, best first."""


class Case:
    """A kind of search. whole: the call a user makes. engine: the part that the engine works."""

    def __init__(
        self,
        name: str,
        whole: Callable[[int], Found],
        engine: Callable[[int], object] | None = None,
        *,
        ef: int | None = None,
        queries: int | None = None,
    ) -> None:
        self.name, self.whole, self.engine, self.ef, self.queries = name, whole, engine, ef, queries


class Target(Protocol):
    """A system. `made` may be read while building, and only its queries while searching."""

    def build(self, made: Made) -> dict[str, float]:
        """Index everything and write it to the folder; seconds by part."""
        ...

    def open(self) -> None: ...

    def cases(self, vectors: FloatArray, texts: list[str], efs: list[int]) -> Iterator[Case]:
        """What is measured. Opening again between cases is allowed."""
        ...


class Ours:
    """The embedded index through its own methods."""

    def __init__(self, folder: Path, quantization: str) -> None:
        self._folder, self._quantization = folder, quantization
        self._index: Any = None

    def build(self, made: Made) -> dict[str, float]:
        from retrieval.index.embedded.index import EmbeddedIndex
        from retrieval.types import Storage

        storage = Storage(
            quantization=self._quantization,  # type: ignore[arg-type]
            hnsw_m=M,
            hnsw_ef_construct=EF_CONSTRUCT,
            fields=dict.fromkeys(SHARES, "keyword"),
        )
        own: Any = None
        seconds = 0.0
        for passages, vectors in made.blocks():
            if own is None:
                about = manifest("set", DIMENSION, passages[:TEXTS], "english", storage=storage)
                own = EmbeddedIndex.create(self._folder, "set", about)
            seconds += self._upsert(own, passages, vectors)
        start = time.perf_counter()
        own.optimize()
        result = {"upsert": seconds, "optimize": time.perf_counter() - start}
        own.close()
        return result

    @staticmethod
    def _upsert(index: Any, passages: list[Passage], vectors: FloatArray) -> float:
        before = time.perf_counter()
        for start in range(0, len(passages), UPSERT):
            index.upsert(passages[start : start + UPSERT], vectors[start : start + UPSERT])
        return time.perf_counter() - before

    def open(self, search_ef: int | None = None) -> None:
        """Open the collection with another width of search, which its manifest keeps."""
        from retrieval.index.embedded.folder import MANIFEST, collection_path, read_manifest
        from retrieval.index.embedded.index import EmbeddedIndex
        from retrieval.index.manifest import write_manifest

        if self._index is not None:
            self._index.close()
        known = read_manifest(self._folder, "set")
        changed = replace(known, storage=replace(known.storage, search_ef=search_ef))
        write_manifest(collection_path(self._folder, "set") / MANIFEST, changed)
        self._index = EmbeddedIndex.open(self._folder, "set")

    def cases(self, vectors: FloatArray, texts: list[str], efs: list[int]) -> Iterator[Case]:
        from retrieval.index.point_store import DENSE, SPARSE, Nearest
        from retrieval.index.ties import SPARE

        index = self._index
        terms = [index._searcher._bm25.query(text) for text in texts]

        def search(mode: str, share: str | None = None, exact: bool = False) -> Any:
            def whole(number: int) -> Found:
                found = self._index.search(
                    mode=mode,
                    limit=DEPTH,
                    vector=vectors[number] if mode != "sparse" else None,
                    text=texts[number] if mode != "dense" else None,
                    where=where(share) if share else None,
                    exact=exact,
                )
                return [int(one.passage.document_id) for one in found]

            return whole

        def dense(number: int) -> object:
            request = Nearest(DENSE, vectors[number], DEPTH + SPARE)
            return self._index._points.nearest([request])

        def sparse(number: int) -> object:
            return self._index._points.nearest([Nearest(SPARSE, terms[number], DEPTH + SPARE)])

        yield Case("dense", search("dense"), dense)
        yield Case("sparse", search("sparse"), sparse)
        yield Case("hybrid", search("hybrid"), lambda number: (dense(number), sparse(number)))
        for share in SHARES:
            yield Case(f"dense, {share} allowed", search("dense", share))
        yield Case("dense, exact", search("dense", exact=True), queries=EXACT_QUERIES)
        for ef in efs:
            self.open(ef)
            yield Case("dense", search("dense"), dense, ef=ef)
        self.open(None)


class Hnswlib:
    """hnswlib on normalised vectors, ids only."""

    def __init__(self, folder: Path) -> None:
        self._file = str(folder / "index.bin")
        self._index: Any = None

    def build(self, made: Made) -> dict[str, float]:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=DIMENSION)
        index.init_index(max_elements=made.size, M=M, ef_construction=EF_CONSTRUCT, random_seed=1)
        seconds = 0.0
        for start, rows in _rows(made):
            before = time.perf_counter()
            index.add_items(rows, np.arange(start, start + len(rows)), num_threads=BUILD_THREADS)
            seconds += time.perf_counter() - before
        index.save_index(self._file)
        return {"optimize": seconds}

    def open(self) -> None:
        import hnswlib

        self._index = hnswlib.Index(space="ip", dim=DIMENSION)
        self._index.load_index(self._file)
        self._index.set_num_threads(1)

    def cases(self, vectors: FloatArray, texts: list[str], efs: list[int]) -> Iterator[Case]:
        def whole(number: int) -> Found:
            found, _ = self._index.knn_query(vectors[number], k=DEPTH, num_threads=1)
            positions: Found = found[0].tolist()
            return positions

        for ef in efs:
            self._index.set_ef(ef)
            yield Case("dense", whole, ef=ef)


class Faiss:
    """faiss's graph, or its scan of all vectors, on normalised vectors, ids only."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._file, self._kind = str(folder / "index.faiss"), kind
        self._index: Any = None

    def build(self, made: Made) -> dict[str, float]:
        import faiss

        faiss.omp_set_num_threads(BUILD_THREADS)
        if self._kind == "flat":
            index: Any = faiss.IndexFlatIP(DIMENSION)
        else:
            index = faiss.IndexHNSWFlat(DIMENSION, M, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = EF_CONSTRUCT
        seconds = 0.0
        for _, rows in _rows(made):
            before = time.perf_counter()
            index.add(rows)
            seconds += time.perf_counter() - before
        faiss.write_index(index, self._file)
        return {"optimize": seconds}

    def open(self) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(self._file)

    def cases(self, vectors: FloatArray, texts: list[str], efs: list[int]) -> Iterator[Case]:
        def whole(number: int) -> Found:
            _, found = self._index.search(vectors[number : number + 1], DEPTH)
            positions: Found = found[0].tolist()
            return positions

        if self._kind == "flat":
            yield Case("dense, exact", whole, queries=EXACT_QUERIES)
            return
        for ef in efs:
            self._index.hnsw.efSearch = ef
            yield Case("dense", whole, ef=ef)


SYSTEMS: dict[str, Callable[[Path], Target]] = {
    "retrieval": lambda folder: Ours(folder, "none"),
    "retrieval int8": lambda folder: Ours(folder, "int8"),
    "hnswlib": Hnswlib,
    "faiss HNSW": lambda folder: Faiss(folder, "hnsw"),
    "faiss scan": lambda folder: Faiss(folder, "flat"),
}
NEEDS = {"hnswlib": "hnswlib", "faiss HNSW": "faiss", "faiss scan": "faiss"}


def _rows(made: Made) -> Iterator[tuple[int, FloatArray]]:
    vectors = made.vectors
    for start in range(0, made.size, 20_000):
        yield start, np.ascontiguousarray(vectors[start : start + 20_000])


def build(system: str, made: Made, folder: Path) -> dict[str, Any]:
    """Seconds by part, and the most memory that was resident."""
    folder.mkdir(parents=True)
    seconds = SYSTEMS[system](folder).build(made)
    return {"seconds": seconds, "peak": memory()["VmHWM"]}


def search(system: str, made: Made, folder: Path, efs: list[int], out: Path) -> dict[str, Any]:
    """Seconds of every search, whole and of the engine alone, and what was found."""
    vectors, texts = made.queries
    target = SYSTEMS[system](folder)
    before = memory()
    start = time.perf_counter()
    target.open()
    opened = time.perf_counter() - start
    cases: list[dict[str, Any]] = []
    found: dict[str, NDArray[np.int64]] = {}
    resident: dict[str, int] = {}
    for number, case in enumerate(target.cases(vectors, texts, efs)):
        count = min(case.queries or len(texts), len(texts))
        # all of them: pages of vectors and payloads that are touched first cost more than a search
        for query in range(count):
            case.whole(query)
        positions = np.full((count, DEPTH), -1, dtype=np.int64)
        whole, engine = [], []
        for query in range(count):
            start = time.perf_counter()
            answer = case.whole(query)
            whole.append(time.perf_counter() - start)
            positions[query, : len(answer)] = answer
            if case.engine is not None:
                start = time.perf_counter()
                case.engine(query)
                engine.append(time.perf_counter() - start)
        found[str(number)] = positions
        cases.append({"case": case.name, "ef": case.ef, "seconds": whole, "engine": engine})
        resident = resident if case.ef is not None and resident else memory()
    np.savez(out, **found)
    return {"open": opened, "before": before, "resident": resident, "cases": cases}


def memory() -> dict[str, int]:
    """Bytes of this process: resident, its greatest, and what belongs to no file."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return dict.fromkeys(("VmRSS", "VmHWM", "RssAnon"), peak * 1024)
    lines = (line.split() for line in status.read_text().splitlines())
    wanted = {"VmRSS:", "VmHWM:", "RssAnon:"}
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line and line[0] in wanted}


def main() -> int:
    order = json.loads(sys.argv[1])
    made = read(Path(order["made"]))
    folder = Path(order["folder"])
    if order["do"] == "build":
        answer = build(order["system"], made, folder)
    else:
        answer = search(order["system"], made, folder, order["efs"], Path(order["out"]))
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
