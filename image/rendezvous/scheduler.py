"""The scheduler pod's first process: starts the rendezvous and the IDE, starts again what ends, and stops both.

Both IDEs run as the user that the container has. RStudio Server does so when it is told its user and given folders to
write to, as in rocker's recipe for Singularity (https://rocker-project.org/use/singularity.html). The password that it
asks a helper for is read from the Secret's file, and never is an argument or a variable.

Environment: FUTURE_KUBERNETES_IDE (jupyterlab or rstudio). For tests: FUTURE_KUBERNETES_{RUN,PASSWORD_FILE}.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from . import process

PASSWORD_CHECK = "/usr/local/bin/future-check-password"  # noqa: S105 (a program)
USER = "rstudio"
_SHORT_LIFE = 5.0
_LONGEST_DELAY = 10.0
_STOP_SECONDS = 10.0


def log(message: str) -> None:
    """One line on the container's log."""
    print(f"future-scheduler: {message}", file=sys.stderr, flush=True)


def ide_command(ide: str, run: Path) -> list[str]:
    """How to start the IDE of that name in the foreground on port 8787; what it needs is written below `run`.

    Raises:
        SystemExit: for an IDE that is not one of the two.
    """
    if ide == "jupyterlab":
        # The rest, with the password, is in /etc/jupyter/jupyter_server_config.py.
        return ["jupyter", "lab", "--no-browser"]
    if ide == "rstudio":
        folder = run / "rstudio"
        folder.mkdir(parents=True, exist_ok=True)
        database = folder / "database.conf"
        database.write_text(f"provider=sqlite\ndirectory={folder}\n")
        return [
            "/usr/lib/rstudio-server/bin/rserver",
            "--server-daemonize=0",
            "--www-port=8787",
            f"--server-user={USER}",
            "--auth-none=0",
            # A day-long computation is looked after from one login, as with JupyterLab.
            "--auth-timeout-minutes=0",
            f"--auth-pam-helper-path={PASSWORD_CHECK}",
            f"--server-data-dir={folder}",
            f"--database-config-file={database}",
            f"--secure-cookie-key-file={folder}/secure-cookie-key",
        ]
    raise SystemExit(f"future-scheduler: FUTURE_KUBERNETES_IDE is {ide!r}; it is 'jupyterlab' or 'rstudio'")


class Supervisor:
    """Runs named commands until told to stop, and reaps what they leave behind."""

    def __init__(self, commands: Mapping[str, list[str]]) -> None:
        self._commands = commands
        self._running: dict[int, str] = {}
        self._started: dict[str, float] = {}
        self._short_lives: dict[str, int] = dict.fromkeys(commands, 0)
        self._stopping = threading.Event()

    def _start(self, name: str) -> None:
        self._started[name] = time.monotonic()
        self._running[process.spawn(self._commands[name])] = name

    def _ended(self, name: str, status: int) -> None:
        if self._stopping.is_set():
            return
        if time.monotonic() - self._started[name] >= _SHORT_LIFE:
            self._short_lives[name] = 0
        delay = min(_LONGEST_DELAY, 0.1 * 4.0 ** self._short_lives[name])
        self._short_lives[name] += 1
        log(f"{name} ended with status {status}; starting it again in {delay:.1f} s")
        if not self._stopping.wait(delay):
            self._start(name)

    def _stop(self, *_: object) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._signal(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, _STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def run(self) -> None:
        """Start all, and return once SIGTERM has stopped all."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGALRM, lambda *_: self._signal(signal.SIGKILL))
        for name in self._commands:
            self._start(name)
        while self._running:
            pid, status = os.waitpid(-1, 0)
            name = self._running.pop(pid, "")
            if name:
                self._ended(name, os.waitstatus_to_exitcode(status))


def main() -> None:
    """Run the scheduler with the container's environment."""
    ide = os.environ.get("FUTURE_KUBERNETES_IDE", "jupyterlab")
    command = ide_command(ide, Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes")))
    # One socket a worker in the R session and two in the rendezvous; a soft limit of 1024 would be the ceiling.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    library = str(Path(__file__).resolve().parents[1])
    start = f"import sys; sys.path.insert(0, {library!r}); from rendezvous.server import main; main()"
    Supervisor({"rendezvous": [sys.executable, "-I", "-c", start], ide: command}).run()


if __name__ == "__main__":
    main()
