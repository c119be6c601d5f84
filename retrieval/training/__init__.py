"""Training of both stages on one's own data: examples, hard negatives, fine-tuning, merging.

examples.py    `TrainingExample`: a query, passages that answer it and passages that do not
data/          from any file to examples, checked; FlagEmbedding's JSONL
near_duplicates.py  which texts say nearly the same
settings.py    what a run is asked for: a TOML file, options and card follow
run.py         `train_encoder`, `train_reranker`: data read, forecast, trained, resumed, written
encoder.py, reranker.py    a stage ready to be trained: model, batches, loss, measure
groups.py      which passages a query meets; collators.py, batches.py: as token ids of a batch
micro_batches.py    a batch computed in parts, and large ones in little memory
objectives.py  the losses; encoder_objective.py: in-batch and cross-device negatives, a guide
loop.py        sentence-transformers' trainer around them; progress.py the curve; report.py
identity.py    whether a run that was cut off is the one that is asked for
probe.py       time and memory of a run, beforehand; dev_set.py the measure during it; lora.py
folder.py      a new folder in one rename; saving.py what stands in it beside weights, and the card
mining/        hard negatives: candidates, false negatives, teachers, resumable runs
merging/       one model from the weighted average of several: LM-Cocktail
"""
