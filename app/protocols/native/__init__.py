"""This project's own HTTP API."""
