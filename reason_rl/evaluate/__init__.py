"""Evaluation: sample, grade, and say what the difference is with an interval."""
