"""Exit statuses of the command, beside those of a user's script, and the error of a lost connection."""

from __future__ import annotations

FAILED = 125
"""Exit status where the command itself failed, as with `docker run`: a script's own may be any from 0 to 255."""

RUN_LOST = 124
"""Exit status where the scheduler pod ended during the run."""

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


class ConnectionLostError(Exception):
    """The scheduler pod could not be reached, or its reply is incomplete. A second attempt may succeed."""
