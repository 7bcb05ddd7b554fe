"""Benchmarks of residual models against the dense models that they replace."""
