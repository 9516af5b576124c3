"""A task's outputs compared with the original's, and the losses of training: a file a task."""
