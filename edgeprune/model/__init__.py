"""A model on disk and in memory: families, tasks, anatomy, checkpoints."""
