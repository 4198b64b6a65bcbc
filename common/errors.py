"""The one exception for an error that the user can fix: the command line shows its text without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """An error with its fix: what was given, what is allowed, and the command that fixes it."""
