"""Command line: `python -m tests.vm [--debian 12] [--caches warm]`, and `ssh`, `sync`, `stop` for a running machine.

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from common.errors import UserError
from common.patience import VARIABLE as PATIENCE
from common.progress import step
from tests.vm import images, inherit, qemu, story, tree, uml
from tests.vm.guest import Guest, running
from tests.vm.spec import ENGINES, SUITES, MachineSpec

# Plain emulation is that much slower: a node that starts in 10 s takes some minutes. User-mode Linux has one processor.
_PATIENCE = {"kvm": "2", "tcg": "20", "uml": "8"}
_UML_NOTICE = """\
The kernel was user-mode Linux and not the distribution's: one processor, no cpuset controller, no nf_tables for IPv4,
and modules of its own. What differs with the distribution's kernel was not seen: `make test-vm VM=tcg` shows it."""


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    try:
        if argv[:1] == ["ssh"]:
            command = [*argv[1:]]
            return _ssh(command[1:] if command[:1] == ["--"] else command)
        if argv[:1] == ["sync"]:
            tree.copy_working_tree(_running())
            return 0
        if argv[:1] == ["stop"]:
            _running().stop()
            return 0
        return _run(_parser().parse_args(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--debian", type=int, choices=sorted(SUITES), default=12)
    parser.add_argument("--caches", choices=("empty", "warm"), default="warm")
    parser.add_argument("--kernel", choices=("cloud", "generic"), default="cloud")
    parser.add_argument("--with", dest="engines", choices=sorted(ENGINES), action="append", default=[])
    parser.add_argument("--ubuntu-like", action="store_true", help="no unprivileged user namespaces, systemd-resolved")
    parser.add_argument(
        "--vm",
        choices=("kvm", "tcg", "uml"),
        help="without it KVM where it works, else uml, else tcg",
    )
    parser.add_argument("--test", action="append", default=[], metavar="TARGET", help="then `make TARGET` too")
    parser.add_argument("--keep", action="store_true", help="boot, copy, and leave the machine running; no story")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    root, kind = _machine(arguments)
    key = images.ssh_key()
    home = images.home_image(arguments.caches, key.with_suffix(".pub").read_text())
    guest = uml.start(root, home) if kind == "uml" else qemu.start(root, home, kind)
    with step("Copying the tree and the package clients' configuration"):
        patience = os.environ.get(PATIENCE) or _PATIENCE[guest.accelerator]
        guest.run(inherit.UNPACK, stdin=inherit.archive(inherit.files({PATIENCE: patience})))
        tree.copy_commit(guest)
    if not arguments.keep:
        return _play(guest, arguments)
    print(f"{guest.run('uname -sr').strip()}; the tree is in {tree.INSIDE}. A shell inside:")
    print(f"  {' '.join(guest.ssh())}")
    print("or  .venv/bin/python -m tests.vm ssh -- COMMAND; its end: .venv/bin/python -m tests.vm stop")
    return 0


def _machine(arguments: argparse.Namespace) -> tuple[images.RootImage, str]:
    """Return the root file system, and the kind of machine that boots it: kvm, tcg or uml."""

    def image(kernel: str) -> images.RootImage:
        engines = tuple(sorted(arguments.engines))
        return images.root_image(MachineSpec(arguments.debian, kernel, engines, arguments.ubuntu_like))

    if arguments.vm in ("kvm", "tcg"):
        return image(arguments.kernel), arguments.vm
    if arguments.vm is None and qemu.may_have_kvm() and qemu.kvm_works(root := image(arguments.kernel)):
        return root, "kvm"
    if arguments.engines or arguments.kernel != "cloud":
        refusal = (
            "user-mode Linux has a kernel of its own, which lacks what Docker and containerd need\n"
            "    allowed: --debian, --caches, --ubuntu-like, --test"
        )
    elif not uml.works_here():
        refusal = (
            f"user-mode Linux of Debian {arguments.debian} does not start on this processor, which has AMX (amx_tile in"
            " /proc/cpuinfo)\n    allowed: --vm kvm where KVM works, --vm tcg"
        )
        if arguments.vm is None:
            print(
                "Plain emulation, which is slower: user-mode Linux does not start on a processor with AMX", flush=True
            )
    else:
        return image("uml"), "uml"
    if arguments.vm == "uml":
        raise UserError(f"{refusal}\n    fix:     --vm tcg")
    return image(arguments.kernel), "tcg"


def _play(guest: Guest, arguments: argparse.Namespace) -> int:
    name = f"debian-{arguments.debian}-{arguments.caches}{''.join(f'-{engine}' for engine in arguments.engines)}"
    transcript = images.vm_dir() / f"{name}.log"
    try:
        system = guest.run("uname -sr").strip()
        outcomes = story.play(guest, transcript, arguments.test, arguments.engines)
    finally:
        guest.stop()
    if guest.accelerator == "uml":
        print(f"\n{_UML_NOTICE}")
    print(f"\n{name}: {system}, {guest.accelerator}. Transcript: {transcript}\n{story.summary(outcomes)}")
    return 0 if all(outcome.held for outcome in outcomes) else 1


def _ssh(command: Sequence[str]) -> int:
    words = _running().ssh(*command)
    os.execvp(words[0], words)


def _running() -> Guest:
    guest = running()
    if guest is None:
        raise UserError("No virtual machine runs.\n    fix: .venv/bin/python -m tests.vm --keep")
    return guest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
