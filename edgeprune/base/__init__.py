"""The foundation: errors, progress, files and JSON, words, exact budgets, bootstrap, registry."""
