"""Requests that come at the same time share the models' batches, fairly and within bounds."""
