"""Dify's external knowledge."""
