"""Measuring retrieval: BEIR folders, measures, TREC run files, and reports of both stages."""
