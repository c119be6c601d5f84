"""Second stage by a language model: "does passage B answer query A?", and the logit of "Yes".

Prompts, truncation and scores are those of FlagEmbedding's `FlagLLMReranker`,
`LayerWiseFlagLLMReranker` and `LightWeightFlagLLMReranker`, and of sentence-transformers'
`CrossEncoder` for models that read a chat (Qwen3-Reranker); they are tested against them.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import check_pairs, whole_number
from retrieval.errors import InvalidInput, ModelFault, ModelSettingUnknown
from retrieval.models.batching import plan_batches, unique_pairs
from retrieval.models.forks import LoadedHere
from retrieval.models.model_folder import COST_WISE, read_folder
from retrieval.models.rerankers.chat_prompts import ChatTemplate
from retrieval.models.rerankers.llm_prompts import LIGHTWEIGHT_PROMPT, PROMPT, Prompts, Template
from retrieval.models.rerankers.scores import check_scores, sigmoid
from retrieval.models.resolve import resolve
from retrieval.types import ProgressCallback, RerankerInfo, ResolvedModel, Scores

if TYPE_CHECKING:
    import torch

    from retrieval.models.engines.base import Dtype
    from retrieval.models.rerankers.llm_decoders import Decoder, Worker

SLICE = 4096
"""Pairs that are tokenised and sorted by length together: bounds memory, whatever their number."""

HEADS = ("yes-logit", "layerwise-yes-logit", "chat-logit", "chat-classification")
"""The score heads that this class runs."""

_RATIOS = (1, 2, 4, 8)


class LLMReranker:
    """Scores (query, passage) pairs by a language model; implements `retrieval.types.Reranker`.

    BGE's models read `A: query`, `B: passage` and the prompt, a line each; others what their chat
    template makes of the prompt, the query and the passage (`chat_prompts.py`). Pairs of all
    queries share batches of like length, and the same pair of texts is computed once. A query keeps
    up to three quarters of `max_length`; what is left is the passage's. May be used from several
    threads.

    Args:
        model: a name from `retrieval models`, a folder, a hub id, or a resolved model.
        device: `auto` or a torch device.
        devices: several torch devices, each with a copy of the model, that share the work.
        dtype: `auto` (bf16 on a GPU and on CPUs that multiply it, else fp32), fp32, bf16 or fp16.
        max_length: longest pair in tokens, BGE's prompt aside; None for the model's own.
        batch_size: pairs in a batch at most.
        token_budget: padded tokens in a batch; None for 2,048 on a CPU, 16,384 on a GPU.
        cutoff_layers: the layer at which layerwise models stop; None for the last.
        compress_ratio: how many passage tokens the lightweight model averages: 1, 2, 4 or 8.
        compress_layers: before which layers it does so; None for layer 8.
        prompt: the question, or the task of a chat; None for the one the model was trained with.
        threads: CPU threads; None leaves torch's own setting. It holds for the whole process.
        deterministic: each pair alone, so that its score cannot depend on the others.

    Raises:
        ModelNotFound: no such model, or its files are incomplete.
        ModelSettingUnknown: its longest input is declared nowhere.
        InvalidInput: the model is not such a reranker, or an argument cannot be used.
        ModelFault: the weights do not load, or the device has no room for them.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ResolvedModel,
        *,
        device: str = "auto",
        devices: Sequence[str] | None = None,
        dtype: Dtype = "auto",
        max_length: int | None = None,
        batch_size: int = 32,
        token_budget: int | None = None,
        cutoff_layers: int | Sequence[int] | None = None,
        compress_ratio: int | None = None,
        compress_layers: Sequence[int] | None = None,
        prompt: str | None = None,
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        layer = _layer(cutoff_layers)
        _check_arguments(batch_size, token_budget, compress_ratio, devices, threads)
        resolved = _resolved(model, max_length)
        length = resolved.spec.max_length
        if length is None:
            raise ModelSettingUnknown(
                f"the reranker {resolved.spec.name} does not declare how many tokens it takes",
                fix="Pass max_length=… (CLI: --max-length).",
            )
        self.info = RerankerInfo(
            model=resolved.spec.name,
            fingerprint=resolved.fingerprint,
            kind="cross-encoder",
            max_length=length,
        )
        self._prompts = _template(resolved, prompt, length)
        self._max_batch = 1 if deterministic else batch_size

        from retrieval.models.engines.transformers import choose_device, choose_dtype
        from retrieval.models.rerankers.llm_decoders import Worker
        from retrieval.models.rerankers.llm_loading import Cut, load_decoder

        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        places = [choose_device(name) for name in devices or [device]]
        self._dtype = choose_dtype(places[0], dtype)
        cut = Cut(layer, compress_ratio, _whole(compress_layers))
        copies: dict[torch.device, Decoder] = {}
        for place in places:
            if place not in copies:  # several workers on one device share its copy
                loaded = load_decoder(
                    resolved.path, _torch_dtype(self._dtype), cut, self._prompts.answer
                )
                copies[place] = _moved(loaded, place, resolved)
        self._loaded = LoadedHere()
        self._workers = [Worker(copies[place], place) for place in places]
        if token_budget is None:
            token_budget = 2048 if places[0].type == "cpu" else 16_384
        self._token_budget = token_budget

    @property
    def engine(self) -> str:
        """How it runs, for notices and reports, as in `transformers bf16 on cuda`."""
        places = ", ".join(dict.fromkeys(str(worker.device) for worker in self._workers))
        return f"transformers {self._dtype} on {places}"

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """Raw scores float64 (n,), in the order of `pairs`, lengths, and which pairs were cut.

        Args:
            pairs: (query, passage) texts; queries may differ.
            progress: called with pairs done and in total.

        Raises:
            InvalidInput: an element is not a pair of str.
            ModelFault: the device failed, or a score is not a finite number.
        """
        check_pairs(pairs)
        self._loaded.check(self.info.model)
        unique, row_of = unique_pairs(pairs)
        repeats = np.bincount(row_of, minlength=len(unique))
        values = np.empty(len(unique), dtype=np.float64)
        tokens = np.empty(len(unique), dtype=np.int64)
        truncated = np.empty(len(unique), dtype=np.bool_)
        done = 0
        for start in range(0, len(unique), SLICE):
            prompts = self._prompts.fill(unique[start : start + SLICE])
            stop = start + len(prompts.rows)
            tokens[start:stop], truncated[start:stop] = prompts.full, prompts.truncated
            batches = plan_batches(
                prompts.lengths, token_budget=self._token_budget, max_batch=self._max_batch
            )
            for batch, scores in self._run(prompts, batches):
                values[start + batch] = scores
                done += int(repeats[start + batch].sum())
                if progress is not None:
                    progress(done, len(pairs))
        check_scores(values, unique, f"{self.info.model} ({self.engine})")
        return Scores(values=values[row_of], truncated=truncated[row_of], tokens=tokens[row_of])

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sigmoid of raw scores, in float64: monotone and in [0, 1]."""
        return sigmoid(scores)

    def _run(
        self, prompts: Prompts, batches: list[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Each batch with its scores, in any order, from the calling thread."""
        if len(self._workers) == 1 or len(batches) < 2 * len(self._workers):
            for batch in batches:
                yield batch, self._workers[0].score(prompts, batch)
            return
        todo: queue.SimpleQueue[NDArray[np.int64]] = queue.SimpleQueue()
        for batch in batches:
            todo.put(batch)
        replies: queue.SimpleQueue[_Reply] = queue.SimpleQueue()
        stop = threading.Event()

        def work(worker: Worker) -> None:
            while not stop.is_set():
                try:
                    batch = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    replies.put((batch, worker.score(prompts, batch)))
                except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                    replies.put((batch, error))

        threads = [threading.Thread(target=work, args=(w,), daemon=True) for w in self._workers]
        for thread in threads:
            thread.start()
        try:
            for _ in batches:
                batch, reply = replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield batch, reply
        finally:
            stop.set()
            for thread in threads:
                thread.join()


