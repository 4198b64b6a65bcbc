"""The worker's log, on the container's standard error."""

from __future__ import annotations

import sys


def log(message: str) -> None:
    """Write one line."""
    print(f"future-worker: {message}", file=sys.stderr, flush=True)
