"""Matrices of training runs: what they make, how it is made, and how it is compared. `../quality.py` is the command."""
