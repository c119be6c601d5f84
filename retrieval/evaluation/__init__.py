"""Measuring both stages on judged queries.

evaluate.py        `evaluate`: searches every judged query and measures
metrics.py         measures by name, and whether two runs differ
significance.py    tests, intervals and power of paired differences
calibration.py     scores to probabilities, thresholds that promise something
candidate_scores.py    what judged queries' candidates scored: what is calibrated
calibration_report.py    what a calibration found, as text and JSON
drift.py           whether searches are still like those that were calibrated on
settings.py        what of indexing and searching can vary, and how each value is written
grid.py            grids of settings: lists, files, names
comparison.py      settings that were measured, and the rule by which one is taken
comparison_report.py, comparison_folder.py    the same as text and JSON; kept while it is measured
gate.py, gate_report.py    whether tuned models may take the place of those before
rows.py            from results to a row of figures and intervals
report.py          what an evaluation found, as text and JSON; write_report.py: as files
html_report.py     as a page, with report.html.j2, svg_plots.py and svg_axes.py
coverage.py        judged documents and queries that are missing
cases.py           retrieval tests: what a search must find, and whether it did
cases_report.py    what came of them, as JSON and JUnit XML

judgements.py      `load_judgements`: judged queries of any format that people have
judged.py          `JudgedQueries`: queries, judgements, and what a hit counts as
resolve.py         what a person types for a document, found in a collection
beir.py, flag_embedding.py, topics.py, own_file.py    the formats
trec.py            run and qrels files, read and written
lines.py, qrels.py    what the formats share: lines, records, checks of grades and texts

pool.py            `Pool`: questions and what was found for them, judged a key at a time
pool_contents.py, pool_judgements.py, pool_status.py, pool_files.py    its parts, and its files
pooling.py         the union of what several systems rank highest
query_log.py       questions from the service's log
synthetic.py       questions that a language model writes
json_lines.py      files that are appended to, a line on disk at a time
"""
