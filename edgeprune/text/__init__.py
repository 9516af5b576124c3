"""The text of a build: sources, splitting, sampling and batches. No torch here."""
