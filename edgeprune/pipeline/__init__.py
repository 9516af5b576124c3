"""One build: recipe, stages, keys and what is kept of them."""
