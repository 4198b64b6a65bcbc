"""Attach mode: a worker's R is joined to an R session, whose stream passes through unread."""

from __future__ import annotations

import ssl

from ..common import cgroup, wire
from .channel import Channel
from .dialer import Dialer
from .log import log
from .r_process import RProcess
from .relay import relay


def attach(line: Channel, r: RProcess, link: Channel, lease: str, dialer: Dialer) -> None:
    """Join a fresh R to the session of ``lease``, until either ends.

    Raises:
        ChannelError: when R or the broker has gone meanwhile.
    """
    link.send(b"attach 0\n")
    line.send(wire.encode(op="attached"))
    assert isinstance(line.socket, ssl.SSLSocket)
    if relay(line.socket, r.socket) == "r":
        _report_end(r, lease, dialer)


def _report_end(r: RProcess, lease: str, dialer: Dialer) -> None:
    """Report how R ended before the session sees its connection close, so that the session can name the cause."""
    status = r.wait(2.0)
    oom = cgroup.oom_kills() > r.oom_before
    if status != 0:
        log(f"R ended with status {status} in use" + (", out of memory" if oom else ""))
    limit = cgroup.memory_limit_mib() if oom else None
    dialer.notify(op="ended", id=lease, status=status, oom=oom, limit=limit)
