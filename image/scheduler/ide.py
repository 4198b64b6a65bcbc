"""The front door's command, and RStudio's R sessions.

One Jupyter server is in front of everything. It starts RStudio Server at the first visit, by jupyter-rsession-proxy: as
the container's user, on a Unix socket, without a login of its own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

FRONT_DOOR = "jupyter"
IDES = ("rstudio", "jupyterlab", "both")


def ide_command(ide: str, run: Path) -> list[str]:
    """Command that starts the front door in the foreground on port 8787; files for R sessions go below ``run``.

    The rest, with the password, is in /etc/jupyter/jupyter_server_config.py.

    Raises:
        SystemExit: for an IDE that is none of the three.
    """
    if ide not in IDES:
        known = ", ".join(repr(name) for name in IDES)
        raise SystemExit(f"future-scheduler: FUTURE_KUBERNETES_IDE is {ide!r}; it is one of {known}")
    if ide != "jupyterlab":
        folder = run / "rstudio"
        folder.mkdir(parents=True, exist_ok=True)
        session_environment(folder / "environment", {**os.environ, "RS_LOGGER_TYPE": "stderr"})
    return ["jupyter", "server"]


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


def r_sessions(ancestor: int) -> set[int]:
    """RStudio's R sessions among the descendants of a process.

    A session is a child of rserver, which is a child of the Jupyter server; a session that outlives both is inherited.
    """
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])

    def descends(pid: int) -> bool:
        while pid != ancestor and pid in parents:
            pid = parents[pid]
        return pid == ancestor

    return {pid for pid in parents if is_r_session(pid) and descends(pid)}
