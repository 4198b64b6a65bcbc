"""The broker itself: authenticated workers wait here, and an R session asks for one of them by connecting.

An R session connects to it (never the other way round), says ``attach`` and, at the answer ``ok``, has a worker's R at
the other end of that same connection. So R opens no port of its own, a worker is never handed to anything that did
not ask, and what each connection carries is R's own protocol. README.md has the figures behind this.

Sessions speak lines of words on the loopback interface, so that base R can:

    attach PID SECONDS   -> ok ID POD NODE  (then R's bytes) | wait CONNECTED BUSY (while none is free) | error TEXT
    count PID            -> ok FREE MINE OTHERS
    fate ID              -> ok TEXT         how the worker of attachment ID ended, empty while unknown
    draining PID         -> ok ID ...         attachments of process PID whose worker was told to go
    spare SECONDS ID ... -> nothing           these attachments may be ended, and as many workers given back, once so
                                              many seconds have passed on this connection; said again, it adds to them
    keep                 -> ok TAKEN          not any more; how many have been ended
    workers              -> one line of JSON
    scale N              -> ok N | error KIND TEXT   sets how many workers there are to be
    status               -> ok WANTED CONNECTED STARTING WAITING <tab> TEXT <tab> PROBLEM | error KIND TEXT

Environment: FUTURE_KUBERNETES_{RELEASE,NAMESPACE}, and Kubernetes' own.
For tests: FUTURE_KUBERNETES_{PORT,HTTP_PORT,SESSION_PORT,TOKEN_FILE,RUN,CONFIG,ACCOUNT,IDLE_CHECK_SECONDS,
RETIRE_SECONDS}.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import errno
import itertools
import json
import os
import resource
import signal
import socket
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..common import tls, wire
from . import idle
from . import kubernetes as kube

_HANDSHAKE_SECONDS = 10.0
_GREETING_SECONDS = 10.0
_ATTACH_SECONDS = 3.0
_PROGRESS_SECONDS = 2.0
_BUFFER_BYTES = 1024 * 1024
_RETURN_SECONDS = 15.0
_RETIRE_SECONDS = 90.0
_FATES_KEPT = 10_000
_LOOK_UP_SECONDS = 3.0
_TLS_BUFFER_BYTES = 64 * 1024
_SILENT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""How the kernel ends a connection whose keepalive probes nobody answers."""


def log(message: str) -> None:
    """One line on the container's log."""
    print(f"broker: {message}", file=sys.stderr, flush=True)


