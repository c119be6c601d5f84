"""What workers do, without Ray: files are read as a plain run reads; stages, one by one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document, Store
from retrieval.distributed import partitions
from retrieval.distributed.actor_counts import ActorCounts, plan_actors
from retrieval.distributed.actors import Encode, Job, Read, Split, Write
from retrieval.distributed.messages import (
    COLUMN,
    Counts,
    DocumentBatch,
    Encoded,
    Failure,
    Prepared,
    packed,
    unpacked,
)
from retrieval.distributed.partitions import file_groups, files_of, grouped, read_group
from retrieval.distributed.writers import DirectAccess, Target
from retrieval.errors import (
    CollectionNotFound,
    CorpusError,
    InvalidInput,
    ManifestMismatch,
    MissingExtra,
    RetrievalError,
    StoreFault,
)
from retrieval.readers.options import ReadOptions
from retrieval.readers.read import read
from retrieval.types import Problem

pytest.importorskip("pyarrow")

# --- reading --------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with every kind of trouble: repeated ids, bad rows, empty and unknown files."""
    root = tmp_path / "tree"
    (root / "sub" / "deep").mkdir(parents=True)
    for number in range(9):
        folder = root / ("sub" if number % 2 else "sub/deep")
        (folder / f"d{number}.md").write_text(f"# Title {number}\n\nText number {number}.")
    rows = [{"_id": str(n % 5), "text": f"row {n}", "n": n} for n in range(7)]
    lines = [json.dumps(row) for row in rows]
    (root / "rows.jsonl").write_text("\n".join([*lines, "not json", '{"text": "without id"}']))
    (root / "table.csv").write_text("id,text,colour\n1,first,red\n2,second,blue\n")
    (root / "empty.txt").write_text("")
    (root / "binary.txt").write_bytes(b"\0\1\2")
    (root / "image.png").write_bytes(b"png")
    (root / ".hidden.md").write_text("hidden")
    (root / "inner").mkdir()
    (root / "inner" / "corpus.jsonl").write_text('{"_id": "a", "text": "of BEIR"}\n')
    (root / "inner" / "queries.jsonl").write_text('{"_id": "q", "text": "of BEIR"}\n')
    return root


def read_in_groups(
    source: Path, *, batch: int = 3, encoding: str | None = None
) -> tuple[list[Document], list[Problem]]:
    files, problems = files_of(source, ReadOptions.of(encoding))
    documents: list[Document] = []
    for group in file_groups(files):
        travelled = pickle.loads(pickle.dumps(group))
        for part in read_group(travelled, ReadOptions.of(encoding), batch):
            assert len(part.documents) <= batch
            documents += part.documents
            problems += part.problems
    return documents, problems


def read_plainly(source: Path, encoding: str | None = None) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    documents = list(read(source, on_problem=problems.append, encoding=encoding))
    return documents, problems


@pytest.mark.parametrize("group_files", [1, 4, 256])
def test_file_groups_give_the_documents_and_problems_of_a_plain_run(
    tree: Path, group_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "GROUP_FILES", group_files)
    documents, problems = read_in_groups(tree)
    plain, plain_problems = read_plainly(tree)
    assert documents == plain
    assert sorted(map(str, problems)) == sorted(map(str, plain_problems))
    assert len(problems) >= 5, "there was trouble to tell of"


