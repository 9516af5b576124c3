"""Levels for every part of a model, and the search over them."""