class Link(asyncio.Protocol):
    """One connection that speaks lines first and, once it has a ``peer``, passes bytes to it."""

    peer: Link | None = None
    transport: asyncio.Transport

    def __init__(self, hub: Broker) -> None:
        self.hub = hub
        self.open = False
        self._line = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the connection up; for a worker, TLS has been proved by now."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self.open = True
        self.socket = transport.get_extra_info("socket")
        wire.watch_peer(self.socket)

    def data_received(self, data: bytes) -> None:
        """Lines, until there is a peer to pass bytes to."""
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        self._line += data
        while self.peer is None and b"\n" in self._line and self.open:
            line, _, self._line = self._line.partition(b"\n")
            self.line_received(line)
        if self.peer is not None and self._line:
            self.peer.transport.write(self._line)
            self._line = b""
        elif len(self._line) > wire.MAX_LINE:
            self.drop()

    def line_received(self, line: bytes) -> None:
        """One line, its newline taken off."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """This side's reader is slow: read no more from the other side."""
        if self.peer is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Its reader has caught up."""
        if self.peer is not None and self.peer.open:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """This side has ended: so does the other."""
        self.open = False
        if self.peer is not None:
            self.peer.finish()
            self.peer = None  # else the buffers of both, some 100 KiB, wait for the garbage collector

    def say(self, line: bytes) -> None:
        """Send one line."""
        if self.open:
            self.transport.write(line)

    def drop(self) -> None:
        """Close at once."""
        self.open = False
        self.transport.abort()

    def finish(self) -> None:
        """Close after what is buffered has been sent."""
        self.open = False
        self.transport.close()


class Worker(Link):
    """A worker's connection; it exists only after the peer has proved in the TLS handshake that it holds the token."""

    wanted_by: Session | None = None
    ended_well = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give it ten seconds to say who it is."""
        super().connection_made(transport)
        self.pod = self.node = self.id = ""
        self.state = "new"
        self.since = time.time()
        self.silent = 0
        self._timer = self.hub.loop.call_later(_GREETING_SECONDS, self.drop)

    @property
    def session_pid(self) -> int:
        """The process that uses it, or is about to; 0 when none does."""
        return self.wanted_by.pid if self.wanted_by else 0

    def enter(self, state: str) -> None:
        """Change the state, and with it the time since when."""
        self.state = state
        self.since = time.time()

    def line_received(self, line: bytes) -> None:
        """A greeting, a report, or the answer to an offer."""
        try:
            message = wire.decode(line)
            if self.state == "new":
                self._timer.cancel()
                self.pod, self.node = str(message["pod"]), str(message.get("node", ""))
                self.hub.greeted(self, message)
            elif self.state == "offered" and message.get("op") == "attached":
                self._timer.cancel()
                self.hub.attached(self)
            else:
                raise ValueError(f"a worker that is {self.state} sent {message.get('op')!r}")
        except (ValueError, KeyError) as error:
            log(f"dropped {self.pod or 'a worker'}: {error!r}")
            self.drop()

    def offer(self) -> None:
        """Ask the worker to join a session; one that does not answer in time is dropped and another takes its place."""
        self.enter("offered")
        self.say(wire.encode(op="attach", id=self.id))
        self._timer.cancel()
        self._timer = self.hub.loop.call_later(_ATTACH_SECONDS, self.drop)

    def call_back_after(self, seconds: float) -> None:
        """Let it work again then, if it is still there."""
        self._timer.cancel()  # of an earlier time, from which it was called back before
        self._timer = self.hub.loop.call_later(seconds, self.hub.recall, self)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it, and tell the session that waited for it."""
        self._timer.cancel()
        if isinstance(error, OSError) and error.errno in _SILENT and self.state == "busy":
            self.hub.fate(self.id, "its network fell silent")  # before its session sees the end, and asks why
        super().connection_lost(error)
        self.hub.worker_lost(self)

    def finish(self) -> None:
        """Close; a backlog that the worker has yet to take is dropped, for its R is done with."""
        if self.transport.get_write_buffer_size() > wire.RELAY_BYTES:
            self.drop()
        else:
            super().finish()


