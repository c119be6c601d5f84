"""Measuring both stages on judged queries.

evaluate.py        `evaluate`: searches every judged query and measures
metrics.py         measures by name, and whether two runs differ
significance.py    tests, intervals and power of paired differences
report.py          what an evaluation found, as text and JSON
cases.py           retrieval tests: what a search must find, and whether it did
cases_report.py    what came of them, as JSON and JUnit XML

judgements.py      `load_judgements`: judged queries of any format that people have
judged.py          `JudgedQueries`: queries, judgements, and what a hit counts as
resolve.py         what a person types for a document, found in a collection
beir.py, flag_embedding.py, topics.py, own_file.py    the formats
trec.py            run and qrels files, read and written
lines.py, qrels.py    what the formats share: lines, records, checks of grades and texts
"""
