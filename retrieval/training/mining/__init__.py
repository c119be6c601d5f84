"""Hard negatives: passages that a first stage finds for a query and that do not answer it.

settings.py         `MiningSettings`: what is mined, each value checked; the command line follows
candidates.py       `MiningQuery`, `Found`: what goes in; text that identifies a passage
pool.py             `PlainPool`: candidates from texts, by exact search (exact.py, in blocks)
false_negatives.py  what is left out since it answers the query, or may
teachers.py         scores that decide: a reranker, the encoder, an ensemble
choosing.py         one batch of queries: candidates in order, looked at until there are enough
job.py              all batches: a file of finished queries beside the output, resumed
report.py           what was left out and why, how hard it is, samples to look at
"""
