"""How long a run will take and what memory it needs, from a part of a batch that is really run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from retrieval.errors import InvalidInput
from retrieval.training.batches import Inputs
from retrieval.training.micro_batches import features, parts_of
from retrieval.training.settings import TrainingSettings
from retrieval.training.trainable import Trainable

_SAMPLED = 8  # batches whose lengths are looked at
_OF_MEMORY = 0.8  # of what is free; the rest is for what was not seen
_ADAM_COPIES = 3  # gradient and two moments, beside the weights


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will take.

    Attributes:
        steps: of the run.
        tokens_per_step: padded tokens of a step, on one device.
        seconds: of all steps; measuring on the dev set comes on top.
        gigabytes: at the peak, beside what is used already.
        free_gigabytes: on the device.
        cached: whether the gradient cache is used.
    """

    steps: int
    tokens_per_step: int
    seconds: float
    gigabytes: float
    free_gigabytes: float
    cached: bool

    def as_text(self) -> str:
        """A sentence."""
        minutes = self.seconds / 60
        took = f"{minutes:.0f} min" if minutes >= 1 else f"{self.seconds:.0f} s"
        cache = ", with the gradient cache" if self.cached else ""
        return (
            f"{self.steps} steps of about {self.tokens_per_step:,} tokens: about {took} and "
            f"{self.gigabytes:.1f} GB of {self.free_gigabytes:.1f} GB free{cache}"
        )


def forecast(
    trainable: Trainable,
    rows: Sequence[dict[str, int]],
    settings: TrainingSettings,
    steps: int,
) -> Forecast:
    """Run parts of a batch forward and backward, and tell what the run will take.

    Weights and random numbers stay as they are.

    Args:
        trainable: the model, on its device.
        rows: of the order, from which batches are looked at.
        settings: of the run.
        steps: of the run.

    Raises:
        InvalidInput: it will not fit into memory, or takes longer than `most_minutes`.
    """
    size = settings.per_device_train_batch_size
    places = np.linspace(0, max(0, len(rows) - size), _SAMPLED).astype(int)
    batches = [
        trainable.collate(rows[place : place + size])["batch_input_ids"]
        for place in sorted(set(places.tolist()))
    ]
    padded = []
    for batch in batches:
        lengths = batch.inputs.lengths
        parts = parts_of(lengths, settings.micro_batch_tokens)
        padded.append(sum(len(rows) * int(lengths[rows].max()) for rows in parts))
    seconds, graph = _measured(trainable, batches[int(np.argmax(padded))].inputs, settings)
    weights = sum(p.numel() * 4 for p in trainable.model.parameters() if p.requires_grad)
    fixed = weights * _ADAM_COPIES
    largest, one_part = max(padded) * graph, settings.micro_batch_tokens * graph
    free = free_bytes(trainable.model.device)
    cached = settings.gradient_cache == "on" or (
        settings.gradient_cache == "auto"
        and not settings.deepspeed
        and fixed + largest > free * _OF_MEMORY
    )
    needed = fixed + (one_part if cached else largest)
    mean = float(np.mean(padded)) * settings.gradient_accumulation_steps
    found = Forecast(
        steps=steps,
        tokens_per_step=round(mean),
        seconds=steps * mean * seconds * (4 / 3 if cached else 1),  # the forward pass runs twice
        gigabytes=needed / 2**30,
        free_gigabytes=free / 2**30,
        cached=cached,
    )
    if needed > free:
        raise InvalidInput(
            f"training needs about {found.gigabytes:.1f} GB, and {found.free_gigabytes:.1f} GB "
            "are free",
            fix="Give gradient_cache='auto', a smaller micro_batch_tokens or "
            "per_device_train_batch_size, shorter texts, gradient_checkpointing or lora_rank.",
        )
    if settings.most_minutes is not None and found.seconds > settings.most_minutes * 60:
        raise InvalidInput(
            f"training takes about {found.seconds / 60:.0f} minutes, and most_minutes is "
            f"{settings.most_minutes:g}",
            fix="Give fewer epochs, a smaller train_group_size or shorter passages, or more time.",
        )
    return found


def _measured(
    trainable: Trainable, inputs: Inputs, settings: TrainingSettings
) -> tuple[float, float]:
    """Seconds a padded token, forward and backward, and bytes a token of the graph in between."""
    model, device = trainable.model, trainable.model.device
    parts = parts_of(inputs.lengths, settings.micro_batch_tokens)
    states = torch.get_rng_state()
    was_training = model.training
    model.train()
    times: list[float] = []
    graph = 0.0
    for rows in [parts[0], parts[len(parts) // 2], parts[0]]:
        batch = features(inputs.batch(rows), device)
        tokens = batch["input_ids"].numel()
        before = _used(device)
        started = time.perf_counter()
        output = trainable.output(model(batch))
        graph = max(graph, (_used(device) - before) / tokens)
        torch.autograd.backward(output.sum())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - started) / tokens)
        model.zero_grad(set_to_none=True)
    model.train(was_training)
    torch.set_rng_state(states)
    return min(times), graph


def _used(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; of the CPU, what the system or its container has left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free: int | None = None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        most = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            free = min(free or int(most), int(most) - used)
    except (OSError, ValueError):
        pass
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return free
