"""This library in the shapes that RAG frameworks and evaluation tools expect, one module for each.

Nothing is imported here: each module needs its framework, which the extra of its name brings
(`langchain`, `llama-index`, `haystack`, `mteb`), and says so where it is absent.
"""
