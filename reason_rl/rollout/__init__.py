"""Rollouts: the batch record, the backend protocol, and the engines behind it."""
