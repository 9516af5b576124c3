"""What everybody stands on: errors, progress, files, words, exact budgets, bootstrap."""