def test_a_relative_source_is_named_as_the_user_named_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers read absolute paths, wherever they run; what is stored says what a plain run says."""
    monkeypatch.chdir(tree.parent)
    files, _ = files_of(Path("tree"), ReadOptions())
    expected = read_plainly(Path("tree"))
    monkeypatch.chdir("/")
    documents, problems = [], []
    for group in file_groups(files):
        for part in read_group(group, ReadOptions(), 100):
            documents += part.documents
            problems += part.problems
    assert documents == expected[0]
    assert {str(one) for one in problems} <= {str(one) for one in expected[1]}
    assert documents[0].source.startswith("tree/")


@pytest.mark.parametrize("name", ["rows.jsonl", "table.csv", "sub/d1.md", "inner"])
def test_one_file_and_a_beir_folder_keep_their_own_ids(tree: Path, name: str) -> None:
    documents, problems = read_in_groups(tree / name)
    assert (documents, problems) == read_plainly(tree / name)
    assert documents


def test_an_encoding_goes_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve café".encode("latin-1"))
    assert read_in_groups(tmp_path, encoding="latin1") == read_plainly(tmp_path, "latin1")
    with pytest.raises(InvalidInput, match="no text encoding"):
        ReadOptions.of("nosuch")


def test_a_source_that_is_not_there_is_told_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there is no file or folder"):
        files_of(tmp_path / "nothing", ReadOptions())


def test_a_file_that_goes_away_is_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("kept")
    (tmp_path / "b.md").write_text("gone")
    files, _ = files_of(tmp_path, None)
    (tmp_path / "b.md").unlink()
    [part] = read_group(file_groups(files)[0], None, 10)
    assert [document.id for document in part.documents] == ["a.md"]
    [problem] = part.problems
    assert problem.source == str(tmp_path / "b.md")


def test_large_files_are_groups_of_their_own(tree: Path) -> None:
    files, _ = files_of(tree, None)
    files[3] = replace(files[3], bytes=10**9)
    sizes = [len(group.files) for group in file_groups(files)]
    assert sizes == [3, 1, len(files) - 4]
    joined = [file for group in file_groups(files) for file in group.files]
    assert joined == files, "in the order of the source, nothing twice"


def test_batches_are_bounded_by_documents_and_by_characters() -> None:
    documents = [Document(str(n), "x" * length) for n, length in enumerate([10, 10, 300, 10, 5])]
    groups = [[d.id for d in part] for part in grouped(documents, 2, characters=100)]
    assert groups == [["0", "1"], ["2"], ["3", "4"]]
    assert list(grouped([], 2)) == []


# --- what travels ---------------------------------------------------------------------------


def test_an_item_is_one_row_and_comes_back_the_same() -> None:
    part = DocumentBatch((Document("a", "text", metadata={"n": 1}),), (Problem("b", "bad", 3),))
    block = packed(part)
    assert block.num_rows == 1
    assert list(unpacked(block)) == [part]
    assert list(unpacked(block.slice(0, 0))) == []
    assert block.column_names == [COLUMN]


@pytest.mark.parametrize(
    "error",
    [
        StoreFault("the engine failed", fix="Try again."),
        CollectionNotFound("no collection", fix="Make it."),
        MissingExtra("nncf", extra="int8", purpose="int8"),
    ],
)
def test_an_error_travels_with_its_kind_and_its_words(error: RetrievalError) -> None:
    [failure] = unpacked(packed(Failure.of(error)))
    back = failure.error()
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert (back.problem, back.fix) == (error.problem, error.fix)


def test_counts_add_up() -> None:
    one = Counts(read=2, new=1, problems=(Problem("a", "bad"),), tokens=7)
    assert one + one == Counts(read=4, new=2, problems=one.problems * 2, tokens=14)


# --- stages ---------------------------------------------------------------------------------

MADE: list[HashingEncoder] = []


def factory() -> HashingEncoder:
    MADE.append(HashingEncoder())
    return MADE[-1]


def texts(n: int, extra: str = "") -> tuple[Document, ...]:
    return tuple(
        Document(f"d{i}", f"{extra} document {i} " + "words " * 30 * i, source=f"memory:{i}")
        for i in range(1, n + 1)
    )


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job on an embedded collection that holds three documents; here nobody else owns it."""
    MADE.clear()
    store = Store(tmp_path / "store")
    retrieval.ingest(
        list(texts(3)),
        "docs",
        store=store,
        encoder=HashingEncoder(),
        max_tokens=40,
        overlap_tokens=4,
    )
    target = Target(store, "docs", None)
    shared = DirectAccess(target)
    with pytest.MonkeyPatch.context() as patch:
        # One process may open the folder once; workers have processes of their own.
        patch.setattr("retrieval.distributed.actors.access_to", lambda target, owner: shared)
        yield Job(target, store.manifest("docs"), None, factory, {})
    shared.close()


