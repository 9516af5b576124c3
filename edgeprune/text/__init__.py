"""Text in: files, packages and datasets; sentences and windows; batches. No torch here."""
