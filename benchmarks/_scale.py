"""The model behind `scale_model.py`: from measured bytes and rates to machines, hours and money.

Of n passages with vectors of d numbers, m links a point in the graph, in bytes a passage:

    vector      4 d                             float32
    short form  d (int8) or d / 8 (binary)      beside the vector, which is kept for re-scoring
    graph       4 (2 m + m / (m - 1))           4-byte links: 2 m on the lowest level, m on those
                                                above, which 1 point in m reaches (Malkov and
                                                Yashunin 2018)
    other       measured disk - 4 d - graph     text, metadata, BM25 terms, ids, engine's own files

    disk        vector + short form + graph + other
    RAM         (vector or, where there is one, its short form + graph + BM25 terms + ids) ×
                headroom; without a short form not less than Qdrant's rule of thumb, 4 d × 1.5
                (qdrant.tech/documentation/guides/capacity-planning)
    nodes       of the smallest machine of which few enough do: copies × RAM / its share for data;
                at least 3 with copies (of 3 nodes one may fail)
    shards      2 a node, so that the cluster can double without a new collection; 1 on one node

    building    (1 / upserts a second + d / 384 / points a second into the graph) on as many cores
                as were measured, spread over all cores of all nodes, for each copy

    embedding   tokens × FLOP a token / (peak × share of it that is reached)
    FLOP        2 × layers × (4 h² + 2 h i) + 4 × layers × h × length; h hidden, i intermediate:
                products of weights, and attention (2 × length × h multiply-adds a layer)
    CPU         measured tokens a second and core of bge-small, by FLOP for the others
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _report import OURS

SMALL = 10_000_000
"""Up to this many passages one server is enough, and a backup replaces copies."""

GIB, HOUR = 2**30, 3_600.0


class MissingInputError(SystemExit):
    """An input is not there; the message says how it is made."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model starts from. `index` and `encode` say where their figures come from."""

    assumed: dict[str, Any]
    index: str
    encode: str
    dimension: int
    disk_bytes: float
    upsert: float
    graph: float
    build_cores: float
    tokens_per_core: float
    disk_bytes_int8: float | None = None

    @property
    def other_bytes(self) -> float:
        """Disk bytes of a passage that do not depend on the dimension."""
        return self.disk_bytes - 4 * self.dimension - graph_bytes(self.assumed["hnsw_m"])


def load(*, index: Path, encode: Path, assumptions: Path, assume: bool = False) -> Inputs:
    """The inputs.

    Args:
        index: JSON of index.py; encode: JSON of encode.py with bge-small.
        assume: take the assumptions' figures for an index that was not measured.

    Raises:
        MissingInputError: a file is not there, or has not the rows that are needed.
    """
    assumed = json.loads(_text(assumptions, "a file of assumptions"))
    content = json.loads(_text(encode, "encode.py --shape bge-small --mix real"))
    rate = _value(encode, content, "bge-small", OURS, "tokens")
    common = {
        "assumed": assumed,
        "encode": f"results/{encode.name}",
        "tokens_per_core": rate / content["machine"]["cores"],
    }
    if not index.exists() and assume:
        guess = assumed["index"]
        return Inputs(
            index=f"assumed, {assumed['date']}",
            dimension=guess["dimension"],
            disk_bytes=guess["disk_bytes"],
            upsert=guess["upsert_per_second"],
            graph=guess["graph_per_second"],
            build_cores=guess["build_cores"],
            **common,
        )
    measured = json.loads(_text(index, "index.py"))
    size, case = _largest(index, measured)
    find = [_value(index, measured, case, OURS, name) for name in ("disk each", "upsert", "graph")]
    wanted = (case, f"{OURS} int8", "disk each")
    int8 = [
        row["value"]
        for row in measured["rows"]
        if (row["case"], row["system"], row["metric"]) == wanted
    ]
    return Inputs(
        index=f"results/{index.name}, {case.partition(':')[0]}",
        dimension=assumed["index"]["dimension"],
        disk_bytes=find[0],
        upsert=find[1],
        graph=size / find[2],
        build_cores=measured["machine"]["cores"],
        disk_bytes_int8=int8[0] if int8 else None,
        **common,
    )


def _text(path: Path, script: str) -> str:
    if not path.exists():
        raise MissingInputError(
            f"There is no {path}. Make it with `python benchmarks/{script} --json {path}`, name "
            "another, or use --assume for the figures of the file of assumptions."
        )
    return path.read_text(encoding="utf-8")


