"""Merging weights: interpolation, task arithmetic, TIES, DARE and update-selective merging, without training."""
