"""Toy models of the kinds that people download, as they save them, and what these answer."""
