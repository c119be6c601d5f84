"""What do 1 M, 100 M, 1 B and 10 B passages take: memory, disk, machines, GPU hours and money?

Works it out from what the other benchmarks measured (`encode.py`, `index.py`: their JSON files) and
from assumptions that a file states with their date (`scale_assumptions.json`: prices, machines,
what share of a GPU's peak is reached). Nothing is measured here and no price is looked up.

The formulas are in `_scale.py`. `--write docs/scaling.md` replaces the tables there.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from _report import Row, parser, report
from _scale import Inputs, embedding, load, servers, short_bytes, terms_and_ids

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SIZES = {"1 M": 10**6, "100 M": 10**8, "1 B": 10**9, "10 B": 10**10}
DIMENSIONS = (384, 768, 1024)
QUANTIZATIONS = ("none", "int8", "binary")
MARK = "<!-- scale_model {edge} {name} -->"

# --- tables ---------------------------------------------------------------------------------


def tables(inputs: Inputs) -> dict[str, str]:
    """The Markdown tables of docs/scaling.md, by name."""
    a = inputs.assumed
    given = [
        ("bytes a passage on disk, 384 dimensions", f"{inputs.disk_bytes:,.0f}", inputs.index),
        ("of them not vector or graph", f"{inputs.other_bytes:,.0f}", "worked out"),
        ("upserts a second", f"{inputs.upsert:,.0f}", inputs.index),
        ("points a second into the graph", f"{inputs.graph:,.0f}", inputs.index),
        ("tokens a second and core, bge-small", f"{inputs.tokens_per_core:,.0f}", inputs.encode),
        ("tokens a passage", f"{a['tokens_per_passage']:,}", "assumed"),
        *((f"share of a GPU's peak that {one['name']} reaches", f"{one['gpu_share']:.0%}",
           "assumed") for one in a["encoders"].values()),
        ("RAM of BM25 terms and ids, bytes a passage", f"{terms_and_ids(a):,.0f}", "assumed"),
        ("headroom for rewriting segments: RAM, disk",
         f"× {a['headroom']:g}, × {a['disk_headroom']:g}", "assumed"),
        *((f"machine of {one['name']}", f"${one['month']:,} a month", "assumed")
          for one in a["machines"]),
        ("disk", f"${a['disk_gb_month']:g} a GB and month", "assumed"),
        *((f"{one['name']}, {one['bf16_tflops']} TFLOP/s in bf16", f"${one['hour']:g} an hour",
           "assumed") for one in a["gpus"]),
        ("a CPU core", f"${a['core_hour']:g} an hour", "assumed"),
    ]  # fmt: skip
    if inputs.disk_bytes_int8 is not None:
        model = inputs.disk_bytes + short_bytes(inputs.dimension, "int8")
        given.insert(2, ("with int8: measured, and by the model",
                         f"{inputs.disk_bytes_int8:,.0f}, {model:,.0f}", inputs.index))  # fmt: skip
    held = [
        (name, str(d), q, _bytes(s.ram), _bytes(s.disk), str(s.copies),
         f"{s.nodes} × {s.machine}", str(s.shards), _hours(s.build_hours), _money(s.month))
        for name, n in SIZES.items()
        for d in DIMENSIONS
        for q in QUANTIZATIONS
        for s in [servers(inputs, n, d, q)]
    ]  # fmt: skip
    names = [gpu["name"] for gpu in a["gpus"]]
    encoded = [
        (name, f"{d} ({a['encoders'][str(d)]['name']})",
         *(f"{_hours(e.gpu_hours[g])}, {_money(e.gpu_money[g])}" for g in names),
         f"{_hours(e.core_hours)}, {_money(e.core_money)}")
        for name, n in SIZES.items()
        for d in DIMENSIONS
        for e in [embedding(inputs, n, d)]
    ]  # fmt: skip
    heads = ("passages", "dimension", "quantization", "RAM, one copy", "disk, one copy", "copies",
             "nodes", "shards", "building", "a month")  # fmt: skip
    return {
        "inputs": _table(("what", "value", "from"), given),
        "servers": _table(heads, held),
        "embedding": _table(
            ("passages", "dimension", *(f"{name} hours" for name in names), "CPU core hours"),
            encoded,
        ),
    }


def _table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [heads, ("---",) * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _bytes(value: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if value >= size:
            return f"{_short(value / size)} {unit}"
    return f"{value / 2**20:.0f} MiB"


def _hours(value: float) -> str:
    return f"{_short(value)} h" if value >= 0.1 else f"{value * 60:.1f} min"


def _money(value: float) -> str:
    return f"${_short(value)}" if value >= 1 else f"${value:.2f}"


def _short(value: float) -> str:
    """Two figures: more would promise what a model cannot keep."""
    if value >= 100:
        digits = int(math.log10(value)) - 1
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def written(text: str, parts: dict[str, str]) -> str:
    """A document with the tables between its marks replaced.

    Raises:
        SystemExit: a mark is missing.
    """
    for name, table in parts.items():
        begin, end = (MARK.format(edge=edge, name=name) for edge in ("begin", "end"))
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"The document has no marks {begin} … {end} to write between.")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def rows(inputs: Inputs) -> list[Row]:
    """All figures, for the JSON file."""
    found = []
    for name, n in SIZES.items():
        for d in DIMENSIONS:
            for q in QUANTIZATIONS:
                s = servers(inputs, n, d, q)
                case = f"{name} × {d}, {q}"
                for metric, value, unit in (
                    ("RAM of a copy", s.ram, "bytes"), ("disk of a copy", s.disk, "bytes"),
                    ("copies", s.copies, ""), ("nodes", s.nodes, ""), ("shards", s.shards, ""),
                    ("building", s.build_hours, "h"), ("a month", s.month, "$"),
                ):  # fmt: skip
                    found.append(Row(case, s.machine, metric, value, unit))
            e = embedding(inputs, n, d)
            case = f"{name} × {d}, embedding"
            for gpu, hours in e.gpu_hours.items():
                found.append(Row(case, gpu, "time", hours, "h"))
                found.append(Row(case, gpu, "money", e.gpu_money[gpu], "$"))
            found.append(Row(case, "CPU core", "time", e.core_hours, "h"))
            found.append(Row(case, "CPU core", "money", e.core_money, "$"))
    return found


def options() -> argparse.ArgumentParser:
    result = parser(__doc__.splitlines()[0])
    result.add_argument("--index", type=Path, default=RESULTS / "index.json", metavar="FILE")
    result.add_argument("--encode", type=Path, default=RESULTS / "encode-bge-small-real.json",
                        metavar="FILE")  # fmt: skip
    result.add_argument("--assumptions", type=Path, default=HERE / "scale_assumptions.json",
                        metavar="FILE", help="prices, machines and shares")  # fmt: skip
    result.add_argument(
        "--assume",
        action="store_true",
        help="assumed figures for an index that was not measured; so does --quick",
    )
    result.add_argument("--write", type=Path, metavar="FILE", help="replace a document's tables")
    return result


def main() -> None:
    arguments = options().parse_args()
    inputs = load(
        index=arguments.index,
        encode=arguments.encode,
        assumptions=arguments.assumptions,
        assume=arguments.assume or arguments.quick,
    )
    parts = tables(inputs)
    print("\n\n".join(parts.values()))
    if arguments.write is not None:
        text = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(written(text, parts), encoding="utf-8")
        print(f"\nwrote the tables of {arguments.write}", file=sys.stderr)
    report(
        rows(inputs),
        file=arguments.json,
        notes={"index": inputs.index, "encode": inputs.encode, "assumptions": inputs.assumed},
        quiet=True,
    )


if __name__ == "__main__":
    main()
