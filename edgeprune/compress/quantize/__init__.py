"""Formats and values of weights: the plan, the rounding, and what protects activations."""
