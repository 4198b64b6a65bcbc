"""Extension of the Jupyter server: RStudio Server's start, and a page with the reason where an IDE cannot be opened.

jupyter-rsession-proxy starts RStudio Server at the first request to /rstudio/. Without its program, or with a release
that is too old, the person would get only "Internal Server Error". So both are looked at before, once. JupyterLab's
tile for RStudio says it too.

A server that ends soon after its start is started again after a pause that grows.

As a program it checks the image at its build: `--look` for what is looked at here, `--verify FOLDER` for more.
"""

import asyncio
import functools
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jupyter_server_proxy.handlers
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from simpervisor import SupervisedProcess
from tornado import web

_NAMES = {"rstudio": "RStudio", "lab": "JupyterLab"}
_OTHER = {"rstudio": "lab", "lab": "rstudio"}
_NEEDED = ("www-socket", "www-root-path", "server-data-dir", "database-config-file")
"""Options of rserver that jupyter-rsession-proxy uses where there are any, and without which it is no use here."""
_OLDEST = "2024.12"
"""First release with www-socket (rstudio/rstudio: pull request 14938)."""


class Problem(NamedTuple):
    """Why an IDE cannot be opened."""

    brief: str
    """A few words, for the tile."""
    reason: str
    """The reason, and what fixes it, for the page that the tile opens."""


def problems(ide):
    """Return the IDEs that cannot be opened, each with its problem."""
    found = {}
    if ide == "jupyterlab":
        reason = "This stack has only JupyterLab. For RStudio too: pulumi config set ide both"
        found["rstudio"] = Problem("not in this stack", reason)
    elif problem := rstudio_problem():
        found["rstudio"] = problem
    if ide == "rstudio":
        reason = "This stack has only RStudio. For JupyterLab too: pulumi config set ide both"
        found["lab"] = Problem("not in this stack", reason)
    elif importlib.util.find_spec("jupyterlab") is None:
        reason = f"This image has no JupyterLab, and the stack's ide is {ide!r}: it was built for another ide. {_BUILD}"
        found["lab"] = Problem(_ABSENT, reason)
    return found


_ABSENT = "not in this image"
_BUILD = "Let the stack build its image, or name one that is built with the same ide."
_BASE = (
    f"Name a base with RStudio Server {_OLDEST} or later, such as: pulumi config set baseImage rocker/rstudio:4.6.1\n"
    "Or do without RStudio: pulumi config set ide jupyterlab"
)


def rstudio_problem():
    """Return why RStudio Server cannot be started; None if it can."""
    if not _has_proxy():
        return Problem(_ABSENT, f"This image has no jupyter-rsession-proxy: it was built for another ide. {_BUILD}")
    from jupyter_rsession_proxy import get_rstudio_executable

    try:
        program = get_rstudio_executable("rserver")
        options = _output(program, "--help")
    except FileNotFoundError:
        return Problem(_ABSENT, f"This image has no RStudio Server (rserver). {_BASE}")
    except (OSError, subprocess.SubprocessError) as error:
        return Problem("does not start", f"RStudio Server of this image does not start: {error}. {_BASE}")
    lacking = [name for name in _NEEDED if f"--{name}" not in options]
    if not lacking:
        return None
    try:
        version = _output(program, "--version").split()[0].split("+")[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        version = ""
    # Without www-socket it would listen on a port of all addresses, without a login.
    return Problem(
        f"too old: {version or 'before ' + _OLDEST}",
        f"RStudio Server {version or 'of this image'} is too old to be used behind this login: "
        f"it has no option {' and no '.join(lacking)}. {_BASE}",
    )


def _has_proxy():
    return importlib.util.find_spec("jupyter_rsession_proxy") is not None


def say_on_tile(problem):
    """Let RStudio's tile in JupyterLab's launcher say the problem; jupyter-server-proxy reads its title later."""
    import jupyter_rsession_proxy

    jupyter_rsession_proxy.setup_rserver = functools.partial(
        jupyter_rsession_proxy.setup_rserver, launcher_title=f"{_NAMES['rstudio']} ({problem.brief})"
    )


def _output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


class PatientProcess(SupervisedProcess):
    """Pauses before it starts a process again that did not live long.

    simpervisor starts it again at once: an rserver that cannot start would take a core until RSERVER_TIMEOUT is over,
    and fill the pod's log.
    """

    _began = 0.0
    _short_lives = 0

    async def start(self):
        """Start the process, after a pause if its last life was short."""
        if self.proc is not None:
            self._short_lives = self._short_lives + 1 if time.monotonic() - self._began < _SHORT_LIFE else 0
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._short_lives - 1)) if self._short_lives else 0
            self.log.warning(
                "%s ended with status %s; starting it again in %.1f s", self.name, self.proc.returncode, pause
            )
            await asyncio.sleep(pause)
        self._began = time.monotonic()
        await super().start()

    async def _signal_and_wait(self, signum):
        if self.running:
            await super()._signal_and_wait(signum)
        else:  # within a pause there is no process that could take the signal
            self._killed = True
            self._restart_process_future.cancel()


_SHORT_LIFE = 5.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 8.0


class MissingIde(JupyterHandler):
    """Gives the reason, and a link to the other IDE where there is one."""

    def initialize(self, ide, reason, other):
        """Take what the page shows."""
        self.page = {
            "status_code": 503,
            "status_message": f"{_NAMES[ide]} cannot be opened",
            "message": reason,
            "other": _NAMES[other] if other else "",
            "other_url": url_path_join(self.base_url, other or "", "/"),
        }

    @web.authenticated
    async def get(self):
        """Answer with the page."""
        self.set_status(503)
        self.finish(self.render_template("future_kubernetes_ide.html", **self.page))


def _jupyter_server_extension_points():
    return [{"module": "future_kubernetes_rstudio"}]


def _load_jupyter_server_extension(server):
    # Extensions are loaded by the alphabet, and the first handler that matches takes a request: this one stands before
    # jupyter_server_proxy's and JupyterLab's.
    jupyter_server_proxy.handlers.SupervisedProcess = PatientProcess
    base = server.web_app.settings["base_url"]
    found = problems(os.environ.get("FUTURE_KUBERNETES_IDE", "jupyterlab"))
    if "rstudio" in found and _has_proxy():
        say_on_tile(found["rstudio"])
    for ide, problem in found.items():
        server.log.warning("%s cannot be opened: %s", _NAMES[ide], problem.reason)
        page = {"ide": ide, "reason": problem.reason, "other": "" if _OTHER[ide] in found else _OTHER[ide]}
        server.web_app.add_handlers(".*$", [(url_path_join(base, ide) + r"(?:/.*)?", MissingIde, page)])


def verify(folder):
    """Let RStudio Server do all that it does before it listens, and start one R session; exit with its status.

    The options are those of the pod (rstudio/rstudio: src/cpp/server/ServerMain.cpp, verifyInstallation).
    """
    from jupyter_rsession_proxy import setup_rserver

    os.environ["RS_LOGGER_TYPE"] = "stderr"
    command = setup_rserver()["command"](0, str(folder / "socket"))
    words = {"{base_url}": "/", "{unix_socket}": str(folder / "socket")}
    for name, value in words.items():
        command = [word.replace(name, value) for word in command]
    os.execvp(command[0], [*command, "--verify-installation=1"])  # noqa: S606


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--look"]:
            problem = rstudio_problem()
            sys.exit(problem.reason if problem else 0)
        case ["--verify", folder]:
            verify(Path(folder))
        case _:
            sys.exit("future_kubernetes_rstudio.py --look, or --verify FOLDER")
