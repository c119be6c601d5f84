"""Several devices: the same vectors, and an end told at once, whoever ends whom."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.batches import in_threads

from retrieval.errors import InvalidInput, MissingExtra, ModelFault
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.engines import hardware, load_engine
from retrieval.models.engines.base import TokenBatch
from retrieval.models.engines.multi_device import EngineGroup
from retrieval.models.engines.worker_client import RemoteEngine, Worker, _unpacked
from retrieval.models.engines.worker_main import _Answers

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [f"{i} the dog reads {'a file ' * (i % 19)}" for i in range(300)]
OPTIONS: dict[str, Any] = {"engine": "openvino", "dtype": "fp32"}


def a_batch(width: int = 5) -> TokenBatch:
    ids = np.arange(5, 5 + width, dtype=np.int64)[None, :] % 50
    return TokenBatch(ids, np.ones_like(ids))


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes in /proc"
)


@pytest.fixture(scope="module")
def pair(tiny_bert_encoder: Path, make_resolved_encoder: Any) -> Iterator[BiEncoder]:
    """An encoder on two CPU processes that share many small batches."""
    with BiEncoder(
        make_resolved_encoder(tiny_bert_encoder),
        devices=["cpu", "cpu"],
        threads=1,
        token_budget=128,
        **OPTIONS,
    ) as encoder:
        yield encoder


def remote(encoder: BiEncoder) -> RemoteEngine:
    group = encoder._engine
    assert isinstance(group, EngineGroup)
    engine = group.engines[1]
    assert isinstance(engine, RemoteEngine)
    return engine


def test_the_same_vectors_as_one_device(
    pair: BiEncoder, tiny_bert_encoder: Path, make_resolved_encoder: Any
) -> None:
    one = BiEncoder(
        make_resolved_encoder(tiny_bert_encoder), threads=1, token_budget=128, **OPTIONS
    )
    calls: list[tuple[int, int]] = []
    ours = pair.encode_passages(TEXTS, progress=lambda done, total: calls.append((done, total)))
    theirs = one.encode_passages(TEXTS)
    assert np.array_equal(ours.vectors, theirs.vectors)
    assert np.array_equal(ours.tokens, theirs.tokens)
    assert calls[-1] == (len(TEXTS), len(TEXTS))
    assert pair.engine == "openvino fp32 on cpu, cpu"
    batch = a_batch()
    assert np.array_equal(remote(pair).run(batch), one._engine.run(batch))


def test_what_a_worker_is(pair: BiEncoder) -> None:
    engine = remote(pair)
    assert (engine.name, engine.device, engine.dtype) == ("openvino", "cpu", "fp32")
    assert (engine.head, engine.token_budget) == ("cls", 4096)
    assert engine.pid != os.getpid()


def test_many_batches_ahead_do_not_block(pair: BiEncoder) -> None:
    """Inputs and outputs together are far more than a socket holds."""
    ids = np.full((400, 120), 7, dtype=np.int64)
    batch = TokenBatch(ids, np.ones_like(ids))
    pending = [remote(pair).submit(batch) for _ in range(12)]
    outputs = [wait() for wait in pending]
    assert all(np.array_equal(output, outputs[0]) for output in outputs)


def test_from_several_threads(pair: BiEncoder) -> None:
    expected = pair.encode_passages(TEXTS).vectors
    for result in in_threads(lambda _: pair.encode_passages(TEXTS).vectors, 3):
        assert np.array_equal(result, expected)


def test_an_error_there_is_an_error_here(pair: BiEncoder) -> None:
    with pytest.raises(ModelFault, match="at most") as caught:
        remote(pair).run(a_batch(width=200))
    assert "smaller token_budget" in caught.value.fix
    notes = "\n".join(caught.value.__notes__)
    assert "In the worker on cpu:\nTraceback" in notes
    assert "openvino.py" in notes
    # It goes on: the next batch is computed, in its turn.
    failing, fine = remote(pair).submit(a_batch(width=200)), remote(pair).submit(a_batch())
    with pytest.raises(ModelFault):
        failing()
    assert fine().shape == (1, 64)


def test_a_fork_cannot_talk_to_it(pair: BiEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, pid = remote(pair), os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid + 1)
        with pytest.raises(ModelFault, match="a fork of it"):
            engine.run(a_batch())
        engine._worker.close()
    assert engine.run(a_batch()).shape == (1, 64)


@needs_proc
def test_killed_while_it_computes(tiny_bert_encoder: Path, make_resolved_encoder: Any) -> None:
    with BiEncoder(
        make_resolved_encoder(tiny_bert_encoder),
        devices=["cpu", "cpu"],
        token_budget=128,
        **OPTIONS,
    ) as encoder:
        pid = remote(encoder).pid

        def kill(done: int, total: int) -> None:
            if done > 50 and runs(pid):
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not runs(pid))

        start = time.monotonic()
        with pytest.raises(ModelFault, match=rf"worker process {pid} on cpu .* SIGKILL") as caught:
            encoder.encode_passages(TEXTS * 4, progress=kill)
        assert time.monotonic() - start < 30
        assert "memory" in str(caught.value)
        # Later ones are told, too; what fits the first device does not need the other.
        with pytest.raises(ModelFault, match="SIGKILL"):
            encoder.encode_passages(TEXTS)
        with pytest.raises(ModelFault, match="SIGKILL"):
            remote(encoder).run(a_batch())
        assert encoder.encode_queries(["dog"]).shape == (1, 64)


@needs_proc
def test_what_does_not_load_and_a_crash(tiny_bert_encoder: Path) -> None:
    worker = Worker("cpu")
    bad = {"path": tiny_bert_encoder, "head": "cls", "engine": "openvino", "dtype": "int3"}
    with pytest.raises(InvalidInput, match="dtype='int3'"):
        worker.load(bad)()
    # Nobody waits meanwhile: a thread of the worker may still answer while another one crashes.
    # Whoever waits for a worker that dies is told at once: see the tests that kill one.
    os.kill(worker.pid, signal.SIGSEGV)
    worker._receiver.join(30)
    for _ in range(2):
        with pytest.raises(ModelFault, match=r"SIGSEGV, after saying: Fatal .*Segmentation fault"):
            worker.load(bad)()
    worker.close()


@needs_proc
def test_freeing_and_closing_end_the_process(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        before = set(threading.enumerate())
        group: Any = load_engine(
            tiny_bert_encoder, "cls", devices=["cpu"] * 3, threads=1, cache_dir=tmp_path, **OPTIONS
        )
        closed, freed = (engine.pid for engine in group.engines[1:])
        group.engines[1].close()
        group.engines[1].close()
        assert not Path(f"/proc/{closed}").exists(), "it is there, or a zombie"
        with pytest.raises(ModelFault, match=r"was closed\. Load the model again"):
            group.engines[1].run(a_batch())
        del group
        gc.collect()
        assert not Path(f"/proc/{freed}").exists(), "it is there, or a zombie"
        assert set(threading.enumerate()) <= before  # those of others may end meanwhile


SCRIPT = """
import hashlib, os, sys, time
from pathlib import Path
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.types import ModelSpec, ResolvedModel
spec = ModelSpec("tiny", "encoder", max_length=128, dimension=64, pooling="cls")
encoder = BiEncoder(
    ResolvedModel(spec, Path(sys.argv[1]), ""), devices=["cpu", "cpu"], threads=1,
    token_budget=128, cache_dir=Path(sys.argv[2]), engine="openvino", dtype="fp32",
)
texts = [f"{i} the dog reads {'a file ' * (i % 19)}" for i in range(300)]
vectors = encoder.encode_passages(texts).vectors
print(encoder._engine.engines[1].pid, hashlib.sha256(vectors.tobytes()).hexdigest(), flush=True)
if sys.argv[3] == "stay":
    time.sleep(600)
