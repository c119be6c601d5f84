"""Does a run that reports success have every passage on every copy, whatever happened before?

Random writes, changes, deletions and prunes on the double of a cluster (three nodes, two copies),
whose nodes are killed, frozen and started again; connections break before and after a request was
applied, runs are cut off and repeated: `tests/chaos_help.py`. `differences` are passages that a
copy lacks, has too much or has otherwise when at last a run has reported success with all nodes up;
`false successes` the same after such runs in between. Both are to be 0.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from _report import OURS, Row, machine, parser, report

from retrieval.types import Storage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from chaos_help import Chaos
from doubles.cluster import qdrant_cluster


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, help="histories; 20, or 2 with --quick")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--operations", type=int, help="in each; 10, or 6 with --quick")
    given = options.parse_args()
    seeds = given.seeds or (2 if given.quick else 20)
    operations = given.operations or (6 if given.quick else 10)
    logging.disable(logging.WARNING)
    at_start, rows, bad = machine(), [], 0
    for seed in range(given.first, given.first + seeds):
        addresses, needed = (1, 3)[seed % 2], 1 + (seed // 2 + 1) % 2
        storage = Storage(shards=3, replicas=2, write_consistency=needed)
        case = f"seed {seed}: {addresses} of 3 addresses, write consistency {needed}"
        start = time.perf_counter()
        with qdrant_cluster(3) as cluster, tempfile.TemporaryDirectory() as folder:
            chaos = Chaos(cluster, seed, addresses=addresses, storage=storage, folder=Path(folder))
            figures = asdict(chaos.run(operations))
        bad += figures["differences"] + figures["false_successes"]
        rows += [
            Row(case, OURS, name.replace("_", " "), float(value), "")
            for name, value in figures.items()
        ]
        rows.append(Row(case, OURS, "time", time.perf_counter() - start, "s"))
        print(f"{case}: {figures['differences']} differences", file=sys.stderr, flush=True)
    totals: dict[tuple[str, str], float] = {}
    for row in rows:
        totals[row.metric, row.unit] = totals.get((row.metric, row.unit), 0.0) + row.value
    rows += [Row("all", OURS, name, value, unit) for (name, unit), value in totals.items()]
    report(rows, file=given.json, packages=("qdrant-client",), at_start=at_start)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