def one(stage: Any, item: object) -> Any:
    """What a stage makes of one item, through the blocks that Ray hands over."""
    [block] = list(stage(packed(item)))  # type: ignore[arg-type]
    [result] = unpacked(block)
    return result


def test_what_is_unchanged_is_counted_and_loads_no_model(job: Job) -> None:
    result = one(Split(job), DocumentBatch(texts(3)))
    assert result == Counts(read=3, unchanged=3)
    assert one(Encode(job), result) == result
    assert one(Write(job), result) == result
    assert MADE == []


def test_new_and_changed_documents_go_through_all_stages(job: Job, tmp_path: Path) -> None:
    documents = (*texts(2), replace(texts(3)[2], text="shorter now"), Document("new", "a new one"))
    prepared = one(Split(job), DocumentBatch(documents, (Problem("x", "unreadable"),)))
    assert isinstance(prepared, Prepared)
    assert {p.document_id for p in prepared.passages} == {"d3", "new"}
    assert prepared.stale, "the third document had more passages"
    encoded = one(Encode(job), prepared)
    assert isinstance(encoded, Encoded)
    assert encoded.vectors.shape == (len(prepared.passages), 64)
    counts = one(Write(job), encoded)
    assert counts == one(Write(job), encoded), "writing twice is harmless"
    assert counts == Counts(
        read=4, new=1, changed=1, unchanged=2, passages=2, tokens=counts.tokens,
        problems=(Problem("x", "unreadable"),),
    )  # fmt: skip
    assert one(Split(job), DocumentBatch(documents)) == Counts(read=4, unchanged=4)

    plain = tmp_path / "plain"
    for given in (texts(3), documents):
        retrieval.ingest(list(given), "docs", store=plain, encoder=HashingEncoder(),
                         max_tokens=40, overlap_tokens=4)  # fmt: skip
    with Store(plain).open("docs") as index:
        expected = {point.id: point for point in index.points()}
    found = {point.id: point for point in job_points(job)}
    assert found.keys() == expected.keys()
    for key, point in found.items():
        assert point.payload == expected[key].payload
        np.testing.assert_array_equal(point.dense, expected[key].dense)


def job_points(job: Job) -> Iterator[Any]:
    from retrieval.distributed import actors

    access = actors.access_to(job.target, None)
    assert isinstance(access, DirectAccess)
    return access.index.points()


def test_bad_documents_are_problems_and_stop_no_other(job: Job) -> None:
    bad = (
        Document("blank", "  \n "),
        Document("strange", "text", metadata={"x": {1, 2}}),
        Document("good", "text"),
    )
    prepared = one(Split(job), DocumentBatch(bad))
    assert {p.document_id for p in prepared.passages} == {"good"}
    assert prepared.counts.read == 3
    assert [problem.source for problem in prepared.counts.problems] == ["blank", "strange"]


