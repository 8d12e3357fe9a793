"""Measurements: latency, quality and parity, written as JSON."""
