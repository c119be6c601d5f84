"""Measuring both stages on judged queries.

evaluate.py  `evaluate`: searches every judged query and measures
metrics.py   measures by name, and whether two runs differ
significance.py  tests, intervals and power of paired differences
judged.py    `JudgedQueries`: queries, judgements, and what a hit counts as
beir.py      judged collections in BEIR layout
trec.py      run and qrels files
report.py    what an evaluation found, as text and JSON
"""
