"""The running machine: executes commands in it by ssh, and stops it. `qemu.py` and `uml.py` have its command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError
from common.progress import step
from tests.vm.images import ssh_key, vm_dir

_BOOT_SECONDS = 300.0


@dataclass(frozen=True)
class Guest:
    """The running machine: its process, its ssh port on loopback, and the file of its console.

    accelerator: kvm or tcg (qemu), or uml.
    """

    pid: int
    port: int
    accelerator: str
    console: str

    def ssh(self, *command: str) -> list[str]:
        """Return the command line that runs a command inside, or a shell without one."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += ["ServerAliveInterval=30", "ServerAliveCountMax=20", "ConnectTimeout=60"]
        flags = [flag for option in options for flag in ("-o", option)]
        return ["ssh", *flags, "-i", str(ssh_key()), "-p", str(self.port), "root@127.0.0.1", *command]

    def run(self, command: str, stdin: bytes | None = None, seconds: float = 600) -> str:
        """Run a command; return its output. Raises UserError if it fails."""
        done = subprocess.run(self.ssh(command), input=stdin, capture_output=True, timeout=seconds, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-600:]
            raise UserError(f"inside the machine `{command[:80]}` ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")

    def stream(self, command: str, line: Callable[[str], None]) -> int:
        """Run a command and pass on each line of its output at once; return its exit status."""
        with subprocess.Popen(
            self.ssh(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for text in process.stdout:
                line(text.rstrip("\n"))
        return process.returncode

    def alive(self) -> bool:
        # The console's path is a word of the command line.
        with contextlib.suppress(OSError):
            return self.console.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    def stop(self) -> None:
        """End the process, and with it all changes of its disks."""
        # unshare, which holds the namespaces of user-mode Linux, ignores SIGTERM.
        for demand in (signal.SIGTERM, signal.SIGKILL)[self.accelerator == "uml" :]:
            if self.alive():
                os.kill(self.pid, demand)
            deadline = time.monotonic() + 10
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.1)
        _state().unlink(missing_ok=True)
        for changes in vm_dir().glob("*.cow"):
            changes.unlink()


def running() -> Guest | None:
    """Return the running machine, if any."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        guest = Guest(**json.loads(_state().read_text()))
        return guest if guest.alive() else None
    return None


def boot(command: Callable[[int, Path], Sequence[str]], accelerator: str) -> Guest:
    """Start a machine and wait until ssh answers.

    command: returns the command line by the port on loopback that must lead to ssh, and the file of the console.
    """
    if running():
        raise UserError("A virtual machine runs already.\n    fix: .venv/bin/python -m tests.vm stop")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    console = vm_dir() / "console.log"
    console.write_text("")
    with step(f"Booting it ({accelerator})") as progress:
        process = spawn(command(port, console))
        guest = Guest(process.pid, port, accelerator, str(console))
        _state().write_text(json.dumps(asdict(guest)))
        deadline = time.monotonic() + _BOOT_SECONDS
        while True:
            if process.poll() is not None:
                raise UserError(f"The machine ended: {_messages().read_text().strip()[-600:]}")
            with contextlib.suppress(UserError, subprocess.TimeoutExpired):
                guest.run("true", seconds=60)
                return guest
            if time.monotonic() > deadline:
                guest.stop()
                raise UserError(f"The machine does not answer after {_BOOT_SECONDS:.0f} s; its console: {console}")
            lines = console.read_text(errors="replace").splitlines()
            progress.note(lines[-1].strip() if lines else "...")
            time.sleep(1)


def spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a machine in a process session of its own: Ctrl-C ends this program, which then ends the machine."""
    environment = {**os.environ, "TMPDIR": str(vm_dir())}
    with _messages().open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _messages() -> Path:
    return vm_dir() / "messages.log"


def _state() -> Path:
    return vm_dir() / "running.json"
