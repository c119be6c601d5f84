"""Answers written by a language model from what was retrieved, with citations.

    hits → `prompt.build` (sources within a token budget, marked as data)
         → `language_model` (any OpenAI-compatible endpoint)
         → `citations.cited` (which sources the answer names, and which it made up)

`answer` puts them together.
"""
