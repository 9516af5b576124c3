"""The comparison of the one-shot methods: its cells, one cell's run, and the tables."""
