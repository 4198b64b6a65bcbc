"""The scheduler pod's first process: starts the broker and the IDE, starts again what ends, and stops both.

Both IDEs run as the user that the container has. RStudio Server does so when it is told that user (it exits when told
another one, rstudio/rstudio: src/cpp/server/ServerOptions.cpp, Options::read) and given folders to write to, as in
rocker's recipe for Singularity (https://rocker-project.org/use/singularity.html). The password that it asks a helper
for is read from the Secret's file, and never is an argument or a variable.

Environment: FUTURE_KUBERNETES_IDE (jupyterlab or rstudio). For tests: FUTURE_KUBERNETES_{RUN,PASSWORD_FILE,RSESSION}.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from ..common import process

PASSWORD_CHECK = "/usr/local/bin/future-check-password"  # noqa: S105 (a program)
SESSION = "/usr/local/bin/future-rsession"
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
        # The base image's logging.conf says syslog, which no container has: a server that does not start would say
        # nothing at all. This variable wins over the file (rstudio/rstudio: src/cpp/core/LogOptions.cpp, loggerType).
        log_to = {"RS_LOGGER_TYPE": "stderr"}
        session_environment(folder / "environment", {**os.environ, **log_to})
        return [
            *["env", *(f"{name}={value}" for name, value in log_to.items())],
            "/usr/lib/rstudio-server/bin/rserver",
            "--server-daemonize=0",
            "--www-port=8787",
            f"--server-user={USER}",
            "--auth-none=0",
            # A day-long computation is looked after from one login, as with JupyterLab.
            "--auth-timeout-minutes=0",
            f"--auth-pam-helper-path={PASSWORD_CHECK}",
            f"--rsession-path={SESSION}",
            f"--server-data-dir={folder}",
            f"--database-config-file={database}",
            f"--secure-cookie-key-file={folder}/secure-cookie-key",
        ]
    raise SystemExit(f"future-scheduler: FUTURE_KUBERNETES_IDE is {ide!r}; it is 'jupyterlab' or 'rstudio'")


def session_environment(file: Path, environ: Mapping[str, str]) -> None:
    """Write what `future-rsession` reads: shell code that sets each variable that is not set."""
    file.touch(mode=0o600)
    file.write_text(
        "".join(
            f'[ "${{{name}+set}}" ] || export {name}={shlex.quote(value)}\n'
            for name, value in environ.items()
            if name.isascii() and name.isidentifier()
        )
    )


def is_r_session(pid: int) -> bool:
    """Whether this is one of RStudio's R sessions."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == "rsession\n"
    return False


def r_sessions(parents: Collection[int]) -> set[int]:
    """RStudio's R sessions that these processes have started, or have inherited: a session outlives its server."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in parents and is_r_session(int(folder.name)):
                found.add(int(folder.name))
    return found


class Supervisor:
    """Runs named commands until told to stop, and reaps what they leave behind."""

    def __init__(self, commands: Mapping[str, list[str]]) -> None:
        self._commands = commands
        self._saving: set[int] = set()
        self._running: dict[int, str] = {}
        self._started: dict[str, float] = {}
        self._short_lives: dict[str, int] = dict.fromkeys(commands, 0)
        self._stopping = threading.Event()

    def _start(self, name: str) -> None:
        self._started[name] = time.monotonic()
        pid = process.spawn(self._commands[name])
        self._running[pid] = name
        if self._stopping.is_set():  # meanwhile, so that it was not known to be signalled
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

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
        # At this signal RStudio's sessions save their data and go, as by `rstudio-server force-suspend-all`
        # (rstudio/rstudio: src/cpp/session/SessionSuspend.cpp, handleUSR2). Not every release of the server tells them
        # (rstudio/rstudio issue 8917, PR 18091), and they are not in its process group.
        for pid in r_sessions({os.getpid(), *self._running}):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGUSR2)
                self._saving.add(pid)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def run(self) -> None:
        """Start all, and return once SIGTERM has stopped all and R sessions have saved.

        The time for saving is the pod's grace period, at whose end Kubernetes kills what is left.
        """
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
        while any(is_r_session(pid) for pid in self._saving):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.05)


def main() -> None:
    """Run the scheduler with the container's environment.

    With --verify: only let RStudio Server go through all that it does before it listens, and start one R session. Its
    exit status then tells whether it could (rstudio/rstudio: src/cpp/server/ServerMain.cpp, verifyInstallation).
    """
    ide = os.environ.get("FUTURE_KUBERNETES_IDE", "jupyterlab")
    command = ide_command(ide, Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes")))
    if sys.argv[1:] == ["--verify"]:
        os.execvp(command[0], [*command, "--verify-installation=1"])  # noqa: S606
    # One socket a worker in the R session and two in the broker; a soft limit of 1024 would be the ceiling.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    package = __package__.rpartition(".")[0]
    library = str(Path(__file__).resolve().parents[package.count(".") + 2])
    start = f"import sys; sys.path.insert(0, {library!r}); from {package}.broker.server import main; main()"
    Supervisor({"broker": [sys.executable, "-I", "-c", start], ide: command}).run()


if __name__ == "__main__":
    main()