"""


@pytest.mark.parametrize("then", ["end", "stay"])
@needs_proc
def test_a_script_without_a_guard(
    pair: BiEncoder, tiny_bert_encoder: Path, tmp_path_factory: Any, then: str
) -> None:
    """It runs once, and its worker ends with it: when it is through, or killed outright."""
    folder = tmp_path_factory.getbasetemp() / "script"
    folder.mkdir(exist_ok=True)
    # What lies beside the script must not pass for a module of the standard library.
    (folder / "socket.py").write_text("raise SystemExit('the wrong socket')")
    script = folder / "run" / "script.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [
            *(sys.executable, "-X", "dev", "-W", "error::ResourceWarning", str(script)),
            *(str(tiny_bert_encoder), str(folder / "cache"), then),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        pid, digest = line.split()
        if then == "stay":
            assert runs(int(pid))
            process.kill()
        rest, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    vectors = pair.encode_passages(TEXTS).vectors
    assert digest == hashlib.sha256(vectors.tobytes()).hexdigest()
    assert rest == ""
    assert "ResourceWarning" not in errors
    assert process.returncode == (0 if then == "end" else -signal.SIGKILL)
    assert wait_for(lambda: not runs(int(pid)))


def test_a_process_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ModelFault, match=r"no process could be started for cpu .*No such file"):
        Worker("cpu")


@needs_proc
def test_a_process_that_ends_before_it_talks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the library is gone >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    worker = Worker("cpu")
    with pytest.raises(ModelFault, match="exit code 3, after saying: the library is gone"):
        worker.load({})()
    worker.close()


def test_errors_keep_their_class() -> None:
    extra = MissingExtra("nncf", extra="int8", purpose="dtype='int8'")
    copy = _unpacked("cpu", "MissingExtra", extra.problem, extra.fix, "trace")
    assert isinstance(copy, MissingExtra)
    assert str(copy) == str(extra)
    other = _unpacked("cuda:1", "ZeroDivisionError", "division by zero", "", "trace")
    assert isinstance(other, ModelFault)
    assert "worker on cuda:1 failed with ZeroDivisionError: division by zero" in str(other)


def test_warnings_there_are_warnings_here() -> None:
    ours, theirs = Pipe()
    answers = _Answers(theirs)
    try:
        logging.getLogger("retrieval.models.engines.oom_backoff").warning("no room for %d", 3)
        logging.getLogger("retrieval.models.engines.oom_backoff").info("not this")
    finally:
        logging.getLogger("retrieval").removeHandler(answers)
    assert ours.recv() == (
        "log",
        ("retrieval.models.engines.oom_backoff", logging.WARNING, "no room for 3"),
    )
    assert not ours.poll(0)
    ours.close()
    theirs.close()


@pytest.mark.gpu
def test_a_worker_on_a_gpu(tiny_bert_encoder: Path) -> None:
    worker = Worker("cuda:0")
    options: Any = {"path": tiny_bert_encoder, "head": "cls", "engine": "packed", "dtype": "fp32"}
    engine = worker.load(options)()
    try:
        local = load_engine(**options, device="cuda:0")
        assert (engine.device, engine.name) == (local.device, local.name) == ("cuda:0", "packed")
        assert engine.token_budget == local.token_budget
        pending = [engine.submit(a_batch(width)) for width in range(2, 60)]
        for width, wait in enumerate(pending, 2):
            assert np.array_equal(wait(), local.run(a_batch(width)))
    finally:
        engine.close()


@pytest.mark.gpu
def test_several_gpus(tiny_bert_encoder: Path, make_resolved_encoder: Any) -> None:
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("there is one CUDA device here")
    resolved = make_resolved_encoder(tiny_bert_encoder)
    expected = BiEncoder(resolved, device="cuda:0", token_budget=128).encode_passages(TEXTS)
    devices = [f"cuda:{index}" for index in range(count)]
    with BiEncoder(resolved, devices=devices, token_budget=128) as encoder:
        vectors = encoder.encode_passages(TEXTS).vectors
    np.testing.assert_allclose(vectors, expected.vectors, atol=1e-2)


class TestDevices:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"devices": []}, "expected one or more device names"),
            ({"devices": "cpu"}, r"expected a list .*\[\"cpu\", \"cpu\"\]"),
            ({"devices": {"cpu"}}, "expected a list"),
            ({"devices": ["cpu", None]}, "expected one or more device names"),
            ({"devices": ["cpu", ""]}, "expected one or more device names"),
            ({"devices": ["cpu"], "device": "cpu"}, "were both given"),
            ({"devices": ["auto", "cpu"]}, "'auto' means one device"),
            ({"devices": ["cpu", "cuda:0"]}, "devices of several kinds"),
            ({"devices": ["cuda", "cuda:0"]}, "names cuda:0 twice"),
            ({"devices": ["cuda:1", "cuda:1"]}, "names cuda:1 twice"),
            ({"devices": ["cuda:98", "cuda:99"]}, "CUDA_VISIBLE_DEVICES is not set"),
            ({"device": "cuda:99"}, "CUDA_VISIBLE_DEVICES is not set"),
        ],
    )
    def test_impossible_ones(
        self,
        tiny_bert_encoder: Path,
        make_resolved_encoder: Any,
        monkeypatch: pytest.MonkeyPatch,
        options: Any,
        message: str,
    ) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with pytest.raises(InvalidInput, match=message):
            load_engine(tiny_bert_encoder, "cls", **options)
        with pytest.raises(InvalidInput, match=message):
            BiEncoder(make_resolved_encoder(tiny_bert_encoder), **options)

    def test_one_of_several_is_one(self, tiny_bert_encoder: Path) -> None:
        engine = load_engine(tiny_bert_encoder, "cls", devices=["cpu"], **OPTIONS)
        assert not isinstance(engine, EngineGroup)
        assert engine.device == "cpu"

    def test_a_first_one_that_does_not_load_leaves_nothing(
        self, tiny_bert_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = set(threading.enumerate())
        with pytest.raises(InvalidInput, match="fp16"):
            load_engine(
                tiny_bert_encoder, "cls", devices=["cpu", "cpu"], engine="openvino", dtype="fp16"
            )
        assert set(threading.enumerate()) <= before  # those of others may end meanwhile

    def test_cpu_processes_share_the_cores(
        self, tiny_bert_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[Any] = []
        monkeypatch.setattr("retrieval.models.engines.cpu_cores", lambda: 7)
        monkeypatch.setattr(
            "retrieval.models.engines.multi_device.load_group",
            lambda devices, load, options: given.append((devices, load.__self__, options)),
        )
        load_engine(tiny_bert_encoder, "cls", devices=["cpu", "cpu", "cpu"])
        load_engine(tiny_bert_encoder, "cls", devices=["cpu"] * 9)
        load_engine(tiny_bert_encoder, "cls", devices=["cpu"] * 2, threads=5)
        assert [options["threads"] for _, _, options in given] == [2, 1, 5]
        assert [model.threads for _, model, _ in given] == [2, 1, 5]

    def test_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert 1 <= hardware.cpu_cores() <= (os.cpu_count() or 1)
        if not hasattr(os, "sched_getaffinity"):
            return
        monkeypatch.setattr(hardware, "_cgroup_limit", lambda: None)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
        monkeypatch.setattr(hardware, "_siblings", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
        assert hardware.cpu_cores() == 2
        monkeypatch.setattr(hardware, "_cgroup_limit", lambda: 1)
        assert hardware.cpu_cores() == 1
