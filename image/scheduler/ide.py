"""The IDE's command, and RStudio's R sessions.

Both IDEs run as the container's user. RStudio Server does so when it is told that user (it exits when told another one,
rstudio/rstudio: src/cpp/server/ServerOptions.cpp, Options::read) and given folders to write to, as in rocker's recipe
for Singularity (https://rocker-project.org/use/singularity.html). The helper that checks its password reads the
Secret's file: the password is never an argument or a variable.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

PASSWORD_CHECK = "/usr/local/bin/future-check-password"  # noqa: S105 (a program)
SESSION = "/usr/local/bin/future-rsession"
USER = "rstudio"


def ide_command(ide: str, run: Path) -> list[str]:
    """Command that starts the IDE in the foreground on port 8787; its files are written below ``run``.

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
        # The base image's logging.conf says syslog, which no container has: a server that fails to start would log
        # nothing. This variable overrides the file (rstudio/rstudio: src/cpp/core/LogOptions.cpp, loggerType).
        log_to = {"RS_LOGGER_TYPE": "stderr"}
        session_environment(folder / "environment", {**os.environ, **log_to})
        return [
            *["env", *(f"{name}={value}" for name, value in log_to.items())],
            "/usr/lib/rstudio-server/bin/rserver",
            "--server-daemonize=0",
            "--www-port=8787",
            f"--server-user={USER}",
            "--auth-none=0",
            # One login lasts for a day-long computation, as with JupyterLab.
            "--auth-timeout-minutes=0",
            f"--auth-pam-helper-path={PASSWORD_CHECK}",
            f"--rsession-path={SESSION}",
            f"--server-data-dir={folder}",
            f"--database-config-file={database}",
            f"--secure-cookie-key-file={folder}/secure-cookie-key",
        ]
    raise SystemExit(f"future-scheduler: FUTURE_KUBERNETES_IDE is {ide!r}; it is 'jupyterlab' or 'rstudio'")


def session_environment(file: Path, environ: Mapping[str, str]) -> None:
    """Write the file that ``future-rsession`` reads: shell code that sets each variable that is not set yet."""
    file.touch(mode=0o600)
    file.write_text(
        "".join(
            f'[ "${{{name}+set}}" ] || export {name}={shlex.quote(value)}\n'
            for name, value in environ.items()
            if name.isascii() and name.isidentifier()
        )
    )


def is_r_session(pid: int) -> bool:
    """True if the process is one of RStudio's R sessions."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == "rsession\n"
    return False


def r_sessions(parents: Collection[int]) -> set[int]:
    """RStudio's R sessions whose parent is one of these processes; a session outlives its server and is inherited."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in parents and is_r_session(int(folder.name)):
                found.add(int(folder.name))
    return found
