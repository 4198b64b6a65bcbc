"""Sessions as tests of tasks need them: the workers that they hold, and a process in the place of their R."""

from __future__ import annotations

import subprocess
import sys

from .conftest import Bed


def running(bed: Bed) -> dict[str, int]:
    """Workers that run a task, and the session that it is of."""
    return {pod: row["session"] for pod, row in bed.table().items() if row["state"] == "busy"}


def gone() -> subprocess.Popen[bytes]:
    """A process that plays an R session's, to be ended by the test."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
