"""Answers written by a language model from what was retrieved, with citations."""
