"""The entry points: each call opens, fills, measures or replaces a collection.

open.py             `open`: a retriever over a collection
ingest.py           `ingest`: a source into a collection
live.py             `FollowingRetriever`: goes on with the version that a collection is switched to
evaluate_folder.py  `retrieval eval`: judged queries, searched and measured; evaluation_searches.py
                    and evaluation_origin.py: its searches, and what it takes to repeat it
given_runs.py       other systems' runs beside it, re-ranked by our second stage
evaluate_service.py `retrieval eval --service`: a running service, measured by service_client.py
case_file.py        `load_cases`: retrieval tests from TOML
run_cases.py        `run_cases`: retrieval tests on an open collection
make_pool.py        `make_pool`: questions, and what systems find for them, to be judged
compare.py          `retrieval compare`: a grid of settings on judged queries
compare_job.py      its work: indexes made, settings searched and timed
compare_models.py, remembering.py, compare_cost.py    its models; what they compute once; how long
compare_collection.py    on an existing collection, and for one
measure_stages.py   `measure_stages`: an encoder and rerankers on judged sets, for tuning;
                    lent_models.py: models by name or given, for as long as it takes
gate.py             `gate`: whether tuned models are better, and nothing else worse
mine.py             `mine`: hard negatives; mine_collection.py, mine_source.py: where from
merge.py            `merge`: models by name into one; merge_sweep.py, merge_report.py: sweeps
adapt.py, adapt_steps.py, adapt_work.py    `adapt`: labels to switched models, step by step;
                    adapt_settings.py, adapt_state.py, adapt_cost.py: asked for, done, how long
reindex.py          the next version of a collection, compared and switched to; reencode.py: from
                    its own passages, with another encoder
models.py           the models that a collection was built with, or that a user names
"""