class Session(Link):
    """A connection from an R session in this pod."""

    pid = 0
    left = False
    deadline = 0.0

    def __init__(self, hub: Broker) -> None:
        super().__init__(hub)
        self._spare: list[str] = []
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None

    def line_received(self, line: bytes) -> None:
        """A request, in words."""
        words = line.decode(errors="replace").split()
        answer: dict[str, Callable[..., None]] = {
            "attach": self._attach,
            "count": self._count,
            "fate": self._fate,
            "draining": self._draining,
            "spare": self._may_spare,
            "keep": self._keep,
            "workers": self._workers,
            "scale": self._scale,
            "status": self._status,
        }
        try:
            answer[words[0]](*words[1:])
        except (KeyError, IndexError, TypeError, ValueError):
            self.refuse(f"not understood: {line[:80]!r}; known are {', '.join(answer)}")

    def refuse(self, text: str) -> None:
        """Answer with an error and close."""
        self.say(b"error " + text.encode() + b"\n")
        self.finish()

    def _attach(self, pid: str, seconds: str) -> None:
        self.pid = int(pid)
        self.deadline = self.hub.loop.time() + float(seconds)
        self.hub.wanted(self)

    def _count(self, pid: str) -> None:
        free, mine, others = self.hub.count(int(pid))
        self.say(b"ok %d %d %d\n" % (free, mine, others))

    def _fate(self, attachment: str) -> None:
        self.hub.later(self._tell_fate(attachment))

    async def _tell_fate(self, attachment: str) -> None:
        if attachment in self.hub.look_ups:
            await asyncio.wait([self.hub.look_ups[attachment]])
        self.say(f"ok {self.hub.fates.get(attachment, '')}\n".encode())

    def _draining(self, pid: str) -> None:
        mine = [w.id for w in self.hub.busy.values() if w.session_pid == int(pid) and self.hub.pods[w.pod].draining]
        self.say(f"ok {' '.join(mine)}\n".encode())

    def _may_spare(self, seconds: str, *attachments: str) -> None:
        self._spare += attachments
        self._no_timer()
        self._timer = self.hub.loop.call_later(float(seconds), self._take)

    def _take(self) -> None:
        taken = self.hub.take_back(self._spare)
        self._spare = []
        self._taken += taken

    def _keep(self) -> None:
        self.say(b"ok %d\n" % self._taken)
        self._spare, self._taken = [], 0

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _scale(self, workers: str) -> None:
        self.hub.later(self._answer(self.hub.scale(int(workers))))

    def _status(self) -> None:
        self.hub.last_active = time.time()  # it waits for workers: nodes may take longer to come than idleMinutes
        self.hub.later(self._answer(self.hub.status()))

    async def _answer(self, work: Awaitable[str]) -> None:
        try:
            self.say(f"ok {await work}\n".encode())
        except kube.KubeError as error:
            self.say(f"error {error.kind} {' '.join(str(error).split())}\n".encode())

    def _workers(self) -> None:
        self.say(json.dumps(self.hub.table(), separators=(",", ":")).encode() + b"\n")

    def connection_lost(self, error: Exception | None) -> None:
        """Forget what it waited for, and what it could spare."""
        self._no_timer()
        self.hub.session_lost(self)  # before it loses sight of its worker
        super().connection_lost(error)


@dataclass
class Pod:
    """What is remembered of a worker's pod for as long as it is connected, or was lately."""

    node: str
    uses: int = 0
    losses: int = 0
    draining: bool = False
    expected_until: float = 0.0
    """Until when (loop time) its worker, let go by a session, is taken to come back with a fresh R."""


@dataclass
class Broker:
    """Who waits, who is in use, and who wants one. All of it runs in one thread's event loop."""

    loop: asyncio.AbstractEventLoop
    environ: Mapping[str, str] = field(default_factory=dict)
    idle: OrderedDict[Worker, None] = field(default_factory=OrderedDict)
    retiring: OrderedDict[Worker, None] = field(default_factory=OrderedDict)
    """Connected, but unready so that Kubernetes takes their pods when there are to be fewer; can be called back."""
    busy: dict[str, Worker] = field(default_factory=dict)
    queue: deque[Session] = field(default_factory=deque)
    pods: dict[str, Pod] = field(default_factory=dict)
    fates: OrderedDict[str, str] = field(default_factory=OrderedDict)
    look_ups: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    attached_total: int = 0
    lost_total: int = 0

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = asyncio.Semaphore(4)
        self._shrinking: asyncio.Task[None] | None = None
        self._shrinking_to = 0
        self._scaling = asyncio.Lock()
        self.config = Path(self.environ.get("FUTURE_KUBERNETES_CONFIG", "/etc/future-kubernetes/config"))
        self.retire_seconds = float(self.environ.get("FUTURE_KUBERNETES_RETIRE_SECONDS", _RETIRE_SECONDS))
        self.started = self.last_active = time.time()
        self._last_use = 0.0  # the latest use that a worker told of
        self._created: float | None = None
        self._number = itertools.count(1)
        self._epoch = f"{int(time.time()):x}"  # an id of before a restart means nothing after it

    # What workers do.

    def greeted(self, worker: Worker, message: dict[str, Any]) -> None:
        """A worker has said who it is, and whether it offers itself or reports on itself."""
        worker.say(wire.encode(ok=True))
        if message["op"] == "worker":
            for other in [*self.idle, *self.retiring, *self.busy.values()]:
                if other.pod == worker.pod:  # its agent is here anew: the old connection is dead, noticed or not
                    log(f"{worker.pod} is back; its old connection is dropped")
                    other.drop()
            pod = self.pods.setdefault(worker.pod, Pod(worker.node))
            pod.node, pod.draining, pod.expected_until = worker.node, False, 0.0
            self._last_use = max(self._last_use, time.time() - max(0.0, float(message.get("unused", 0))))
            worker.enter("idle")
            self.idle[worker] = None
            self.serve()
            return
        worker.enter("reporting")
        if message["op"] == "draining":
            self.pods.setdefault(worker.pod, Pod(worker.node)).draining = True
            log(f"{worker.pod} was told to go" + (" and finishes what it does" if message.get("id") else ""))
        elif message["op"] == "ended":
            attachment, status = str(message["id"]), message.get("status")
            if status == 0 and attachment in self.busy:
                self.busy[attachment].ended_well = True  # R was told to quit: parallel::stopCluster()
            self.fate(attachment, describe_end(status, oom=bool(message.get("oom")), limit_mib=message.get("limit")))
        worker.finish()

    def fate(self, attachment: str, text: str) -> None:
        """Remember how the worker of an attachment ended."""
        self.fates[attachment] = text
        while len(self.fates) > _FATES_KEPT:
            self.fates.popitem(last=False)

    def attached(self, worker: Worker) -> None:
        """The worker has joined: from here its bytes and the session's are passed on."""
        session = cast(Session, worker.wanted_by)
        if not session.open:
            worker.drop()
            return
        worker.enter("busy")
        self.attached_total += 1
        self.pods[worker.pod].uses += 1
        session.say(f"ok {worker.id} {worker.pod} {worker.node or '-'}\n".encode())
        worker.peer, session.peer = session, worker

    def worker_lost(self, worker: Worker) -> None:
        """Its connection has ended, whoever ended it."""
        self.idle.pop(worker, None)
        self.retiring.pop(worker, None)
        self.busy.pop(worker.id, None)
        if worker.state == "offered":
            session = cast(Session, worker.wanted_by)
            log(f"{worker.pod} did not join; another takes its place")
            if session.open:
                self.queue.appendleft(session)
                self.serve()
        elif worker.state == "busy" and (cast(Session, worker.wanted_by).left or worker.ended_well):
            if not self.pods[worker.pod].draining:
                self.pods[worker.pod].expected_until = self.loop.time() + _RETURN_SECONDS
        elif worker.state == "busy":
            self.lost_total += 1
            self.pods[worker.pod].losses += 1
            if worker.id in self.fates:
                pass
            elif self.pods[worker.pod].draining:
                self.fate(worker.id, "its pod was told to go, and its time to finish was over")
            else:
                self.look_ups[worker.id] = self.later(self._look_up(worker))
            log(f"{worker.pod} was lost while a session used it")

    async def _look_up(self, worker: Worker) -> None:
        """Ask Kubernetes how a worker ended that could not say so itself.

        Where the kernel has cgroup v2, want of memory ends the agent together with its R.
        """
        try:
            with contextlib.suppress(kube.KubeError, TimeoutError):
                cluster = kube.Cluster(self.environ)
                async with asyncio.timeout(_LOOK_UP_SECONDS):
                    while not (text := await self._ending(cluster, worker)):
                        await asyncio.sleep(0.25)
                self.fate(worker.id, text)
        finally:
            self.look_ups.pop(worker.id, None)

    async def _ending(self, cluster: kube.Cluster, worker: Worker) -> str:
        async with self._asking:  # a whole node's workers may be lost at once
            return await asyncio.to_thread(cluster.ending, worker.pod, worker.since)

    # What sessions do.

    def wanted(self, session: Session) -> None:
        """A session wants a worker."""
        self.last_active = time.time()
        self.queue.append(session)
        self.serve()
        if session in self.queue:
            self._progress(session)

    def serve(self) -> None:
        """Give those who wait what is free."""
        while self.queue and self.idle:
            session = self.queue.popleft()
            if not session.open:
                continue
            worker, _ = self.idle.popitem(last=False)
            worker.id = f"{self._epoch}-{next(self._number)}"
            worker.wanted_by = session
            self.busy[worker.id] = worker
            worker.offer()

    def _progress(self, session: Session) -> None:
        if not session.open or session not in self.queue:
            return
        if self.loop.time() >= session.deadline:
            self.queue.remove(session)
            session.refuse(
                f"no worker is free: {len(self.idle) + len(self.busy)} connected, {len(self.busy)} in use. "
                "Give back those of another session with plan(sequential) there, or add workers"
            )
            return
        session.say(b"wait %d %d\n" % (len(self.idle) + len(self.busy), len(self.busy)))
        self.loop.call_later(
            min(_PROGRESS_SECONDS, max(0.05, session.deadline - self.loop.time())), self._progress, session
        )

    def session_lost(self, session: Session) -> None:
        """The session has closed its connection, or died."""
        if session.peer is not None:
            self.last_active = time.time()
        session.left = True
        with contextlib.suppress(ValueError):
            self.queue.remove(session)

    def take_back(self, attachments: list[str]) -> int:
        """End those that their session can spare, and have as many workers fewer; how many there were."""
        spare = [self.busy[attachment] for attachment in attachments if attachment in self.busy]
        for worker in spare:
            cast(Session, worker.wanted_by).finish()  # as if it had let go itself
        if spare:
            log(f"{len(spare)} workers are taken back from an R session that has no futures for them")
            self.later(self._have_fewer(spare))
        return len(spare)

    async def _have_fewer(self, spare: list[Worker]) -> None:
        while any(worker.open for worker in spare):  # those in use are not let go, and these still count as such
            await asyncio.sleep(0.1)
        try:
            cluster = kube.Cluster(self.environ)
            wanted = self._shrinking_to if self._lowering() else await asyncio.to_thread(cluster.wanted)
            await self.scale(max(0, wanted - len(spare)))
        except kube.KubeError as error:
            log(f"could not lower the number of workers: {error}")

    def count(self, pid: int) -> tuple[int, int, int]:
        """How many workers are free (or about to be), in use by process ``pid``, and in use by others."""
        # A session has let go before its worker's connection has closed, and may ask again within that time.
        let_go = {worker for worker in self.busy.values() if worker.wanted_by and worker.wanted_by.left}
        leaving = sum(1 for worker in let_go if not self.pods[worker.pod].draining)
        held = [worker for worker in self.busy.values() if worker not in let_go]
        mine = sum(1 for worker in held if worker.session_pid == pid)
        returning = sum(1 for pod in self.pods.values() if pod.expected_until > self.loop.time() and not pod.draining)
        return len(self.idle) + leaving + returning, mine, len(held) - mine

    def table(self) -> list[dict[str, Any]]:
        """Each connected worker: pod, node, state, since (seconds of the epoch), session, uses, losses."""
        return [
            {
                "pod": worker.pod,
                "node": worker.node,
                "state": "draining" if self.pods[worker.pod].draining else worker.state,
                "since": round(worker.since, 3),
                "session": worker.session_pid,
                "id": worker.id,
                "uses": self.pods[worker.pod].uses,
                "losses": self.pods[worker.pod].losses,
            }
            for worker in [*self.idle, *self.busy.values()]
        ]

    # What the cluster is asked for.

    def later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside everything else."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def setting(self, name: str) -> float:
        """A number of the release's settings, read anew for they change without a restart; 0 when there is none."""
        try:
            return float((self.config / name).read_text())
        except (OSError, ValueError):
            return 0.0

    async def scale(self, workers: int) -> str:
        """Set how many workers there are to be.

        Fewer: idle ones are made unready first and the number is lowered when Kubernetes sees them so and the others
        ready, because it then takes those before any that is in use. Workers in use are never asked to leave.

        One request after the other: a session that gives up sends the old number right behind its own.
        """
        async with self._scaling:
            return await self._scale(workers)

    async def _scale(self, workers: int) -> str:
        self.last_active = time.time()
        most = int(self.setting("maxWorkers"))
        if workers < 0 or (most and workers > most):
            raise kube.KubeError("above-maximum", f"{workers} workers were asked for; this release allows 0 to {most}")
        cluster = kube.Cluster(self.environ)
        if workers and await self._expired(cluster):
            raise kube.KubeError(
                "refused",
                f"this stack's time is over: it was given ttlHours = {self.setting('ttlHours'):g}. "
                "For more: 'pulumi config set ttlHours' with a larger number, and 'pulumi up'",
            )
        if self._shrinking is not None:
            self._shrinking.cancel()
            self._shrinking = None
        wanted = await asyncio.to_thread(cluster.wanted)
        workers = max(workers, len(self.busy))
        if workers >= wanted:
            if workers > wanted:
                await asyncio.to_thread(cluster.scale, workers)
                log(f"asked for {workers} workers instead of {wanted}")
            for worker in list(self.retiring):
                self.recall(worker)
        else:
            self._shrinking = self.later(self._shrink(cluster, workers))
            self._shrinking_to = workers
        return str(workers)

    async def _shrink(self, cluster: kube.Cluster, workers: int) -> None:
        """Let as many go as are too many, and lower the number once those alone are what Kubernetes takes."""
        try:
            deadline = self.loop.time() + self.retire_seconds
            told = False
            while True:
                found = [pod for pod in await asyncio.to_thread(cluster.pods) if not kube.leaving(pod)]
                pods = {pod["metadata"]["name"]: kube.ready(pod) for pod in found}
                ready = {name for name, is_ready in pods.items() if is_ready}
                busy = {worker.pod for worker in self.busy.values()} & pods.keys()
                stay = max(workers, len(busy))
                self._let_stay(stay, pods)
                late = self.loop.time() > deadline
                waiting = {worker.pod for worker in self.idle} & pods.keys()
                if busy <= ready and (late or (waiting <= ready and len(ready) <= stay)):
                    break
                if late and not told:
                    told = True
                    exposed = ", ".join(sorted(busy - ready))
                    log(f"waits to lower the number of workers: not ready, but in use: {exposed}")
                await asyncio.sleep(2.0)
            if busy:
                # More are ready only where one did not turn unready in time: where none but unready ones are taken,
                # those in use are safe.
                stay = max(stay, len(ready))
            await asyncio.to_thread(cluster.scale, stay)
            log(f"lowered the number of workers to {stay}")
        except kube.KubeError as error:
            log(f"could not lower the number of workers: {error}")

    def _let_stay(self, number: int, pods: Mapping[str, bool]) -> None:
        """Have that many of the connected workers go on, and no more unless they are in use: the unready ones go first.

        ``pods`` has which are ready; whose pod is not among them is on its way out already.
        """

        def unready_first(workers: Iterable[Worker]) -> list[Worker]:
            return sorted((worker for worker in workers if worker.pod in pods), key=lambda worker: pods[worker.pod])

        connected = sum(1 for worker in [*self.idle, *self.busy.values()] if worker.pod in pods)
        for worker in unready_first(self.idle)[: max(0, connected - number)]:
            log(f"{worker.pod} is let go: {number} workers are enough")
            self.retire(worker)
        for worker in unready_first(self.retiring)[::-1][: max(0, number - connected)]:
            self.recall(worker)  # a request for fewer came before this one

    def retire(self, worker: Worker) -> None:
        """Have it turn unready; it is called back if Kubernetes has not taken it in a while."""
        worker.enter("retiring")
        self.retiring[worker] = self.idle.pop(worker)
        worker.say(wire.encode(op="retire"))
        worker.call_back_after(self.retire_seconds)

    def recall(self, worker: Worker) -> None:
        """It is wanted after all."""
        if worker in self.retiring:
            log(f"{worker.pod} is called back")
            worker.enter("idle")
            self.idle[worker] = self.retiring.pop(worker)
            worker.say(wire.encode(op="recall"))
            self.serve()

    def _lowering(self) -> bool:
        return self._shrinking is not None and not self._shrinking.done()

    async def status(self) -> str:
        """How the workers stand, for a person who waits for them."""
        lowering = self._lowering()
        found = await asyncio.to_thread(kube.Cluster(self.environ).status)
        connected = len(self.idle) + len(self.busy)
        # The number that it is being lowered to: a plan is not to count on workers that are about to go.
        wanted = self._shrinking_to if lowering or self._lowering() else found.wanted
        return f"{wanted} {connected} {found.starting} {found.waiting}\t{found.text}\t{found.problem}"

    async def _expired(self, cluster: kube.Cluster) -> bool:
        """Whether ``ttlHours`` have passed since the release was first deployed."""
        hours = self.setting("ttlHours")
        if not hours:
            return False
        if self._created is None:
            self._created = await asyncio.to_thread(cluster.created)
        return idle.expired(time.time(), self._created, hours)

    async def watch_idleness(self) -> None:
        """Scale to nothing once no session has used a worker for ``idleMinutes``, or ``ttlHours`` are over."""
        seconds = float(self.environ.get("FUTURE_KUBERNETES_IDLE_CHECK_SECONDS", idle.CHECK_SECONDS))
        await asyncio.sleep(seconds * idle.SETTLE_CHECKS)
        if self._last_use and self.last_active == self.started:
            # No session has spoken since this start: what the workers remember counts, not the restart.
            self.last_active = self._last_use
            log(f"the workers were last used {time.time() - self.last_active:.0f} s ago")
        while True:
            await asyncio.sleep(seconds)
            if self.busy or self.queue:
                self.last_active = time.time()
                continue
            try:
                await self._let_go_unused()
            except kube.KubeError as error:
                log(f"could not scale to 0: {error}")

    async def _let_go_unused(self) -> None:
        cluster = kube.Cluster(self.environ)
        minutes = self.setting("idleMinutes")
        if idle.due(time.time(), self.last_active, minutes):
            reason = f"no session has used a worker for {minutes:g} minutes: scaling to 0 (idleMinutes)"
            self.last_active = time.time()  # ask again in as many minutes, not in a few seconds
        elif await self._expired(cluster):
            reason = f"the stack's {self.setting('ttlHours'):g} hours are over: scaling to 0 (ttlHours)"
        else:
            return
        if self._lowering():
            return
        wanted: int = await asyncio.to_thread(cluster.wanted)
        if wanted:
            log(reason)
            await self.scale(0)

    # What time does.

    async def watch(self) -> None:
        """Drop the workers in use that no longer acknowledge what is sent to them."""
        while True:
            await asyncio.sleep(wire.CHECK_SECONDS)
            for worker in list(self.busy.values()):
                worker.silent = worker.silent + 1 if wire.peer_is_silent(worker.socket) else 0
                if worker.silent == 2:
                    log(f"{worker.pod} has fallen silent")
                    self.fate(worker.id, "its network fell silent")
                    worker.drop()

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer /readyz and /metrics."""
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            request = await asyncio.wait_for(reader.readline(), 5.0)
            path = request.split(b" ")[1]
            known = {b"/readyz": "ok\n", b"/metrics": self.metrics()}
            body = known.get(path, "not found\n").encode()
            status = "200 OK" if path in known else "404 Not Found"
            head = (
                f"HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    def metrics(self) -> str:
        """State in the Prometheus text format."""
        draining = sum(1 for worker in self.busy.values() if self.pods[worker.pod].draining)
        return "".join(
            f"# TYPE future_kubernetes_{name} {kind}\n" + "".join(f"future_kubernetes_{name}{v}\n" for v in values)
            for name, kind, values in (
                (
                    "workers",
                    "gauge",
                    [
                        f'{{state="idle"}} {len(self.idle)}',
                        f'{{state="busy"}} {len(self.busy) - draining}',
                        f'{{state="draining"}} {draining}',
                    ],
                ),
                ("sessions", "gauge", [f" {len({worker.session_pid for worker in self.busy.values()})}"]),
                ("waiting", "gauge", [f" {len(self.queue)}"]),
                ("attached_total", "counter", [f" {self.attached_total}"]),
                ("lost_total", "counter", [f" {self.lost_total}"]),
            )
        )


def describe_end(status: int | None, *, oom: bool = False, limit_mib: int | None = None) -> str:
    """How an R process ended, in words; ``status`` is negative for a signal."""
    if oom:
        limit = f", limit {limit_mib} MiB" if limit_mib else ""
        return f"its R process was killed for want of memory (out of memory{limit})"
    if status is None:
        return "its R process closed the connection"
    if status < 0:
        return f"its R process was ended by signal {-status}"
    return f"its R process ended with exit status {status}"


def listen(port: int) -> socket.socket:
    """A socket for IPv6 and IPv4 together where the pod has both, else for IPv4."""
    with contextlib.suppress(OSError):
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


async def run(environ: dict[str, str]) -> None:
    """Serve until SIGTERM."""
    token = tls.read_token(Path(environ.get("FUTURE_KUBERNETES_TOKEN_FILE", "/etc/future-kubernetes/secret/token")))
    run_folder = Path(environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
    loop = asyncio.get_running_loop()
    # asyncio's own 256 KiB for each connection were most of the memory with 1,000 workers; a TLS record is 16 KiB.
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
    # Where the container's soft limit is 1,024 files (containerd 2 under systemd), 1,000 workers would be too many.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    hub = Broker(loop, environ)
    workers = await loop.create_server(
        lambda: Worker(hub),
        sock=listen(int(environ.get("FUTURE_KUBERNETES_PORT", wire.PORT))),
        ssl=tls.context(token, server=True),
        ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        backlog=1024,
    )
    sessions = await loop.create_server(
        lambda: Session(hub),
        "127.0.0.1",
        int(environ.get("FUTURE_KUBERNETES_SESSION_PORT", wire.SESSION_PORT)),
        backlog=1024,
    )
    http = await asyncio.start_server(
        hub.http, sock=listen(int(environ.get("FUTURE_KUBERNETES_HTTP_PORT", wire.HTTP_PORT)))
    )
    ports = {
        name: server.sockets[0].getsockname()[1]
        for name, server in (("workers", workers), ("sessions", sessions), ("http", http))
    }
    # Its presence tells Rprofile.site that this R runs beside a broker: RStudio's sessions get no environment.
    temporary = run_folder / "broker.port.new"
    temporary.write_text(f"{ports['sessions']}\n")
    temporary.rename(run_folder / "broker.port")
    log(f"listening: {ports}")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hub.later(hub.watch())
    hub.later(hub.watch_idleness())
    await stop.wait()


def main() -> None:
    """Run the broker with the container's environment."""
    try:
        asyncio.run(run(dict(os.environ)))
    except (tls.TokenError, OSError) as error:
        raise SystemExit(f"broker: {error}") from None


if __name__ == "__main__":
    main()
