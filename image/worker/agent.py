"""The worker's agent: keeps one R process, gives it the tasks that the broker sends, and reports how they end.

It is the first process of the worker's container: it starts R, reaps orphans and answers the probes. duty.py turns
SIGTERM into an orderly end. The agent knows nothing of futures: a task and its result are bytes. In attach mode it
joins its R to an R session, and R's own stream passes through unread.

A running R and a result that the broker has not acknowledged survive the loss of the broker's connection.

Environment: FUTURE_KUBERNETES_SCHEDULER (name of the scheduler's service, required), FUTURE_KUBERNETES_RELEASE,
POD_NAME, NODE_NAME.
For tests: FUTURE_KUBERNETES_{PORT,TOKEN_FILE,HTTP_PORT,R}.
"""

from __future__ import annotations

import os
import select
import time
from typing import Any, NoReturn

from ..common import cgroup, protocol, tls, wire
from ..common.blob import Blob
from .attach import attach
from .channel import Channel, ChannelError
from .dialer import Dialer
from .duty import FAREWELL_SECONDS, Duty
from .line import Line
from .log import log
from .probes import Attendant
from .r_process import Children, RProcess
from .reports import Reports
from .session_r import SessionR
from .work import Work, said


class Agent:
    """The worker's life: keep an R ready, stay connected, run tasks, and be attached to sessions."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._dialer = Dialer(environ)
        self._http_port = int(environ.get("FUTURE_KUBERNETES_HTTP_PORT", wire.HTTP_PORT))
        self._children = Children()
        self._r = SessionR(environ.get("FUTURE_KUBERNETES_R", ""), self._children)
        self._line = Line(self._dialer)
        self._reports = Reports(self._line)
        self._duty = Duty(self._dialer, self._line, self._children, self._r.abandon)
        self._dial_at = 0.0

    # The broker's connection.

    def _connect(self) -> float:
        """Dial once; seconds to pause after a failure, 0 after success."""
        self._duty.dialling()
        pause = self._line.dial(self._duty.work, self._r.session, self._duty.unused())
        if not pause:
            self._duty.connected()
            if self._duty.work is not None:
                self._reports.missing_package(self._duty.work)  # the answer may have been lost with the last connection
        return pause

    # The loop.

    def _serve(self) -> None:
        """Serve until R cannot be started."""
        while True:
            if self._r.process is None:
                self._r.start()
            if self._line.channel is None and time.monotonic() >= self._dial_at:
                self._dial_at = time.monotonic() + self._connect()
            self._send_what_is_due()
            self._wait()
            self._hear_r()
            self._hear_broker()

    def _wait(self) -> None:
        """Wait for the broker, R, the end of a process, or the next thing that is due."""
        _, link = self._r.running
        poller = select.poll()
        poller.register(link.socket, select.POLLIN)
        poller.register(self._children.woken, select.POLLIN)
        seconds = 3600.0
        line = self._line.channel
        if line is None:
            seconds = max(0.0, self._dial_at - time.monotonic())
        else:
            poller.register(line.socket, select.POLLIN)
            if self._duty.stopping:
                seconds = FAREWELL_SECONDS
            if self._duty.work is not None:
                seconds = min(wire.CHECK_SECONDS, self._reports.seconds())
                if line.silent():
                    self._line.close()
                    self._duty.disconnected()
        poller.poll(seconds * 1000)
        self._children.clear()

    def _send_what_is_due(self) -> None:
        self._duty.say_farewell()
        if self._duty.work is not None:
            self._reports.send_due(self._duty.work, self._r.process)

    # R's side.

    def _hear_r(self) -> None:
        """Take what R has sent; notice its end by its process, as others may hold its end of the socket open."""
        r, link = self._r.running
        ended = r.wait(0) is not None
        try:
            link.fill()
            while (line := link.line()) is not None:
                self._r_said(link, line)
        except (ChannelError, ValueError, IndexError) as error:
            if not ended and not isinstance(error, ChannelError):
                log(f"R broke the protocol: {error!r}")
            ended = True
        if ended:
            self._r_ended(r)

    def _r_said(self, link: Channel, line: bytes) -> None:
        word, body = said(link, line)
        work = self._duty.work
        if work is None or work.result is not None:
            return
        if word == "condition":
            if body is not None:
                self._reports.condition(work, body)
            return
        if word == "want":
            work.looks_for = b"".join(body.pieces()).decode() if body is not None else ""
            self._reports.missing_package(work)
            return
        if body is None:
            work.ended("unkept", Blob.of(b"the disk of the worker's pod is full: no room for the result"))
        elif word == "value":
            work.values.append((body.hash(), body))
        else:
            work.ended(word, body)

    def _r_ended(self, r: RProcess) -> None:
        status, oom, tail = r.wait(2.0), cgroup.oom_kills() > r.oom_before, r.tail()
        limit = cgroup.memory_limit_mib() if oom else None
        self._r.stop()
        work = self._duty.work
        if work is None or work.result is not None:
            log(f"R ended with status {status} while it waited; starting another")
            return
        log(f"R ended with status {status} in use" + (", out of memory" if oom else ""))
        self._duty.finish()
        self._reports.ended(work, status, oom, limit, tail)
        self._duty.go_if_told()

    # The broker's side.

    def _hear_broker(self) -> None:
        line = self._line.channel
        if line is None:
            if self._duty.state != "starting":
                self._duty.disconnected()
            return
        try:
            line.fill()
            while self._line.channel is line and (text := line.line()) is not None:
                self._broker_said(line, wire.decode(text))
        except (ChannelError, ValueError, KeyError) as error:
            if not isinstance(error, ChannelError):
                log(f"the broker broke the protocol: {error!r}")
                self._dial_at = time.monotonic() + protocol.RETRY_SECONDS  # it may do so again at once
            self._line.close()
            self._duty.disconnected()

    def _broker_said(self, line: Channel, message: dict[str, Any]) -> None:
        operation, work = message["op"], self._duty.work
        if operation == "task":
            self._take_task(line, message)
        elif operation == "object":
            evicted = self._r.receive(line, str(message["session"]), str(message["id"]), int(message["size"]))
            self._reports.evicted(evicted)
        elif operation == "forget":
            self._r.objects.forget(str(message["id"]))
        elif operation == "need":
            if work is not None and work.id == message["id"]:
                self._reports.values(work, message["ids"])
        elif operation == "have":
            self._take_package(line, message)
        elif operation == "ack":
            if work is not None and work.id == message["id"] and work.result is not None:
                self._duty.finish()
                self._duty.go_if_told()
        elif operation == "cancel":
            if work is not None and work.id == message["id"] and work.result is None:
                self._end_cancelled(work)
        elif operation == "reset":
            self._r.release(busy=work is not None)
        elif operation in ("retire", "reinstate"):
            # Unready, so that Kubernetes deletes this pod before one in use; ready again if it does not.
            self._duty.state = "retiring" if operation == "retire" else "idle"
        elif operation == "leave":
            self._duty.leave("leaving")
        elif operation == "attach":
            self._attach(line, str(message["id"]))
        else:
            raise ValueError(f"unknown operation {operation!r}")

    def _end_cancelled(self, work: Work) -> None:
        self._r.stop()
        self._duty.finish()
        self._reports.ended(work)
        self._duty.go_if_told()

    def _take_task(self, line: Channel, message: dict[str, Any]) -> None:
        """Pass a task's bytes on to R as they come, or in a file; if that is not possible, read and drop them."""
        work = Work(str(message["id"]), str(message["session"]), int(message["pid"]))
        self._duty.begin(work)
        self._r.bind(work.session, int(message.get("libraries", 0)))
        self._reports.begin()
        self._reports.evicted(self._r.use(message.get("needs", ())))
        r, link = self._r.running
        r.begin_task()
        work.give(line, link, int(message["size"]), r.folder)

    def _take_package(self, line: Channel, message: dict[str, Any]) -> None:
        """Keep a package that R waits for, and say so; or pass on the list of them."""
        name = str(message["name"])
        answer = self._r.library.receive(line, name, int(message["size"])) or str(message["reason"]).encode()
        work, link = self._duty.work, self._r.link
        if work is not None and link is not None and work.id == message["id"] and work.looks_for == name:
            work.looks_for = None
            link.send(b"have %d\n%b" % (len(answer), answer))

    # Attach mode.

    def _attach(self, line: Channel, lease: str) -> None:
        """Join R to the session that the broker names, until either ends."""
        self._r.refresh()
        r, link = self._r.running
        self._duty.begin_lease(lease)
        try:
            attach(line, r, link, lease, self._dialer)
        except ChannelError as error:
            log(f"could not be attached: {error}")
        finally:
            self._line.close()
            self._duty.state = "starting"
            self._r.stop()
            self._duty.end_lease()

    def run(self) -> NoReturn:
        """Serve until SIGTERM."""
        Attendant(self._http_port, self._duty.probed, self._duty.signalled).start()
        failures = 0
        while True:
            began = time.monotonic()
            try:
                self._serve()
            except OSError as error:
                log(str(error))
                failures = 1 if time.monotonic() - began > 60 else failures + 1
                self._duty.work = None
                self._line.close()  # the broker gives what it had for this worker to another
                self._duty.state = "starting"
                time.sleep(min(30.0, 2.0**failures))


def main() -> None:
    """Run the agent with the container's environment."""
    try:
        Agent(dict(os.environ)).run()
    except tls.TokenError as error:
        raise SystemExit(f"future-worker: {error}") from None


if __name__ == "__main__":
    main()
