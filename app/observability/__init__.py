"""Metrics, logs and traces of the service.

`requests`: one request, counted, traced and logged, by `metrics`, `tracing` and `logging`.
"""
