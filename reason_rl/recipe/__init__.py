"""Recipes: schema, loading, checks and plans; nothing here imports torch."""
