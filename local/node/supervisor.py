"""PID 1 of a node: keeps the control plane, kubelet, containerd, DNS and the registry running.

Runs inside the node's root as `python3 -m node.supervisor CGROUP`, in /opt. It restarts ended services, with a delay
that doubles up to ten seconds, and reaps orphans. When it ends, the kernel ends all processes of its PID namespace.
Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .configuration import write_configuration
from .endings import fatal_line, same
from .pki import make_pki
from .places import CONFIG, LOGS, PATIENCE, PKI, POD_RANGE, run
from .services import FIRST_DELAY_SECONDS, Service, first_services, later_services

SERVICES = Path("/run/node/services")
"""A file for each service with its PID inside the node, 0 while it is down."""
API_READY = Path("/run/node/api-ready")
"""File that local/cluster.py creates from outside once the API server is ready: the node's Python has no TLS."""
ENDINGS = Path("/run/node/endings")
"""Folder with a file for each service that ended: number of ends in a row with the same error, then the error."""

_LONGEST_DELAY_SECONDS = 10.0 * PATIENCE
_STEADY_SECONDS = 30.0 * PATIENCE
_LOG_TAIL_BYTES = 64 * 1024


def main(cgroup: str) -> None:
    """Prepares the node once, then keeps its services running until it is killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for folder in (CONFIG, LOGS, PKI, Path("/etc/cni/net.d"), SERVICES, ENDINGS):
        folder.mkdir(parents=True, exist_ok=True)
    wait_for_network()
    make_pki()
    write_configuration(cgroup)
    services = first_services()
    for service in services:
        start(service)
    Path("/run/node/booted").touch()
    later = True
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, 0.1 if later else 1.0)
        reap(services)
        if later and API_READY.exists():
            later = False
            services += later_services()
        for service in services:
            if service.pid == 0 and time.monotonic() >= service.restart_at:
                start(service)


def wait_for_network() -> None:
    """Brings loopback up and waits for the tap device that slirp4netns creates from outside."""
    run("ip", "link", "set", "lo", "up")
    deadline = time.monotonic() + 30 * PATIENCE
    while "state UP" not in run("ip", "-o", "link", "show").replace("UNKNOWN", "UP").partition("tap0")[2]:
        if time.monotonic() > deadline:
            sys.exit("no network device in time: see slirp4netns.log")
        time.sleep(0.05)
    for setting, value in (("ip_forward", "1"), ("conf/all/route_localnet", "1")):
        Path("/proc/sys/net/ipv4", setting).write_text(value)
    # Packets from pods to addresses beyond the node leave with the node's address.
    rule = ["POSTROUTING", "-s", POD_RANGE, "!", "-d", POD_RANGE, "-o", "tap0", "-j", "MASQUERADE"]
    run("iptables", "-w", "-t", "nat", "-A", *rule)


def start(service: Service) -> None:
    """Starts a service with its output appended to a log of its own."""
    with (LOGS / f"{service.name}.log").open("ab") as log:
        service.log_start = log.tell()
        child = subprocess.Popen(
            service.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **service.environment},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD}),
            start_new_session=True,
        )
    service.pid, service.started = child.pid, time.monotonic()
    (SERVICES / service.name).write_text(str(child.pid))
    child.returncode = 0  # `reap` collects every child, never the Popen object


def reap(services: list[Service]) -> None:
    """Collects the exit status of every ended child, and schedules the restart of ended services."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for service in services:
            if service.pid != pid:
                continue
            now = time.monotonic()
            steady = now - service.started > _STEADY_SECONDS
            service.delay = FIRST_DELAY_SECONDS if steady else min(service.delay * 2, _LONGEST_DELAY_SECONDS)
            service.pid, service.restart_at = 0, now + service.delay
            (SERVICES / service.name).write_text("0")
            code = os.waitstatus_to_exitcode(status)
            note_end(service, steady)
            print(
                f"{service.name} ended with status {code}; again in {service.delay:.1f} s: {service.error}", flush=True
            )


def note_end(service: Service, steady: bool) -> None:
    """Count the ends in a row, each soon after the start and with the same error, of a service."""
    with (LOGS / f"{service.name}.log").open("rb") as log:
        log.seek(max(service.log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        error = fatal_line(log.read().decode(errors="replace"))
    again = not steady and same(error, service.error)
    service.ends, service.error = (service.ends + 1 if again else 1), error
    temporary = ENDINGS / f".{service.name}"
    temporary.write_text(f"{0 if steady else service.ends}\n{error}\n")
    temporary.rename(ENDINGS / service.name)


if __name__ == "__main__":
    os.chdir("/")
    main(sys.argv[1])
