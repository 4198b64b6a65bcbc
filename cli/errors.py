"""What ends the command before the script's own exit status can."""

from __future__ import annotations

TOOL_FAILED = 125
"""Exit status where the command itself failed, as with `docker run`: the script's own can be any from 0 to 255."""

RUN_LOST = 124
"""Exit status where the scheduler pod ended under the run."""

DETACHED = 130
"""Exit status after Ctrl-C."""


class BatchError(Exception):
    """What went wrong, what is allowed, and the command that mends it; shown without a traceback."""


class ConnectionLostError(Exception):
    """The scheduler pod could not be asked, or its answer is not whole; asking again may help."""
