"""Ingestion in the background: uploads, jobs and their history."""
