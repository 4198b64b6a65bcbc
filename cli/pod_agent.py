"""Agent in the scheduler pod: answers one request about the runs in ~/batch, and ends.

Its source is sent with every request, with that of `pod_files`, so the image needs only Python: both modules use only
the standard library. A run is a folder:

    project/       the copy of the project, in which Rscript runs
    manifest.json  the files that were copied in; every other or changed file is a result
    run.json       the command, and the time on the user's machine when the run began
    log            the output of Rscript
    process        boot, pod and process of the run, by which the agent sees whether it still runs
    status         renamed to status-N when Rscript ends with N (renaming works on a full disk, writing does not)
    stopped        exists where a user stopped the run
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.pod_files import BLOCK, AgentError, Hashed, files_below, left_out, pack, unpack

RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
HEARTBEAT_SECONDS = 5.0
FOLLOW_SECONDS = 600.0
"""Seconds after which the client must ask again, so that no agent stays for a client that is gone."""

LAUNCH_SECONDS = 10.0
STOP_SECONDS = 10.0
REPORT_SECONDS = 30.0
_factor = [1.0]


def patience(seconds: float) -> float:
    """Seconds to wait in the pod, by the client's setting for slow machines (common/patience.py)."""
    return seconds * _factor[0]


# In a session of its own, which ignores the end of the connection (HUP). TERM is caught, not ignored: an ignored signal
# would be ignored by R too, and this shell must live on to write R's status.
RUN = """
report_seconds=$1; shift
trap '' HUP; trap : TERM
{ cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/hostname; cat /proc/$$/stat; } > ../process.new
mv ../process.new ../process
began=$(date +%s)
"$@"
status=$?
# Before the status, with which the run has ended: what is changed after that is not copied out.
if command -v future-report >/dev/null; then
  timeout "$report_seconds" future-report "$FUTURE_KUBERNETES_BATCH_RUN" "$began" "Run $FUTURE_KUBERNETES_BATCH_RUN: $*"
fi
mv ../status "../status-$status"
"""


class NoSuchRunError(AgentError):
    """The requested run does not exist, or does not exist any more."""


def _root() -> Path:
    return Path.home() / "batch"


def _folder(run: str) -> Path:
    folder = _root() / run
    if not RUN_ID.fullmatch(run) or not folder.is_dir():
        raise NoSuchRunError(f"there is no run {run!r} in {_root()}")
    return folder


def _reply(reply: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.flush()


def _state(folder: Path) -> dict[str, Any]:
    """State of the run: incomplete, ready, running, ended or stopped (both with `status`), or lost."""
    if not (folder / "manifest.json").exists():
        return {"state": "incomplete"}
    if not (folder / "launched").exists():
        return {"state": "ready"}
    alive = _alive(folder)  # read before the status: else a run that ends in between would count as lost
    for ended in folder.glob("status-*"):
        state = "stopped" if (folder / "stopped").exists() else "ended"
        return {"state": state, "status": int(ended.name.partition("-")[2]), "at": ended.stat().st_ctime}
    return {"state": "running" if alive else "lost"}


def _alive(folder: Path) -> bool:
    try:
        boot, host, process = (folder / "process").read_text().splitlines()
        pid = int(process.split()[0])
        now = Path(f"/proc/{pid}/stat").read_text()
        same = Path("/proc/sys/kernel/random/boot_id").read_text().strip() == boot and socket.gethostname() == host
        return same and _began(process) == _began(now) and now.rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError, IndexError):
        # A run that was just started has not written its file yet.
        waited = time.time() - (folder / "launched").stat().st_mtime
        return not (folder / "process").exists() and waited < patience(LAUNCH_SECONDS)


def _began(process: str) -> str:
    """Start time in the text of /proc/PID/stat, which distinguishes a process from a later one with the same PID."""
    return process.rpartition(")")[2].split()[19]


def space(request: dict[str, Any]) -> dict[str, Any]:
    """Free and total bytes of the home."""
    del request
    return {"free": shutil.disk_usage(Path.home()).free, "total": shutil.disk_usage(Path.home()).total}


def receive(request: dict[str, Any]) -> dict[str, Any]:
    """Unpacks a project from the rest of the input; replies with the SHA-256 of each file. A failure leaves nothing."""
    folder = _root() / request["run"]
    folder.mkdir(parents=True, mode=0o700)
    try:
        sums = unpack(sys.stdin.buffer, folder / "project")
        if len(sums) != request["files"]:
            raise AgentError(f"{len(sums)} of {request['files']} files arrived")
        (folder / "run.json").write_text(json.dumps(request["about"]))
        (folder / "log").touch()
        (folder / "status").touch()
        manifest = {path: _marks(folder / "project" / path) for path in sums}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, tarfile.TarError):
            raise AgentError("the project did not arrive completely.\nFix: run the same command again") from None
        raise
    return {"sums": sums}


