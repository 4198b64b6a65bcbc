"""The one exception for what a person can mend: its text says what is wrong and what to do; no traceback is shown."""

from __future__ import annotations


class LocalError(Exception):
    """What went wrong, what was expected, and the command that mends it."""
