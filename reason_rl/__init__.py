"""Reinforcement-learning fine-tuning for efficient reasoning: the same answers, far fewer tokens."""

__version__ = "0.1.0"
