"""The scheduler pod's first process: starts the broker and the Jupyter server, and supervises both.

Environment: FUTURE_KUBERNETES_IDE (rstudio, jupyterlab or both). For tests:
FUTURE_KUBERNETES_{RUN,PASSWORD_FILE,RSESSION}.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from .ide import FRONT_DOOR, ide_command
from .start_here import start_here
from .supervisor import Supervisor


def broker_command() -> list[str]:
    """Command that starts the broker from the folder that this package was imported from."""
    package = (__package__ or "").rpartition(".")[0]
    folder = str(Path(__file__).resolve().parents[package.count(".") + 2])
    start = f"import sys; sys.path.insert(0, {folder!r}); from {package}.broker.main import main; main()"
    return [sys.executable, "-I", "-c", start]


def main() -> None:
    """Run the scheduler with the container's environment."""
    ide = os.environ.get("FUTURE_KUBERNETES_IDE", "jupyterlab")
    command = ide_command(ide, Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes")))
    start_here(Path.home(), ide)
    # One socket a worker in the R session and two in the broker: a soft limit of 1,024 files would be the ceiling.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Supervisor({"broker": broker_command(), FRONT_DOOR: command}).run()


if __name__ == "__main__":
    main()
