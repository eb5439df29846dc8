"""Errors that users see: one clear line, no traceback."""

from __future__ import annotations


class ReasonRLError(Exception):
    """Base of all errors shown to users without a traceback."""


class RecipeError(ReasonRLError):
    """A recipe or an input that cannot be used; found before anything expensive starts (exit code 2)."""


class RunError(ReasonRLError):
    """Something failed while running (exit code 1)."""
