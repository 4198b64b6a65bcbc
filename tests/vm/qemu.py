"""Runs a virtual machine: starts qemu, executes commands by ssh, and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError
from common.progress import step
from local.debian_rootfs import program
from tests.vm.images import RootImage, ssh_key, vm_dir

MEMORY, PROCESSORS = "8G", 2
_PROBE_SECONDS = 20.0
_BOOT_SECONDS = 300.0
_ACCELERATORS = {"kvm": ["-accel", "kvm", "-cpu", "host"], "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"]}


@dataclass(frozen=True)
class Guest:
    """The running machine: its process, its ssh port on loopback, and the file of its console."""

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
        with contextlib.suppress(OSError):
            return b"qemu-system" in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    def stop(self) -> None:
        """End the process, and with it all changes of its disks."""
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.alive():
                os.kill(self.pid, signal.SIGKILL)
        _state().unlink(missing_ok=True)


def running() -> Guest | None:
    """Return the running machine, if any."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        guest = Guest(**json.loads(_state().read_text()))
        return guest if guest.alive() else None
    return None


def start(image: RootImage, home: Path, accelerator: str) -> Guest:
    """Boot a machine and wait until ssh answers. The disks' files do not change."""
    if running():
        raise UserError("A virtual machine runs already.\n    fix: .venv/bin/python -m tests.vm stop")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    console = vm_dir() / "console.log"
    command = [
        *_base(accelerator, console, MEMORY, PROCESSORS),
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", "root=/dev/vda rw console=ttyS0",
        *(word for disk in (image.disk, home) for word in ("-drive", _drive(disk))),
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
    with step(f"Booting it ({accelerator})") as progress:
        process = _spawn(command)
        guest = Guest(process.pid, port, accelerator, str(console))
        _state().write_text(json.dumps(asdict(guest)))
        deadline = time.monotonic() + _BOOT_SECONDS
        while True:
            if process.poll() is not None:
                raise UserError(f"qemu ended: {(vm_dir() / 'qemu.log').read_text().strip()[-600:]}")
            with contextlib.suppress(UserError, subprocess.TimeoutExpired):
                guest.run("true", seconds=60)
                return guest
            if time.monotonic() > deadline:
                guest.stop()
                raise UserError(f"The machine does not answer after {_BOOT_SECONDS:.0f} s; its console: {console}")
            lines = console.read_text(errors="replace").splitlines()
            progress.note(lines[-1].strip() if lines else "...")
            time.sleep(1)


def accelerator(image: RootImage) -> str:
    """Return `kvm` if a kernel really starts its first process under it, else `tcg`, plain emulation."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    console = vm_dir() / "probe.log"
    kernel = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "console=ttyS0"]
    with step("Trying KVM") as progress:
        process = _spawn([*_base("kvm", console, "1G", 1), *kernel])
        deadline = time.monotonic() + _PROBE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if b"as init process" in console.read_bytes():
                progress.outcome = "works"
                break
        process.kill()
        process.wait()
        if progress.outcome != "works":
            progress.outcome = "no guest starts under it; plain emulation instead"
    return "kvm" if progress.outcome == "works" else "tcg"


def _base(accelerator: str, console: Path, memory: str, processors: int) -> list[str]:
    console.write_text("")
    return [
        program("qemu-system-x86_64", "qemu-system-x86"), "-machine", "q35", *_ACCELERATORS[accelerator],
        "-smp", str(processors), "-m", memory, "-nodefaults", "-display", "none", "-no-reboot",
        "-serial", f"file:{console}",
    ]  # fmt: skip


def _drive(disk: Path) -> str:
    return f"file={disk},format=raw,if=virtio,cache=unsafe,discard=unmap,snapshot=on"


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    """Start qemu in a process session of its own: Ctrl-C ends this program, which then ends qemu."""
    environment = {**os.environ, "TMPDIR": str(vm_dir())}
    with (vm_dir() / "qemu.log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _state() -> Path:
    return vm_dir() / "running.json"
