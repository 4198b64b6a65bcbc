"""A machine in qemu with the distribution's kernel: by KVM, or by plain emulation."""

from __future__ import annotations

import os
import time
from pathlib import Path

from common.progress import step
from local.debian_rootfs import program
from tests.vm import guest
from tests.vm.images import RootImage, vm_dir

MEMORY, PROCESSORS = "8G", 2
_PROBE_SECONDS = 20.0
_ACCELERATORS = {"kvm": ["-accel", "kvm", "-cpu", "host"], "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"]}


def start(image: RootImage, home: Path, accelerator: str) -> guest.Guest:
    """Boot a machine and wait until ssh answers. The disks' files do not change."""

    def command(port: int, console: Path) -> list[str]:
        return [
            *_base(accelerator, console, MEMORY, PROCESSORS),
            "-kernel", str(image.kernel), "-initrd", str(image.initrd),
            "-append", "root=/dev/vda rw console=ttyS0",
            *(word for disk in (image.disk, home) for word in ("-drive", _drive(disk))),
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip

    return guest.boot(command, accelerator)


def may_have_kvm() -> bool:
    """Return True if this machine offers KVM; whether a guest starts under it, `kvm_works` tries."""
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def kvm_works(image: RootImage) -> bool:
    """Return True if a kernel really starts its first process under KVM."""
    console = vm_dir() / "probe.log"
    console.write_text("")
    kernel = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "console=ttyS0"]
    works = False
    with step("Trying KVM") as progress:
        process = guest.spawn([*_base("kvm", console, "1G", 1), *kernel])
        deadline = time.monotonic() + _PROBE_SECONDS
        while process.poll() is None and time.monotonic() < deadline and not works:
            time.sleep(0.2)
            works = b"as init process" in console.read_bytes()
        process.kill()
        process.wait()
        progress.outcome = "works" if works else "no guest starts under it"
    return works


def _base(accelerator: str, console: Path, memory: str, processors: int) -> list[str]:
    return [
        program("qemu-system-x86_64", "qemu-system-x86"), "-machine", "q35", *_ACCELERATORS[accelerator],
        "-smp", str(processors), "-m", memory, "-nodefaults", "-display", "none", "-no-reboot",
        "-serial", f"file:{console}",
    ]  # fmt: skip


def _drive(disk: Path) -> str:
    return f"file={disk},format=raw,if=virtio,cache=unsafe,discard=unmap,snapshot=on"
