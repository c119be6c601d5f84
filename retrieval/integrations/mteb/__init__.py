"""mteb: both models as its benchmarks call them, and whole tasks by name (extra `mteb`).

    from retrieval.integrations.mteb import run_tasks

    for score in run_tasks(["SciFact", "STSBenchmark"], encoder="BAAI/bge-small-en-v1.5"):
        print(score.task, score.measure, score.first)

`run_tasks` is `retrieval mteb`. The models alone, for mteb's own calls:

    import mteb
    from retrieval.integrations.mteb import MtebCrossEncoder, MtebEncoder

    task = mteb.get_task("SciFact")
    mteb.evaluate(MtebEncoder("BAAI/bge-small-en-v1.5"), task, prediction_folder="predictions")
    task.convert_to_reranking("predictions", top_k=100)
    mteb.evaluate(MtebCrossEncoder("BAAI/bge-reranker-base"), task)

Queries of retrieval tasks get the model's own instruction, everything else that for passages.
Settings of mteb that would change nothing here (`batch_size`) are ignored: batches are made by
tokens.
"""

from __future__ import annotations

from retrieval.integrations.mteb.models import MtebCrossEncoder, MtebEncoder
from retrieval.integrations.mteb.tasks import TaskScore, run_tasks, scores_as_text

__all__ = ["MtebCrossEncoder", "MtebEncoder", "TaskScore", "run_tasks", "scores_as_text"]
