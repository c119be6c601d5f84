"""LM-Cocktail: one model from the weighted average of several (Xiao et al. 2023).

merge.py    `merge_models`: checks, then weights tensor by tensor, files, card
report.py    what was merged into what; the model card
weights.py  how much of each model: given, equal, or from its loss on examples
checks.py   whether models can be averaged: architecture, settings, tokeniser
tensors.py  the weights of a folder, one tensor at a time; which of them are averaged
average.py  linear and spherical averages of one tensor
"""
