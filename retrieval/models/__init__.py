"""Models: found by name, resolved to files, and run.

registry.py      finds a known model by name; known_models.py and known_modern.py hold the facts
resolve.py       name, folder or hub id → `ResolvedModel`; describe.py settles what it declares
model_folder.py  what a folder's files declare; weight_files.py its weights; fingerprint.py its id
sentence_files.py  writes what a folder declares: pooling, prompts, length, activation
safetensors_file.py  writes weights, one tensor at a time
hub.py           the only contact with a model hub (hub_errors.py); sources/ packages, ModelScope
cache_dir.py     what is kept between starts
defaults.py      which models are used when none is named
options.py       named options of how models run; load.py the class that runs a model
batching.py      batches of like length under a token budget

encoders/ text → vectors, rerankers/ pairs → scores, tokenization/ text → token ids, engines/
token ids → outputs of the network.
"""
