"""Runs a user's steps with the two commands inside the machine, and checks that nothing is left afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.guest import Guest
from tests.vm.tree import INSIDE

_SCRIPT = """\
library(future.apply)
library(future.kubernetes)
plan(kubernetes)
writeLines(as.character(sum(future_sapply(1:8, function(i) i^2))), "sum.txt")
"""
_RUN = (
    f"mkdir -p /tmp/analysis && printf '%s' '{_SCRIPT}' >/tmp/analysis/main.R"
    " && .venv/bin/future-kubernetes run /tmp/analysis main.R && grep -qx 204 /tmp/analysis/sum.txt"
)
STEPS = (
    ("make up", "make up"),
    ("make up again", "make up"),
    ("make status", "make status"),
    ("a script as a run", _RUN),
    ("make down", "make down"),
)
"""Title and command of each step. The parallel R run is the end of `make up`."""

FOOTPRINT = {
    "mounts": "cut -d' ' -f2,3 /proc/mounts | sort",
    "network devices": "ls /sys/class/net",
    "firewall rules": "nft --stateless list ruleset",
    "control groups": "find /sys/fs/cgroup -name '*future-kubernetes*'",
    "controllers of the top group": "tr ' ' '\\n' < /sys/fs/cgroup/cgroup.subtree_control | sort",
    "processes of the node": "pgrep -a 'kube|etcd|containerd|slirp4netns|coredns' || true",
    "settings": "sysctl vm.overcommit_memory kernel.panic kernel.panic_on_oops net.ipv4.ip_forward",
}
"""State that the two commands must not change, each with the command that lists it."""

_TAIL = 25


@dataclass(frozen=True)
class Outcome:
    """One step: its title, its success, its seconds, and its message."""

    title: str
    held: bool
    seconds: float
    detail: str = ""


def footprint(guest: Guest) -> dict[str, list[str]]:
    """Return the listed lines by the names of `FOOTPRINT`."""
    return {name: guest.run(command).splitlines() for name, command in FOOTPRINT.items()}


def differences(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the differences between two footprints, a sentence each; empty if they are equal."""
    found = []
    for name in before:
        came = [line for line in after[name] if line not in before[name]]
        went = [line for line in before[name] if line not in after[name]]
        found += [f"{name}: left behind: {line}" for line in came] + [f"{name}: missing: {line}" for line in went]
    return found


def play(guest: Guest, transcript: Path, more: Sequence[str] = (), engines: Sequence[str] = ()) -> list[Outcome]:
    """Run the steps, then the make targets `more`, until one fails; compare the footprints before and after.

    The services `engines` must be active at the start and at the end.
    """
    guest.run("systemctl is-system-running --wait || true")  # a Docker that still starts would count as left behind
    before = footprint(guest)
    modules = set(guest.run("lsmod | cut -d' ' -f1").split())
    active = [(f"{engine} is active", f"systemctl is-active {engine}") for engine in engines]
    targets = [(f"make {target}", f"make {target}") for target in more]
    outcomes: list[Outcome] = []
    with transcript.open("w") as log:
        for title, command in (*active, *STEPS, *targets, *active):
            outcomes.append(_step(guest, title, command, log.write))
            log.flush()
            if not outcomes[-1].held:
                return outcomes
    left = differences(before, footprint(guest))
    loaded = sorted(set(guest.run("lsmod | cut -d' ' -f1").split()) - modules)
    outcomes.append(Outcome("nothing is left", not left, 0.0, "\n".join(left)))
    outcomes.append(Outcome("kernel modules loaded", True, 0.0, " ".join(loaded) or "none"))
    return outcomes


def _step(guest: Guest, title: str, command: str, write: object) -> Outcome:
    assert callable(write)
    lines: list[str] = []
    started = time.monotonic()

    def line(text: str) -> None:
        lines.append(text)
        write(f"{time.monotonic() - started:7.1f}  {text}\n")
        print(f"    {text}", flush=True)

    print(f"== {title}", flush=True)
    write(f"== {title}\n")
    status = guest.stream(f"cd {INSIDE} && {command}", line)
    seconds = time.monotonic() - started
    return Outcome(title, status == 0, seconds, "" if status == 0 else "\n".join(lines[-_TAIL:]))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each step, with the end of the output below a failed one."""
    rows = []
    for outcome in outcomes:
        rows.append(f"{'ok  ' if outcome.held else 'FAIL'} {outcome.title:24} {outcome.seconds:7.0f} s")
        rows += [f"       {line}" for line in outcome.detail.splitlines()]
    return "\n".join(rows)