def test_a_failure_passes_through_and_one_of_a_stage_becomes_one(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(StoreFault, "the disk burns", "Run.")
    for stage in (Read(None, 10, 1000), Split(job), Encode(job), Write(job)):
        assert one(stage, failure) == failure

    def refuse(self: DirectAccess, encoded: Encoded) -> None:
        raise StoreFault("the server is away", fix="Start it.")

    encoded = one(Encode(job), one(Split(job), DocumentBatch((Document("n", "new"),))))
    monkeypatch.setattr(DirectAccess, "write", refuse)
    assert one(Write(job), encoded) == Failure(StoreFault, "the server is away", "Start it.")


def test_a_worker_with_another_model_than_the_collections_writes_nothing(job: Job) -> None:
    other = replace(job, factory=lambda: HashingEncoder("another"))
    prepared = one(Split(job), DocumentBatch((Document("n", "new"),)))
    failure = one(Encode(other), prepared)
    assert failure.kind is ManifestMismatch
    assert "another" in failure.problem


def test_a_named_models_tokeniser_is_loaded_without_its_weights(tmp_path: Path) -> None:
    store = Store(tmp_path)
    retrieval.ingest(
        [Document("a", "one document")], "docs", store=store, encoder="all-MiniLM-L6-v2"
    )
    job = Job(Target(store, "docs", None), store.manifest("docs"), None, None, {})
    with job.load_encoder() as encoder:  # type: ignore[attr-defined]
        assert encoder.info == job.manifest.encoder
        own, whole = job.token_counter(), encoder.token_counter
        text = "Retrieval of passages, tokenised: naïve café 北京."
        np.testing.assert_array_equal(own.token_offsets(text), whole.token_offsets(text))
        assert own.special_tokens == whole.special_tokens


# --- the plan -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "asked", "plan"),
    [
        ({"CPU": 2.0}, {}, ActorCounts(1, 1, 1, 1.0, 0.0)),
        ({"CPU": 2.0}, {"workers": 2, "cpus_per_worker": 0.5}, ActorCounts(2, 1, 1, 0.5, 0.0)),
        ({"CPU": 64.0}, {"cpus_per_worker": 8}, ActorCounts(7, 1, 4, 8.0, 0.0)),
        ({"CPU": 64.0, "GPU": 4.0}, {}, ActorCounts(4, 8, 4, 1.0, 1.0)),
        ({"CPU": 64.0, "GPU": 4.0}, {"gpus_per_worker": 0.5}, ActorCounts(8, 16, 4, 1.0, 0.5)),
        ({"CPU": 8.0, "GPU": 4.0}, {}, ActorCounts(4, 5, 4, 1.0, 1.0)),
        ({"CPU": 4.0, "GPU": 8.0}, {}, ActorCounts(3, 1, 1, 1.0, 1.0)),
        (
            {"CPU": 64.0, "GPU": 4.0},
            {"gpus_per_worker": 0, "workers": 9},
            ActorCounts(9, 2, 4, 1.0, 0.0),
        ),
        ({"CPU": 64.0}, {"one_writer": True, "workers": 4}, ActorCounts(4, 1, 1, 1.0, 0.0)),
    ],
)
def test_the_cluster_is_divided(cluster: dict[str, float], asked: Any, plan: ActorCounts) -> None:
    assert plan_actors(cluster, **asked) == plan


@pytest.mark.parametrize("cpus", [2, 3, 5, 16, 100])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("each", [0.5, 1, 4])
def test_no_plan_asks_for_more_than_there_is(cpus: int, gpus: int, each: float) -> None:
    cluster = {"CPU": float(cpus), "GPU": float(gpus)}
    try:
        plan = plan_actors(cluster, cpus_per_worker=each)
    except InvalidInput:
        assert each + 1 > cpus
        return
    used = plan.encoders * each + plan.splitters * 0.5 + plan.writers * 0.25 + 0.25
    assert used <= cpus
    assert plan.encoders * plan.gpus_per_encoder <= gpus
    assert min(plan.encoders, plan.splitters, plan.writers) >= 1


@pytest.mark.parametrize(
    ("cluster", "asked", "said"),
    [
        ({"CPU": 2.0}, {"workers": 2}, r"2 workers of 1 CPU each, with 1 CPU.*need 3 CPUs.*has 2"),
        ({"CPU": 64.0}, {"gpus_per_worker": 1}, r"1 GPU; the Ray cluster has 64 and 0"),
        ({"CPU": 64.0}, {"workers": 0}, "workers is 0"),
        ({"CPU": 64.0}, {"cpus_per_worker": 0}, "cpus_per_worker is 0"),
        ({"CPU": 64.0, "GPU": 8.0}, {"gpus_per_worker": 1.5}, "whole GPUs or shares of one"),
        ({}, {}, "the Ray cluster has 0"),
    ],
)
def test_more_than_there_is_is_refused_in_words(
    cluster: dict[str, float], asked: Any, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        plan_actors(cluster, **asked)
