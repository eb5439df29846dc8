"""Answers: extraction from a completion, and verification against the gold answer."""
