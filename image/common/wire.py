"""Messages and socket options of a worker's connection, for both ends.

A worker's connection carries lines of JSON. A line with ``size`` is followed by so many bytes.

    worker  op=worker unused=S [running=ID session=KEY pid=N]   greeting; what it still runs or holds the result of
            op=result id=ID status=done|unread|setup|unsent    what R has sent; kept until it is acknowledged; peak: R's
               peak=MIB cpu=SECONDS size=N                      highest memory while it ran the task; its CPU time
               values=HASHES                                    and its large values, which are not in the N bytes
            op=value id=HASH size=N                             one of them that the broker asked for
            op=condition id=ID size=N                           a condition that the session is to see at once
            op=ended id=ID status=N oom=B limit=MIB tail=TEXT   its R has ended
            op=draining                                         its pod is being deleted
            op=usage memory=MIB limit=MIB cpu=N                 of its container
            op=evicted ids=HASHES                               large objects that had to make room
            op=want id=ID name=NAME                             its R looks for a package; without a name, for the list
    broker  op=task id=ID session=KEY pid=N needs=HASHES        a task; a fresh R for another KEY than before, and for
               libraries=N size=N                               another N: a package that it may have loaded has changed
            op=object id=HASH session=KEY size=N                a large object that tasks of the plan need
            op=forget id=HASH                                   it is needed no more
            op=have id=ID name=NAME reason=TEXT size=N          the package as a tar archive, or the list; or why not
            op=need id=ID ids=HASHES                            send these values of the result: they are new
            op=ack id=ID                                        the result is here with its values
            op=cancel id=ID                                     end the R that runs it
            op=leave                                            nothing is under way: a pod on its way out may end
            op=reset                                            the session has gone: start a fresh R
            op=retire, op=reinstate                             be unready, be ready again
            op=attach id=LEASE                                  be joined to an R session

After ``attach`` the worker answers ``attached``. From then on the connection carries the bytes of R's own protocol,
unchanged, until either end closes it.
"""

from __future__ import annotations

import json
import socket
from typing import Any

PORT = 8786
"""Port of the broker for workers."""
HTTP_PORT = 8785
"""Port of /readyz and /metrics, on the scheduler and on the workers."""
SESSION_PORT = 8784
"""Port of the broker for R sessions, only on the loopback interface."""
MAX_LINE = 8192
"""Maximum length of a line, in bytes."""
INLINE_BYTES = 1024 * 1024
"""Maximum size of a result that is sent to its session at once; a larger one is announced, and sent when asked for."""
USAGE_SECONDS = 10.0
"""Interval in which a worker that runs something says how much memory and CPU its container uses."""
RELAY_BYTES = 256 * 1024
"""Maximum number of bytes of R's stream that are passed on at a time."""
CHECK_SECONDS = 3.0
"""Interval of the check whether the peer of a connection in use still acknowledges."""
_SILENT_MS = 7000
_TCP_INFO_BYTES = 60


def watch_peer(sock: socket.socket) -> None:
    """Make the kernel notice within 12 s that the peer of an idle connection is gone, and send without delay.

    Do not set TCP_USER_TIMEOUT: Linux also counts the time in which a healthy peer does not read, so a result that
    waits for a busy R session would be cut off (measured: broker/README.md). ``peer_is_silent`` covers data in flight,
    which keepalive does not.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def peer_is_silent(sock: socket.socket) -> bool:
    """True if data was sent again, or a probe, and nothing came back for seven seconds.

    Call it every ``CHECK_SECONDS``. Only two results in a row count, because a first probe may be in flight.
    Fields: struct tcp_info of linux/tcp.h, tcpi_retransmits, tcpi_probes and tcpi_last_ack_recv (ms).
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return (info[2] > 0 or info[3] > 0) and int.from_bytes(info[56:60], "little") > _SILENT_MS


def encode(**message: Any) -> bytes:
    """Line of one message."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Message of one line.

    Raises:
        ValueError: when the line is not a JSON object.
    """
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"a message is a JSON object, not {type(message).__name__}")
    return message
