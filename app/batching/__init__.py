"""Requests that come at the same time share the models' batches, fairly and within bounds.

    admission.py   lets a request in, or refuses it with 429, by its caller's own share
    deadline.py    goes with a request: its caller, its deadline, whether it was cancelled
    queue.py       what waits for one model, and which caller is next
    batcher.py     one thread per model: takes a batch from the queue, runs it, hands out the values
    cache.py       keeps values, so that only what is missing goes to the batcher
    encoder.py     `retrieval.types.Encoder` over a batcher
    reranker.py    `retrieval.types.Reranker` over a batcher
    tokens.py      what texts cost, and how fast a model reads them

A call goes admission → encoder or reranker → cache → batcher → queue → model.
"""
