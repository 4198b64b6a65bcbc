"""Programs that end what they have begun before they end. Standard library only: `batch` uses it too."""

from __future__ import annotations

import subprocess


def wait_to_its_end(process: subprocess.Popen[bytes]) -> int:
    """The process's exit status. Raises KeyboardInterrupt, but only when it has ended.

    Ctrl-C reaches the process too: killed before it has ended what it began, Pulumi would leave a locked stack.
    """
    interrupted = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode
