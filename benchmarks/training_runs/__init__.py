"""Matrices of training runs: definition, execution and comparison. `../quality.py` is the command."""
