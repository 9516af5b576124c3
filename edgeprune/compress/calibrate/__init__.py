"""The walk over blocks, and what linears read and write on calibration text."""
