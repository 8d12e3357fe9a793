"""Bundled models: a graph, its checkpoint and its card each."""

DEFAULT_MODEL = "srresnet"
"""The model used when none is named."""