_Reply = tuple[NDArray[np.int64], "NDArray[np.float64] | BaseException"]


def _template(resolved: ResolvedModel, prompt: str | None, length: int) -> Template | ChatTemplate:
    if resolved.spec.score_head in ("chat-logit", "chat-classification"):
        return ChatTemplate(resolved, prompt, length)
    if prompt is None:
        cost_wise = read_folder(resolved.path).architecture == COST_WISE
        prompt = LIGHTWEIGHT_PROMPT if cost_wise else PROMPT
    return Template(resolved, prompt, length)


def _layer(cutoff_layers: int | Sequence[int] | None) -> int | None:
    """FlagEmbedding takes a list, and gives a list of scores for it; here one layer scores."""
    if cutoff_layers is None or isinstance(cutoff_layers, int):
        return cutoff_layers
    if len(cutoff_layers) != 1:
        raise InvalidInput(
            f"cutoff_layers={list(cutoff_layers)} was given, and a pair has one score",
            fix="Give one layer, such as cutoff_layers=28.",
        )
    return int(cutoff_layers[0])


def _whole(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if layers is None else tuple(int(layer) for layer in layers)


def _check_arguments(
    batch_size: int,
    token_budget: int | None,
    compress_ratio: int | None,
    devices: Sequence[str] | None,
    threads: int | None,
) -> None:
    numbers = {"batch_size": batch_size, "token_budget": token_budget, "threads": threads}
    for name, number in numbers.items():
        if number is not None:
            whole_number(number, name, fix="Give a positive number, or leave it out.")
    if compress_ratio is not None and compress_ratio not in _RATIOS:
        raise InvalidInput(
            f"compress_ratio={compress_ratio} was given",
            fix="Choose 1, 2, 4 or 8, for which the model was trained.",
        )
    if isinstance(devices, str) or (devices is not None and not devices):
        raise InvalidInput(
            f"devices={devices!r} was given, expected a list of torch devices",
            fix="Give one such as ['cuda:0', 'cuda:1'], or leave it out.",
        )


def _resolved(
    model: str | os.PathLike[str] | ResolvedModel, max_length: int | None
) -> ResolvedModel:
    if not isinstance(model, ResolvedModel):
        # The caller of this class decides how a plain language model is scored.
        model = resolve(model, "reranker", max_length=max_length, score_head="yes-logit")
    elif max_length is not None:
        model = replace(model, spec=replace(model.spec, max_length=max_length))
    if model.spec.score_head not in HEADS:
        raise InvalidInput(
            f"{model.spec.name} has the score head {model.spec.score_head or 'none'}, expected a "
            "language model that says Yes or No",
            fix="Use load_reranker(), or choose one such as BAAI/bge-reranker-v2-gemma.",
        )
    return model


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _moved(decoder: Decoder, device: torch.device, model: ResolvedModel) -> Decoder:
    try:
        return decoder.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelFault(
            f"the model in {model.path} could not be moved to {device}: {error}",
            fix="Free memory there, lower cutoff_layers where the model takes it, or choose "
            "another device.",
        ) from error
