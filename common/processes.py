"""Programs that end what they have begun before they end. Standard library only: `batch` uses it too."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable


def wait_to_its_end(
    process: subprocess.Popen[bytes], meanwhile: Callable[[], object] | None = None, seconds: float = 2.0
) -> int:
    """The process's exit status. Raises KeyboardInterrupt, but only when it has ended.

    Ctrl-C reaches the process too: killed before it has ended what it began, Pulumi would leave a locked stack.
    `meanwhile` is called every so many seconds, until the process ends or Ctrl-C is pressed.
    """
    interrupted = False
    while process.returncode is None:
        try:
            if meanwhile is None or interrupted:
                process.wait()
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            if process.returncode is None:
                meanwhile()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode
