"""Runs the broker in the scheduler pod.

An R session connects to it, never the other way round. In *task* mode, ``plan(kubernetes)``, the session sends tasks
on one connection and takes their results: stream.py has that protocol, dispatch.py decides who works on what,
demand.py how many workers are wanted. In *attach* mode, ``plan(cluster, manual = TRUE)``, the session asks for a worker
and has that worker's R at the other end of the same connection: sessions.py and leases.py. What workers say is in
``common/wire.py``. README.md has the figures behind this.

Environment: FUTURE_KUBERNETES_{RELEASE,NAMESPACE}, and Kubernetes' own.
Set outside of a pod only, where ports may be taken, a pod's folders do not exist, and a test cannot wait for minutes:
FUTURE_KUBERNETES_{PORT,HTTP_PORT,SESSION_PORT,TOKEN_FILE,RUN,CONFIG,ACCOUNT,IDLE_CHECK_SECONDS,RETIRE_SECONDS,
REST_SECONDS,VALUE_BYTES,CGROUP,PROC}.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import os
import resource
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from ..common import tls, wire
from .background import Background
from .demand import Demand
from .dispatch import Dispatcher
from .health import HttpPort, drop_silent_workers
from .idle import Activity, IdleWatch
from .leases import Leases
from .log import log
from .loss_causes import Outcomes
from .memory import Memory
from .metrics import Metrics, volumes_of
from .page.feed import Feed
from .page.server import PageServer
from .plans import REST_SECONDS
from .pool import Pool
from .registration import Registration
from .restart_notice import write_notice
from .scaling import Scaler
from .sessions import Services, Session
from .warm import WarmRoom
from .workers import Worker

_HANDSHAKE_SECONDS = 10.0
_TLS_READ_BYTES = 16 * 1024
_BACKLOG = 1024


class Broker:
    """The parts of the broker, made for each other. All of them run in one thread's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, environ: Mapping[str, str]) -> None:
        self._loop = loop
        self.background = Background(loop)
        self._activity = Activity()
        self._pool = Pool(loop)
        self._outcomes = Outcomes(self.background, environ)
        self._outcomes.drained = self._pool.draining
        self._leases = Leases(loop, self._pool, self._outcomes, self._activity)
        run = Path(environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
        folder = run / "results"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._dispatcher = Dispatcher(loop, self._pool, self._outcomes, self._activity, self.background, folder)
        self._dispatcher.plans.restore()
        self._registration = Registration(self._pool, self._dispatcher, self._outcomes, self._activity, environ)
        self._scaler = Scaler(loop, self._pool, self._activity, self.background, environ, self._registration.refusal)
        rest = float(environ.get("FUTURE_KUBERNETES_REST_SECONDS", REST_SECONDS))
        self._demand = Demand(loop, self._pool, self._dispatcher, self._scaler, self.background, rest)
        users = (self._leases, self._dispatcher)
        self._idle_watch = IdleWatch(self._activity, users, self._scaler, environ, self._demand.rested)
        self._warm = WarmRoom(self._scaler, environ)
        self.memory = Memory(run, environ)
        self._services = Services(
            loop, self.background, self._pool, self._leases, self._dispatcher, self._demand, self._outcomes,
            self._scaler, self._activity, self.memory,
        )  # fmt: skip
        feed = Feed(self._pool, self._dispatcher, self._leases, self._demand, self._scaler, self._activity, self.memory)
        self.page = PageServer(loop, feed, self.background)
        self.http = HttpPort(Metrics(self._services, volumes_of(environ)))

    def worker(self) -> Worker:
        """A new worker's connection."""
        return Worker(self._loop, self._registration, self._leases, self._dispatcher)

    def session(self) -> Session:
        """A new R session's connection."""
        return Session(self._services)

    def start(self) -> None:
        """Start what runs beside the connections."""
        for work in (self._dispatcher.plans.run(), self._demand.run(), self._idle_watch.run(), self.memory.run()):
            self.background.start(work)
        self.background.start(self._warm.run())
        self.background.start(drop_silent_workers(self._pool))


def listen(port: int) -> socket.socket:
    """A listening socket for IPv6 and IPv4 together where the pod has both, else for IPv4."""
    with contextlib.suppress(OSError):
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return socket.create_server(("", port), backlog=_BACKLOG)


def make_room() -> None:
    """Raise the limit of open files and lower asyncio's buffers, so that 1,000 workers fit."""
    # asyncio reserves this for each handshake, and for each read of decrypted bytes: those of one TLS record at most.
    # Its own 256 KiB for each connection were most of the memory with 1,000 workers.
    asyncio.sslproto.SSLProtocol.max_size = _TLS_READ_BYTES
    # Where the container's soft limit is 1,024 files (containerd 2 under systemd), 1,000 workers would be too many.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM."""
    token = tls.read_token(Path(environ.get("FUTURE_KUBERNETES_TOKEN_FILE", "/etc/future-kubernetes/secret/token")))
    loop = asyncio.get_running_loop()
    make_room()
    broker = Broker(loop, environ)
    servers = {
        "workers": await loop.create_server(
            broker.worker,
            sock=listen(int(environ.get("FUTURE_KUBERNETES_PORT", wire.PORT))),
            ssl=tls.context(token, server=True),
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            backlog=_BACKLOG,
        ),
        "sessions": await loop.create_server(
            broker.session,
            "127.0.0.1",
            int(environ.get("FUTURE_KUBERNETES_SESSION_PORT", wire.SESSION_PORT)),
            backlog=_BACKLOG,
        ),
        "http": await asyncio.start_server(
            broker.http.answer, sock=listen(int(environ.get("FUTURE_KUBERNETES_HTTP_PORT", wire.HTTP_PORT)))
        ),
    }
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    folder = Path(environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
    write_port(folder, ports["sessions"])
    await broker.page.listen(folder)
    log(f"listening: {ports}")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker.start()
    broker.background.start(write_notice(environ, folder, broker.memory))
    await stop.wait()


def write_port(folder: Path, port: int) -> None:
    """Write the file by which R knows that it runs beside a broker: RStudio's sessions get no environment."""
    temporary = folder / "broker.port.new"
    temporary.write_text(f"{port}\n")
    temporary.rename(folder / "broker.port")


def main() -> None:
    """Run the broker with the container's environment."""
    try:
        asyncio.run(run(dict(os.environ)))
    except (tls.TokenError, OSError) as error:
        raise SystemExit(f"broker: {error}") from None


if __name__ == "__main__":
    main()
