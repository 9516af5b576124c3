"""Many builds for one wish: times of blocks, the choice of levels, and the front."""
