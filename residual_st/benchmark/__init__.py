"""Measurements of residual models side by side with the stock ones that they replace."""
