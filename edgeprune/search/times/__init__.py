"""Times of a model's blocks: measured in small whole models, fitted, and added up again."""
