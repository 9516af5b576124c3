"""The stages that make a model smaller, and the mathematics that they share."""