def _marks(path: Path) -> list[int]:
    """Marks of a file that change when it is written. Unlike the modification time, the change time cannot be set."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def launch(request: dict[str, Any]) -> dict[str, Any]:
    """Starts Rscript independently of the connection. A repeated request, as after a lost reply, starts nothing."""
    folder = _folder(request["run"])
    try:
        (folder / "launched").touch(exist_ok=False)
    except FileExistsError:
        return _state(folder)
    # Each worker needs a socket: the soft limit of 1024 would limit the number of workers.
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    # The packages are those of the image: renv would find the project's library, which is not copied, empty.
    # By the run's name the broker knows its R sessions, also those that its R starts (image/common/process.py).
    environment = {
        **os.environ, "RENV_CONFIG_AUTOLOADER_ENABLED": "FALSE", "FUTURE_KUBERNETES_BATCH_RUN": request["run"],
    }  # fmt: skip
    with (folder / "log").open("ab") as log:
        subprocess.Popen(
            ["sh", "-c", RUN, "sh", f"{patience(REPORT_SECONDS):.0f}", *request["command"]],
            cwd=folder / "project", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + patience(LAUNCH_SECONDS)
    while not (folder / "process").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return _state(folder)


def follow(request: dict[str, Any]) -> dict[str, Any]:
    """Streams the log from `offset` on; the last reply has the state at the end, or `running`."""
    folder = _folder(request["run"])
    until = replied = time.monotonic()
    until += FOLLOW_SECONDS
    with (folder / "log").open("rb") as log:
        log.seek(request["offset"])
        while True:
            state = _state(folder)  # read before the log, which is then complete
            while data := log.read(BLOCK):
                _reply({"log": base64.b64encode(data).decode()})
                replied = time.monotonic()
            if state["state"] != "running" or time.monotonic() > until:
                return {**state, "last": True}
            if time.monotonic() - replied > HEARTBEAT_SECONDS:
                _reply({})
                replied = time.monotonic()
            time.sleep(0.2)


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """Stops a run by SIGTERM, and after some seconds by SIGKILL."""
    folder = _folder(request["run"])
    before = _state(folder)
    if before["state"] != "running":
        return {**before, "was": before["state"]}
    (folder / "stopped").touch()
    leader = int((folder / "process").read_text().splitlines()[2].split()[0])
    os.killpg(leader, signal.SIGTERM)
    _wait_for_its_end(folder)
    if _alive(folder):
        os.killpg(leader, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):  # it ended by itself
            (folder / "status").rename(folder / "status-137")
        _wait_for_its_end(folder)
    return {**_state(folder), "was": "running"}


def _wait_for_its_end(folder: Path) -> None:
    until = time.monotonic() + patience(STOP_SECONDS)
    while _alive(folder) and time.monotonic() < until:
        time.sleep(0.1)


def changed(request: dict[str, Any]) -> dict[str, Any]:
    """Files that are new, or changed since they were copied in, each with its size and SHA-256."""
    folder = _folder(request["run"])
    before = json.loads((folder / "manifest.json").read_text())
    project = folder / "project"
    files, _, others = files_below(project, lambda path, _: left_out(path), into_linked_folders=False)
    found = []
    for path in files:
        if before.get(path) == _marks(project / path):
            continue
        with (project / path).open("rb") as file:
            size, hashed = 0, Hashed(file, lambda _: None)
            while data := hashed.read(BLOCK):
                size += len(data)
                if size % (BLOCK << 9) == 0:  # a heartbeat every 128 MiB
                    sys.stdout.buffer.write(b"\n")
                    sys.stdout.buffer.flush()
            found.append([path, size, hashed.sum.hexdigest()])
    about = json.loads((folder / "run.json").read_text())
    return {"files": found, "others": others, "about": about}


def send(request: dict[str, Any]) -> None:
    """Writes the named files as a tar stream."""
    pack(_folder(request["run"]) / "project", request["files"], [], sys.stdout.buffer)
    sys.stdout.buffer.flush()


def runs(request: dict[str, Any]) -> dict[str, Any]:
    """All runs, oldest first."""
    del request
    root = _root()
    listed = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not RUN_ID.fullmatch(folder.name):
            continue  # a folder of the user's own
        try:
            about = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError):
            about = {}
        launched = folder / "launched"
        began = launched.stat().st_mtime if launched.exists() else None
        listed.append({"run": folder.name, **_state(folder), "about": about, "began": began, "now": time.time()})
    return {"runs": listed}


def remove(request: dict[str, Any]) -> dict[str, Any]:
    """Deletes a run's folder."""
    folder = _folder(request["run"])
    if _state(folder)["state"] == "running":
        raise AgentError(f"run {request['run']} is still running")
    shutil.rmtree(folder)
    return {}


def release(request: dict[str, Any]) -> dict[str, Any]:
    """Scales the workers to 0, as R does; replies with the number that stays because a session uses them."""
    del request
    done = subprocess.run(
        ["Rscript", "--no-init-file", "-e", 'cat("STAY", future.kubernetes::scale_workers(0, wait = FALSE))'],
        capture_output=True, text=True, check=False, timeout=patience(50),
    )  # fmt: skip
    before, found, stay = done.stdout.rpartition("STAY ")
    if done.returncode != 0 or not found:
        raise AgentError(f"R could not scale down the workers: {(before + done.stderr).strip()[-500:]}")
    return {"stay": int(stay)}


REQUESTS: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    handler.__name__: handler
    for handler in (space, receive, launch, follow, stop, changed, send, runs, remove, release)
}


def main() -> None:
    """Answers the request on the next line of the input."""
    request = json.loads(sys.stdin.buffer.readline())
    _factor[0] = request.get("patience", 1.0)
    try:
        reply = REQUESTS[request["do"]](request)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the client is gone; the interpreter's exit would write once more
    except (AgentError, OSError, tarfile.TarError, subprocess.SubprocessError) as error:
        reply = {"error": str(error), "missing": isinstance(error, NoSuchRunError)}
    if reply is not None:
        _reply(reply)


if __name__ == "__main__":
    main()
