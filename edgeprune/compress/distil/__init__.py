"""One training loop for pruning and recovery: distillation from the original."""