def _value(path: Path, content: Any, case: str, system: str, metric: str) -> float:
    for row in content["rows"]:
        if row["case"].startswith(case) and (row["system"], row["metric"]) == (system, metric):
            return float(row["value"])
    raise MissingInputError(f"{path} has no {metric!r} of {system!r} for {case!r}; run it again.")


def _largest(path: Path, content: Any) -> tuple[int, str]:
    """Size and case of the largest build of clustered passages."""
    found = []
    for case in {row["case"] for row in content["rows"]}:
        name, _, rest = case.partition(": ")
        if name.startswith("clustered ") and rest == "build":
            found.append((int(name.split()[1].replace(",", "")), case))
    if not found:
        raise MissingInputError(f"{path} has no build of clustered passages; run index.py again.")
    return max(found)


# --- the model ------------------------------------------------------------------------------


def graph_bytes(m: int) -> float:
    """Links of a point, 4 bytes each."""
    return 4 * (2 * m + m / (m - 1))


def terms_and_ids(assumed: dict[str, Any]) -> float:
    """RAM of a passage's BM25 terms (id, weight and block maximum of each) and of its id."""
    terms: float = assumed["terms_per_passage"] * assumed["term_ram_bytes"]
    return terms + float(assumed["point_ram_bytes"])


def short_bytes(dimension: int, quantization: str) -> float:
    """The quantised vector."""
    return {"none": 0.0, "int8": float(dimension), "binary": dimension / 8}[quantization]


@dataclass(frozen=True, slots=True)
class Servers:
    """What holds a collection. `ram` and `disk`: bytes of one copy of it."""

    passages: int
    dimension: int
    quantization: str
    ram: float
    disk: float
    copies: int
    machine: str
    nodes: int
    shards: int
    month: float
    build_hours: float


def servers(inputs: Inputs, passages: int, dimension: int, quantization: str) -> Servers:
    """Memory, disk, machines and money a month."""
    a = inputs.assumed
    graph, short = graph_bytes(a["hnsw_m"]), short_bytes(dimension, quantization)
    searched = short or 4 * dimension
    own = (searched + graph + terms_and_ids(a)) * a["headroom"]
    ram = passages * max(own, 0 if short else 6 * dimension)
    disk = passages * (4 * dimension + short + graph + inputs.other_bytes) * a["disk_headroom"]
    copies = 1 if passages <= SMALL else 2
    least = 1 if copies == 1 else 3
    for machine in a["machines"]:
        room = machine["ram_gib"] * GIB * a["ram_share"]
        nodes = max(least, math.ceil(copies * ram / room))
        if nodes <= a["most_nodes_of_a_size"]:
            break
    month = nodes * machine["month"] + copies * disk / 1e9 * a["disk_gb_month"]
    # Graphs are built by all cores of all nodes, each copy by itself.
    each = 1 / inputs.upsert + dimension / inputs.dimension / inputs.graph
    seconds = copies * passages * each * inputs.build_cores
    return Servers(
        passages, dimension, quantization, ram, disk, copies, machine["name"], nodes,
        1 if nodes == 1 else 2 * nodes, month, seconds / (nodes * machine["cores"]) / HOUR,
    )  # fmt: skip


def flop_per_token(encoder: dict[str, Any], length: float) -> float:
    """Floating-point operations of an encoder for a token of a text of that many tokens."""
    h, i, layers = encoder["hidden"], encoder["intermediate"], encoder["layers"]
    return float(layers * (2 * (4 * h * h + 2 * h * i) + 4 * h * length))


@dataclass(frozen=True, slots=True)
class Embedding:
    """What it takes to encode a corpus once: hours by device, and money."""

    passages: int
    dimension: int
    gpu_hours: dict[str, float]
    gpu_money: dict[str, float]
    core_hours: float
    core_money: float


def embedding(inputs: Inputs, passages: int, dimension: int) -> Embedding:
    """GPU and CPU hours."""
    a = inputs.assumed
    length = a["tokens_per_passage"]
    tokens = passages * length
    encoder = a["encoders"][str(dimension)]
    flop = flop_per_token(encoder, length)
    small = flop_per_token(a["encoders"]["384"], length)
    hours, money = {}, {}
    for gpu in a["gpus"]:
        rate = gpu["bf16_tflops"] * 1e12 * encoder["gpu_share"] / flop
        hours[gpu["name"]] = tokens / rate / HOUR
        money[gpu["name"]] = hours[gpu["name"]] * gpu["hour"]
    cores = tokens / (inputs.tokens_per_core * small / flop) / HOUR
    return Embedding(passages, dimension, hours, money, cores, cores * a["core_hour"])
