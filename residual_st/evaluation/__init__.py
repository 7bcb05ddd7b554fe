"""Hypotheses, scores and training logs."""
