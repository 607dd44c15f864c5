"""Serves a model over HTTP: OpenAI's API and other dialects, metrics."""
