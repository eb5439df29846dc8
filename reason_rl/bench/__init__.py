"""Comparisons over seeds: a recipe with itself, and stock ``trl.GRPOTrainer`` with our DLER."""
